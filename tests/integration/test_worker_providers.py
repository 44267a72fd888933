"""A whole worker with a file of providers, one of which refuses us: real clock, real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from scheduler.clock import SystemClock
from scheduler.settings import Settings
from scheduler.store import circuits
from tests.fixtures.answers import Answer
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.sink import Sink, running_sink
from tests.fixtures.waiting import wait_until
from worker.service import Worker

PROVIDERS = """
[providers.main]
kind = "http"
url = "{main}"
headers = {{ Authorization = {{ env = "KEY" }} }}
concurrency = 8
[providers.backup]
kind = "http"
url = "{backup}"
messages_per_second = 1000
[channels.email]
providers = ["main", "backup"]
"""


@pytest.fixture
def main() -> Iterator[Sink]:
    with running_sink() as sink:
        sink.answer_by = lambda _: Answer(status=401)
        yield sink


@pytest.fixture
def backup() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture
def pager() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@contextmanager
def running(settings: Settings, engine: Engine) -> Iterator[None]:
    """A worker in a thread of this process."""
    stop = Event()
    worker = Worker(settings, engine, SystemClock(), stop)
    thread = Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def states(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return {each.provider: each.state for each in circuits.all_circuits(connection)}


def test_a_worker_fails_over_tells_people_and_shows_its_circuits(
    engine: Engine, tmp_path: Path, main: Sink, backup: Sink, pager: Sink
) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(PROVIDERS.format(main=main.url, backup=backup.url))
    settings = Settings(
        providers_file=file,
        alert_url=SecretStr(pager.url),
        secret_key=SecretStr("k" * 32),
        public_url=main.url,
    ).read_from({}, {"KEY": "Bearer canary"})
    pipeline = Pipeline(engine, SystemClock())
    pipeline.add_people_due_now(300)
    with running(settings, engine):

        def all_is_sent() -> bool:
            pipeline.enqueue()  # what was refused is due again, for the next provider
            return pipeline.states() == {"sent": 300}

        wait_until(all_is_sent, "all is sent")
        wait_until(lambda: pager.counts["requests"], "people are told")
        wait_until(
            lambda: states(engine) == {"main": "open", "backup": "closed", "inbox": "closed"}, "it shows"
        )
    assert states(engine) == {}
    assert main.requests[0].headers["authorization"] == "Bearer canary"
    assert len(main.requests) <= 8  # those in flight when the first was refused
    assert set(backup.ledger.accepted.values()) == {1}
    assert pager.counts["requests"] == 1
    assert "provider main refuses us (http_401)" in orjson.loads(pager.requests[0].body)["text"]
