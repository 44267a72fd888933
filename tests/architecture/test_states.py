"""The drawn state machines, the tables in the code, and the database's constraints say the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.batch import BATCH_TRANSITIONS, BatchState
from scheduler.domain.calendar import DateRule
from scheduler.domain.local_time import TimeRule
from scheduler.domain.message import MESSAGE_TRANSITIONS, MessageState
from scheduler.domain.occasion import Channel, Priority
from scheduler.domain.transition import Transition
from tests.architecture.sources import ROOT

Arrows = set[tuple[str, str, str]]
Row = dict[str, Any]

_DIAGRAM = re.compile(r"```mermaid\nstateDiagram-v2\n(.+?)```", re.DOTALL)
_ARROW = re.compile(r"^ {4}(\S+) --> (\S+) : (.+)$", re.MULTILINE)

MACHINES: dict[str, tuple[type[StrEnum], Mapping[Any, Transition[Any]]]] = {
    "batches": (BatchState, BATCH_TRANSITIONS),
    "message_log": (MessageState, MESSAGE_TRANSITIONS),
}
every_machine = pytest.mark.parametrize("table", MACHINES)


def drawn(table: str) -> Arrows:
    """The arrows between two states, as (from, event, to)."""
    diagrams = dict(
        zip(MACHINES, _DIAGRAM.findall((ROOT / "deploy/states.md").read_text("utf-8")), strict=True)
    )
    arrows = {(source, event, target) for source, target, event in _ARROW.findall(diagrams[table])}
    assert len(arrows) == len(diagrams[table].strip().splitlines())
    return {arrow for arrow in arrows if "[*]" not in arrow}


def written(transitions: Mapping[Any, Transition[Any]]) -> Arrows:
    """The arrows of a table of transitions."""
    return {
        (source.value, event.value, transition.target.value)
        for event, transition in transitions.items()
        for source in transition.sources
    }


@every_machine
def test_the_drawing_shows_the_table_and_nothing_else(table: str) -> None:
    assert drawn(table) == written(MACHINES[table][1])


@every_machine
def test_every_state_is_drawn_and_explained(table: str) -> None:
    states = {state.value for state in MACHINES[table][0]}
    assert {end for source, _, target in drawn(table) for end in (source, target)} == states
    tables = re.findall(
        r"^\| state \|.*\n\|[-|]+\n((?:\|.*\n)+)",
        (ROOT / "deploy/states.md").read_text("utf-8"),
        re.MULTILINE,
    )
    explained = dict(zip(MACHINES, tables, strict=True))[table]
    assert re.findall(r"^\| (\w+) \|", explained, re.MULTILINE) == [
        state.value for state in MACHINES[table][0]
    ]


@every_machine
def test_every_event_has_its_transition(table: str) -> None:
    _, transitions = MACHINES[table]
    events: type[StrEnum] = type(next(iter(transitions)))
    assert set(transitions) == set(events)


@pytest.mark.parametrize(
    ("name", "enum"),
    {
        "batch_state": BatchState,
        "message_state": MessageState,
        "channel": Channel,
        "priority": Priority,
        "date_rule": DateRule,
        "time_rule": TimeRule,
    }.items(),
)
def test_enums_are_the_same_in_the_database(engine: Engine, name: str, enum: type[StrEnum]) -> None:
    """In the same order, too: batches are leased in the order of their priorities."""
    with engine.connect() as connection:
        stored = connection.execute(text(f"SELECT unnest(enum_range(NULL::{name}))::text")).scalars()
        assert list(stored) == [member.value for member in enum]


AT = "2027-03-01T09:00:00Z"

MESSAGE: Row = {
    "user_id": 1,
    "send_at": AT,
    "accepted_at": None,
    "batch_id": None,
    "occasion_id": 1,
    "local_date": "2027-03-01",
    "channel": "email",
    "tenant_id": 1,
    "user_version": 1,
    "date_rule": "exact",
    "time_rule": "exact",
    "slot": 0,
    "attempt": 0,
    "timezone": "UTC",
    "reason": None,
}
BATCH: Row = {
    "send_at": AT,
    "due_at": AT,
    "enqueued_at": None,
    "lease_expires_at": None,
    "finished_at": None,
    "leased_by": None,
    "created_at": AT,
    "tenant_id": 1,
    "occasion_id": 1,
    "local_date": "2027-03-01",
    "channel": "email",
    "priority": "normal",
    "lease_token": 0,
    "sent_count": 0,
    "retried_count": 0,
    "dead_count": 0,
    "expired_count": 0,
    "cancelled_count": 0,
    "slot": 0,
    "attempt": 0,
    "user_ids": [1],
}

VALID: dict[str, dict[str, Row]] = {
    "message_log": {
        "scheduled": {},
        "sending": {"attempt": 1, "batch_id": 7},
        "retrying": {"attempt": 1},
        "sent": {"attempt": 1, "batch_id": 7, "accepted_at": AT},
        "delivered": {"attempt": 1, "batch_id": 7, "accepted_at": AT},
        "bounced": {"attempt": 1, "batch_id": 7, "accepted_at": AT},
        "dead": {"attempt": 5, "batch_id": 7, "reason": "http_503"},
        "cancelled": {"attempt": 1, "batch_id": 7, "reason": "user_deleted"},
        "expired": {"reason": "too_late"},
    },
    "batches": {
        "pending": {},
        "enqueued": {"enqueued_at": AT},
        "leased": {"enqueued_at": AT, "lease_expires_at": AT, "leased_by": "w", "lease_token": 1},
        "done": {"enqueued_at": AT, "leased_by": "w", "lease_token": 1, "finished_at": AT},
    },
}

WRONG: list[tuple[str, str, Row]] = [
    ("message_log", "scheduled", {"attempt": 1}),
    ("message_log", "scheduled", {"accepted_at": AT}),
    ("message_log", "scheduled", {"reason": "too_late"}),
    ("message_log", "sending", {"attempt": 0}),
    ("message_log", "sending", {"batch_id": None}),
    ("message_log", "sending", {"accepted_at": AT}),
    ("message_log", "retrying", {"attempt": 0}),
    ("message_log", "retrying", {"accepted_at": AT}),
    ("message_log", "sent", {"attempt": 0}),
    ("message_log", "sent", {"accepted_at": None}),
    ("message_log", "delivered", {"accepted_at": None}),
    ("message_log", "bounced", {"accepted_at": None}),
    *(("message_log", state, {"reason": None}) for state in ("dead", "cancelled", "expired")),
    *(("message_log", state, {"accepted_at": AT}) for state in ("dead", "cancelled", "expired")),
    ("batches", "pending", {"enqueued_at": AT}),
    ("batches", "pending", {"lease_expires_at": AT}),
    ("batches", "pending", {"finished_at": AT}),
    ("batches", "enqueued", {"enqueued_at": None}),
    ("batches", "enqueued", {"lease_expires_at": AT}),
    ("batches", "enqueued", {"finished_at": AT}),
    ("batches", "leased", {"lease_expires_at": None}),
    ("batches", "leased", {"leased_by": None}),
    ("batches", "leased", {"finished_at": AT}),
    ("batches", "done", {"finished_at": None}),
    ("batches", "pending", {"user_ids": []}),
    ("batches", "pending", {"user_ids": list(range(1, 502))}),
]


def insert(engine: Engine, table: str, state: str, changes: Row) -> None:
    row = {**(MESSAGE if table == "message_log" else BATCH), **VALID[table][state], **changes, "state": state}
    columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)
    with engine.begin() as connection:
        connection.execute(text(_PARTITION))
        connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), row)


_PARTITION = """
CREATE TABLE IF NOT EXISTS message_log_2027_03
PARTITION OF message_log FOR VALUES FROM ('2027-03-01') TO ('2027-04-01')"""


def test_each_state_takes_what_it_implies(engine: Engine) -> None:
    for table, states in VALID.items():
        assert set(states) == {state.value for state in MACHINES[table][0]}
        for number, state in enumerate(states):
            insert(engine, table, state, {"user_id": number} if table == "message_log" else {})


def test_each_state_refuses_what_contradicts_it(engine: Engine) -> None:
    for table, state, changes in WRONG:
        with pytest.raises(IntegrityError) as refused:
            insert(engine, table, state, changes)
        assert isinstance(refused.value.orig, CheckViolation), (table, state, changes)
