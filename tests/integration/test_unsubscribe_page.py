"""The page that a message's link opens, and the one-click of a mailbox."""

from __future__ import annotations

import re
from typing import Final

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.links import LinkSigner
from scheduler.preferences import Preferences
from scheduler.settings import Settings
from tests.fixtures.api import add_user, api_client, problem
from tests.fixtures.pipeline import TENANT

KEY: Final = SecretStr("k" * 40)
ONE_CLICK: Final = {"List-Unsubscribe": "One-Click"}
BROWSER: Final = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    settings = Settings(api_authentication="none", secret_key=KEY, public_url="https://example.com")
    return create_app(settings, engine, clock).test_client()


@pytest.fixture
def preferences(engine: Engine, clock: SettableClock) -> Preferences:
    return Preferences(engine, clock)


class Recipient:
    """Somebody with a link in hand."""

    def __init__(
        self, client: FlaskClient, preferences: Preferences, channel: Channel = Channel.EMAIL
    ) -> None:
        self.id: int = add_user(client, 1)["id"]
        self.preferences = preferences
        self.occasion_id = preferences.occasion_id(TENANT, "birthday")
        url = LinkSigner(KEY, "https://example.com").unsubscribe_url(
            TENANT, self.id, channel, self.occasion_id
        )
        self.path = url.removeprefix("https://example.com")

    def ended(self) -> list[tuple[str, str | None]]:
        """What they get no more of."""
        return [(each.channel, each.occasion) for each in self.preferences.of_user(TENANT, self.id)]


@pytest.fixture
def recipient(client: FlaskClient, preferences: Preferences) -> Recipient:
    return Recipient(client, preferences)


def heading(response: TestResponse, status: int = 200) -> str:
    assert (response.status_code, response.content_type) == (status, "text/html; charset=utf-8")
    found = re.search(r"<h1[^>]*>(.*?)</h1>", response.text)
    assert found is not None
    return found[1]


def test_following_the_link_changes_nothing(client: FlaskClient, recipient: Recipient) -> None:
    """Mail scanners follow every link, some of them with HEAD."""
    assert client.head(recipient.path).status_code == 200
    page = client.get(recipient.path)
    assert heading(page) == "Would you like to unsubscribe?"
    assert recipient.ended() == []
    assert "“Birthday” e-mails" in page.text
    assert not any(word in page.text for word in ("Ann", "example.org", "<script"))


def test_the_page_is_kept_by_nobody_and_loads_nothing_foreign(
    client: FlaskClient, recipient: Recipient
) -> None:
    page = client.get(recipient.path)
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in page.headers
    links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        # Relative, so that they are found where the API is reached below a path.
        assert link.startswith("../static/")
        with client.get(link.removeprefix("..")) as found:
            assert found.status_code == 200


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_one_click_ends_the_messages_of_its_occasion(
    client: FlaskClient, recipient: Recipient, media_type: str
) -> None:
    """RFC 8058 §3.2 allows for both forms; no redirect, no cookie, and it may come twice."""
    for _ in range(2):
        response = client.post(recipient.path, data=ONE_CLICK, content_type=media_type)
        assert response.status_code == 200
    assert recipient.ended() == [("email", "birthday")]


def test_the_buttons_end_one_kind_or_all_and_take_it_back(client: FlaskClient, recipient: Recipient) -> None:
    for form, says, ended in (
        ({"unsubscribe": "occasion"}, "You will get no more “Birthday” e-mails", [("email", "birthday")]),
        ({"undo": "occasion"}, "You will get “Birthday” e-mails again", []),
        ({"unsubscribe": "channel"}, "You will get no more e-mails from us", [("email", None)]),
        (
            {"unsubscribe": "occasion"},
            "You will get no more e-mails from us",
            [("email", None), ("email", "birthday")],
        ),
        ({"undo": "channel"}, "You will get no more “Birthday” e-mails", [("email", "birthday")]),
    ):
        for _ in range(2):
            assert heading(client.post(recipient.path, data=form)) == says
            assert recipient.ended() == ended
    assert heading(client.get(recipient.path)) == "You will get no more “Birthday” e-mails"


def test_each_channel_has_its_words(client: FlaskClient, preferences: Preferences) -> None:
    recipient = Recipient(client, preferences, Channel.SMS)
    page = client.post(recipient.path, data={"unsubscribe": "channel"})
    assert heading(page) == "You will get no more text messages from us"
    assert recipient.ended() == [("sms", None)]


@pytest.mark.parametrize(
    "form", [{}, {"unsubscribe": "everything"}, {"List-Unsubscribe": "Yes"}, {"undo": ""}]
)
def test_a_form_that_says_nothing_changes_nothing(
    client: FlaskClient, recipient: Recipient, form: dict[str, str]
) -> None:
    problem(client.post(recipient.path, data=form), 400)
    problem(client.post(recipient.path, json=form), 400)
    assert recipient.ended() == []


def test_a_form_as_large_as_a_book_is_refused(client: FlaskClient, recipient: Recipient) -> None:
    problem(client.post(recipient.path, data=ONE_CLICK | {"x": "y" * 20_000}), 413)
    assert recipient.ended() == []


def forged(path: str) -> list[str]:
    return [
        path[:-1],
        path + "A",
        path.replace("email", "sms"),
        "/unsubscribe/x",
        "/unsubscribe/%00",
        "/unsubscribe/%ff",
    ]


def test_a_forged_link_is_not_found_whatever_is_wrong(client: FlaskClient, recipient: Recipient) -> None:
    answers = set()
    for path in forged(recipient.path):
        for response in (
            client.get(path, headers=BROWSER),
            client.post(path, data=ONE_CLICK, headers=BROWSER),
        ):
            assert heading(response, 404) == "This link does not work"
            answers.add(response.text)
        for response in (client.get(path), client.post(path, data=ONE_CLICK)):
            assert problem(response, 404)["detail"] == "this link is not valid"
    assert len(answers) == 1
    assert recipient.ended() == []


def test_without_a_key_there_are_no_links(engine: Engine, clock: SettableClock, recipient: Recipient) -> None:
    client = api_client(engine, clock)
    assert heading(client.get(recipient.path, headers=BROWSER), 404) == "This link does not work"


def test_the_link_of_somebody_deleted_still_works(client: FlaskClient, recipient: Recipient) -> None:
    client.delete(f"/api/v1/users/{recipient.id}")
    assert client.post(recipient.path, data=ONE_CLICK).status_code == 200
    assert add_user(client, 1)["id"] == recipient.id
    assert recipient.ended() == [("email", "birthday")]


def test_the_name_of_an_occasion_is_text_only(
    client: FlaskClient, recipient: Recipient, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE occasions SET name = '<b>&</b>' WHERE key = 'birthday'")
    assert "<b>&" not in client.get(recipient.path).text
    assert "“&lt;b&gt;&amp;&lt;/b&gt;”" in client.get(recipient.path).text
