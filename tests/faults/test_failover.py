"""A worker is killed after it had failed over to a second provider: no message is accepted by both."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from scheduler.clock import SystemClock
from tests.fixtures.failover import assert_no_key_is_accepted_by_both, kill_after_failover, two_providers
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.programs import programs
from tests.fixtures.scale import scaled
from tests.fixtures.sink import running_sink
from tests.fixtures.waiting import wait_until

MESSAGES: Final = scaled(200, 20_000)
BATCH: Final = scaled(20, 500)


def test_what_a_killed_worker_gave_to_the_backup_is_given_to_nobody_else(
    engine: Engine, tmp_path: Path, database_url: str
) -> None:
    pipeline = Pipeline(engine, SystemClock(), batch_size=BATCH)
    pipeline.add_people_due_now(MESSAGES)
    with running_sink() as main, running_sink() as backup:
        settings = {"providers_file": two_providers(tmp_path, main, backup), "lease_seconds": 2}
        with programs(tmp_path, database_url, worker_threads=1, **settings) as running:
            is_sent = kill_after_failover(running, pipeline, main, backup, MESSAGES)
            wait_until(is_sent, "everything is sent", seconds=120)
        assert_no_key_is_accepted_by_both(pipeline, main, backup)
