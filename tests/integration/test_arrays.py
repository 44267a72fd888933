"""Arrays in binary form: PostgreSQL reads what was written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, text

from scheduler.store.arrays import Bigints, Instants

_ECHO = text("""
SELECT CAST(:numbers AS bigint[]) AS numbers, CAST(:instants AS timestamptz[]) AS instants,
       pg_typeof(:numbers) = 'bigint[]'::regtype AND pg_typeof(:instants) = 'timestamptz[]'::regtype AS are_typed""")

_AT = datetime(2026, 11, 22, 9, 0, 0, 123456, UTC)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_arrays_arrive_as_they_were(engine: Engine, count: int) -> None:
    numbers = [(-1) ** place * (2**63 - 1 - place) for place in range(count)]
    instants = [_AT + timedelta(microseconds=place // 3) for place in range(count)]
    with engine.connect() as connection:
        parameters = {"numbers": Bigints(numbers), "instants": Instants(instants)}
        found = connection.execute(_ECHO, parameters).one()
    assert (found.numbers, found.instants, found.are_typed) == (numbers, instants, True)


def test_instants_of_any_zone_before_and_after_the_epoch(engine: Engine) -> None:
    instants = [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999999, UTC),
        _AT.astimezone(timezone(timedelta(hours=14))),
    ]
    with engine.connect() as connection:
        parameters = {"numbers": Bigints(), "instants": Instants(instants)}
        assert connection.execute(_ECHO, parameters).one().instants == instants
