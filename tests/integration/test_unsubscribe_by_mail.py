"""From the message in a mailbox to the message that is never sent: one click, by the header of a real e-mail."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import Engine

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.provider_settings import ProviderEntry
from scheduler.service import links_for
from scheduler.settings import Settings
from scheduler.store.batches import Counts
from tests.fixtures.mail_servers import HOST, mail_server
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from worker.channels.context import ProviderContext
from worker.channels.port import Provider
from worker.channels.smtp import build
from worker.rendering import Renderer

SETTINGS = Settings(
    api_authentication="none", secret_key=SecretStr("k" * 40), public_url="https://example.com"
)


def deliver_due(pipeline: Pipeline, relay: Provider) -> Counts:
    assert pipeline.enqueue() == 1
    return pipeline.deliverer(relay, Renderer(links_for(SETTINGS))).deliver(pipeline.lease(), Signal())


def test_a_click_in_the_mailbox_ends_what_comes_next_year(engine: Engine) -> None:
    clock = SettableClock(NINE)
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(2)
    client = create_app(SETTINGS, engine, clock).test_client()
    with mail_server() as server, ExitStack() as stack:
        options = {"host": HOST, "port": server.port, "tls": "none", "from_address": "hello@example.com"}
        context = ProviderContext(clock, engine, SETTINGS.outbox_file)
        relay = build(ProviderEntry("relay", "smtp", options), context)
        stack.callback(relay.close)
        assert deliver_due(pipeline, relay) == Counts(sent=2)
        mail = next(mail for mail in server.mails if mail.recipients == ("ann1@example.org",))
        assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = re.fullmatch(r"<https://example\.com(/\S+)>", mail.message["List-Unsubscribe"])
        assert link is not None
        assert client.post(link[1], data={"List-Unsubscribe": "One-Click"}).status_code == 200

        clock.set(NINE.replace(year=2028) - timedelta(hours=25))
        pipeline.plan(clock.now())
        clock.set(NINE.replace(year=2028))
        assert deliver_due(pipeline, relay) == Counts(sent=1, cancelled=1)
        assert [mail.recipients for mail in server.mails[2:]] == [("ann0@example.org",)]
    [row] = pipeline.rows("SELECT reason FROM message_log WHERE CAST(state AS text) = 'cancelled'")
    assert row.reason == "unsubscribed"
