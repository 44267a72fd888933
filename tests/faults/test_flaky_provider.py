"""A two-field e-mail service fails for one call in ten and hangs for one in twenty: nobody is written to twice."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from scheduler.clock import SystemClock
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.programs import programs
from tests.fixtures.scale import scaled
from tests.fixtures.sink import running_sink
from tests.fixtures.waiting import wait_until

MESSAGES: Final = scaled(1_500, 10_000)
ERRORS: Final = 0.10
HANGS: Final = 0.05

PROVIDERS: Final = """
[providers.flaky]
kind = "two-field-email"
endpoint = "{url}"
total_timeout_seconds = 2

[channels.email]
providers = ["flaky"]
"""


def test_every_message_is_accepted_once_and_none_is_dead(
    engine: Engine, tmp_path: Path, database_url: str
) -> None:
    pipeline = Pipeline(engine, SystemClock())
    for first in range(0, MESSAGES, 500):
        pipeline.add_people_due_now(500, first=first)
    with running_sink(keeps_requests=False, errors=ERRORS, hangs=HANGS) as sink:
        file = tmp_path / "providers.toml"
        file.write_text(PROVIDERS.format(url=sink.url.rstrip("/")))
        settings = {
            "providers_file": file,
            "retry_max_attempts": 12,
            "retry_cap_seconds": 5,
            "breaker_reset_seconds": 1,
        }
        with programs(tmp_path, database_url, **settings) as running:
            running.start("scheduler")
            running.start("worker")
            wait_until(lambda: pipeline.states() == {"sent": MESSAGES}, "all are sent", seconds=120)
        assert set(sink.ledger.accepted) == pipeline.keys_in("sent")
        assert sink.ledger.accepted.total() == MESSAGES
        assert sink.counts["requests"] > MESSAGES * 1.1
    assert pipeline.rows("SELECT 1 FROM dead_letters") == []
    failed = {row.category for row in pipeline.rows("SELECT DISTINCT category FROM delivery_attempts")}
    assert failed == {"http_500", "timeout"}
