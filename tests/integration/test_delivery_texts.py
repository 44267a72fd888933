"""What recipients read: each in their language, from the log to the provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel, MessageText, Occasion
from scheduler.errors import InvalidInput
from scheduler.links import LinkSigner, UnsubscribeLink
from scheduler.store import occasions
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider
from tests.fixtures.statements import sent_directly
from worker.channels.port import OutgoingMessage
from worker.rendering import Renderer

LEAPLING = date(2004, 2, 29)


@pytest.fixture
def pipeline(engine: Engine) -> Pipeline:
    return Pipeline(engine, SettableClock(NINE))


def birthday(pipeline: Pipeline) -> Occasion:
    with pipeline.engine.connect() as connection:
        found = occasions.find(connection, TENANT, "birthday")
    assert found is not None
    return found


def save(pipeline: Pipeline, **changes: object) -> None:
    pipeline.edits.save(replace(birthday(pipeline), **changes), now=NINE)  # type: ignore[arg-type]


def store_unchecked(pipeline: Pipeline, **changes: object) -> None:
    """As an older release may have left it."""
    with pipeline.engine.begin() as connection:
        assert occasions.change(connection, replace(birthday(pipeline), **changes), now=NINE)  # type: ignore[arg-type]


def delivered(pipeline: Pipeline, renderer: Renderer | None = None) -> list[OutgoingMessage]:
    """What the provider is given of what is due now, in the order of the users."""
    provider = ScriptedProvider()
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(provider, renderer).deliver(pipeline.lease(), Signal())
    return sorted(provider.received, key=lambda message: MessageKey.parse(message.id).user_id)


def test_each_reader_gets_their_language_with_age_and_date(pipeline: Pipeline) -> None:
    age = "{{ dates.birthday | age | ordinal }}"
    born = "{{ dates.birthday | date }}"
    save(
        pipeline,
        body=f"Happy {age} birthday, {{{{ first_name }}}}! Born {born}.",
        translations={
            "de": MessageText("Alles Gute!", f"Alles Gute zum {age} Geburtstag! Geboren am {born}."),
            "pt": MessageText(
                "Parabéns!", f"Feliz {age} aniversário! Nascido em {born}.", "<p>{{ last_name }}"
            ),
        },
    )
    for number, locale in enumerate(("de-AT", "en-GB", "pt-BR", "fr")):
        pipeline.add_people(1, first=number, locale=locale, last_name="<Lee>")
    pipeline.plan(NINE)
    messages = delivered(pipeline)
    assert [(each.locale, each.subject, each.text, each.html) for each in messages] == [
        ("de-AT", "Alles Gute!", "Alles Gute zum 37. Geburtstag! Geboren am 1. März 1990.", None),
        ("en-GB", "Happy birthday", "Happy 37th birthday, Ann1! Born 1 March 1990.", None),
        (
            *("pt-BR", "Parabéns!", "Feliz 37º aniversário! Nascido em 1 de março de 1990."),
            "<p>&lt;Lee&gt;",
        ),
        ("fr", "Happy birthday", "Happy 37e birthday, Ann3! Born 1 mars 1990.", None),
    ]


def test_somebody_born_on_29_february_has_their_age_on_the_day_they_celebrate(pipeline: Pipeline) -> None:
    save(pipeline, body="{{ dates.birthday | age }}")
    pipeline.add_people(1, dates={"birthday": LEAPLING}, preferred_time=None)
    clock = SettableClock(NINE.replace(month=2, day=28))
    earlier = Pipeline(pipeline.engine, clock)
    with pipeline.engine.begin() as connection:
        occasions.change(connection, replace(birthday(pipeline), planned_through=None), now=clock.now())
    earlier.plan(clock.now())
    assert [message.text for message in delivered(earlier)] == ["23"]


def test_a_text_that_fails_for_one_leaves_the_others_of_the_batch_alone(pipeline: Pipeline) -> None:
    store_unchecked(pipeline, body="{{ first_name }} of {{ attributes.city }}")
    with_city = pipeline.add_people(2, attributes={"city": "Köln"})
    [without] = pipeline.add_people(1, first=2, first_name="Canary")
    pipeline.plan(NINE)
    assert [message.text for message in delivered(pipeline)] == ["Ann0 of Köln", "Ann1 of Köln"]
    assert pipeline.states() == {"sent": 2, "dead": 1}
    [letter] = pipeline.rows("SELECT user_id, category, detail FROM dead_letters")
    assert tuple(letter) == (without, "text_error", "line 1: attributes.city is missing")
    assert len(with_city) == 2


def test_a_worker_reads_a_text_anew_for_each_batch(engine: Engine) -> None:
    """An erasure rewrites texts without a new version of their occasion."""
    pipeline = Pipeline(engine, SettableClock(NINE), batch_size=1)
    pipeline.add_due_people(3)
    assert pipeline.enqueue() == 3
    provider = ScriptedProvider()
    deliverer = pipeline.deliverer(provider)
    deliverer.deliver(pipeline.lease(), Signal())
    deliverer.deliver(pipeline.lease(), Signal())
    pipeline.execute("UPDATE occasions SET body = 'Erased'")
    deliverer.deliver(pipeline.lease(), Signal())
    assert [message.text == "Erased" for message in provider.received] == [False, False, True]


def test_links_to_unsubscribe_are_in_the_text_and_beside_it(pipeline: Pipeline) -> None:
    links = LinkSigner(SecretStr("k" * 32), "https://daybreak.example")
    save(pipeline, body="{{ unsubscribe_url }}")
    [user_id] = pipeline.add_due_people(1)
    [message] = delivered(pipeline, Renderer(links))
    assert message.unsubscribe_url == message.text
    token = message.text.rpartition("/")[2]
    assert links.read(token) == UnsubscribeLink(TENANT, user_id, Channel.EMAIL, birthday(pipeline).id)


def test_html_is_rendered_for_channels_that_show_it(pipeline: Pipeline) -> None:
    save(pipeline, html="<p>{{ first_name }}", channels=(Channel.EMAIL, Channel.SMS, Channel.IN_APP))
    pipeline.add_due_people(1)
    provider = ScriptedProvider()
    pipeline.enqueue()
    for channel in (Channel.EMAIL, Channel.SMS, Channel.IN_APP):
        pipeline.deliverer(provider).deliver(pipeline.lease(channel=channel), Signal())
    assert {each.channel: each.html for each in provider.received} == {
        Channel.EMAIL: "<p>Ann0",
        Channel.SMS: None,
        Channel.IN_APP: "<p>Ann0",
    }


@pytest.mark.parametrize(
    ("body", "reads_dates"), [("{{ full_name }}", False), ("{{ dates.birthday }}", True)]
)
def test_dates_are_read_only_for_texts_that_name_them(
    pipeline: Pipeline, body: str, reads_dates: bool
) -> None:
    save(pipeline, body=body)
    pipeline.add_due_people(1)
    with sent_directly() as seen:
        delivered(pipeline)
    statements = [statement.text for statement, _ in seen]
    assert _any_reads(statements, "FROM users")
    assert _any_reads(statements, "user_dates") is reads_dates


def _any_reads(statements: Sequence[str], table: str) -> bool:
    return any(table in statement for statement in statements)


def test_wrong_texts_are_refused_when_saved_and_nothing_is_stored(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidInput) as caught:
        save(pipeline, body="{{ attributes.city }}", translations={"de": MessageText("{{ nmae }}", "")})
    assert [error.pointer for error in caught.value.errors] == ["/body", "/translations/de/subject"]
    assert birthday(pipeline).version == 1


def test_an_occasion_whose_texts_are_wrong_can_still_be_paused(pipeline: Pipeline) -> None:
    store_unchecked(pipeline, body="{{ attributes.city }}")
    save(pipeline, active=False)
    assert not birthday(pipeline).active
    for changes in ({"active": True}, {"body": "{{ other }}"}):
        with pytest.raises(InvalidInput):
            save(pipeline, **changes)
