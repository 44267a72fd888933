"""Kept connections that read one row: whose rows they see, and what they do when the server has ended them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError

from scheduler.store import tenants
from scheduler.store.readers import Readers, SingleRow

WHO = SingleRow(
    "who", text("SELECT pg_backend_pid() AS pid, current_setting('daybreak.tenant_id', true) AS tenant")
)
NONE = SingleRow("none", text("SELECT 1 AS one WHERE CAST(:wanted AS integer) = 2"))


def test_a_connection_is_kept_and_names_the_tenant_of_each_read(engine: Engine) -> None:
    tenants.keep_apart(engine, lambda: None)
    readers = Readers(engine)
    found = [readers.one_or_none(WHO, tenant_id) for tenant_id in (1, 1, 2, 1)]
    assert [row.tenant for row in found] == ["1", "1", "2", "1"]
    assert len({row.pid for row in found}) == 1
    with engine.connect() as connection:  # what the pool lends meanwhile names what it is to
        assert connection.execute(
            text("SELECT current_setting('daybreak.tenant_id', true)")
        ).scalar_one() in (
            "",
            None,
        )
    assert readers.one_or_none(NONE, 1, wanted=3) is None


def test_a_connection_that_has_ended_is_replaced_and_all_are_closed_with_the_engine(engine: Engine) -> None:
    readers = Readers(engine)
    first = readers.one_or_none(WHO, 1).pid
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": first})
    second = readers.one_or_none(WHO, 1).pid
    assert second != first
    engine.dispose()
    assert readers.one_or_none(WHO, 1).pid != second


def test_when_the_server_has_ended_all_kept_connections_a_read_notices_nothing(engine: Engine) -> None:
    readers = Readers(engine)
    slow = SingleRow("slow_who", text("SELECT pg_backend_pid() AS pid, pg_sleep(0.05)"))
    with ThreadPoolExecutor(3) as threads:
        ended = {row.pid for row in threads.map(lambda _: readers.one_or_none(slow, 1), range(6))}
    with engine.connect() as connection:
        for pid in ended:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    assert len(ended) > 1
    assert readers.one_or_none(WHO, 1).pid not in ended


def test_an_error_is_the_one_that_sqlalchemy_raises_and_harms_no_later_read(engine: Engine) -> None:
    readers = Readers(engine)
    with pytest.raises(DataError):
        readers.one_or_none(NONE, 1, wanted="no number")
    assert readers.one_or_none(NONE, 1, wanted=2).one == 1


def test_what_the_driver_throws_away_is_prepared_anew(engine: Engine) -> None:
    readers = Readers(engine)
    readers._most_kept = 0  # so that its connection is lent to others in between
    pid = readers.one_or_none(WHO, 1).pid
    with engine.connect() as connection, connection.begin() as transaction:
        for number in range(10):
            connection.execute(text("SELECT CAST(:number AS integer)"), {"number": number})
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() == pid
        transaction.rollback()
    assert readers.one_or_none(WHO, 1).pid == pid


def test_no_more_than_half_of_the_pool_is_kept(engine: Engine) -> None:
    readers = Readers(engine)
    slow = SingleRow("slow", text("SELECT count(*) AS one FROM generate_series(1, 100000)"))
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda _: readers.one_or_none(slow, 1), range(30)))
    assert engine.pool.checkedout() <= 5  # type: ignore[attr-defined]
