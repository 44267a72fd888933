"""Batches: what waits, what is under way and by whom, what is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.answers import json_answer
from api.endpoint import endpoint
from api.models.batches import BatchListAnswer, BatchListQuery, OneBatchAnswer
from api.queries import InvalidQuery, NoQuery, from_cursor, read_query, to_cursor, unknown_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.clock import as_utc
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.errors import NotFound
from scheduler.store import batch_lists, occasions
from scheduler.store.batch_lists import After, BatchFilter, BatchList, StoredBatch

batches = Blueprint("batches", __name__, url_prefix="/api/v1/batches")

_COUNTS: Final = ("sent", "retried", "dead", "expired", "cancelled")
_LARGEST_ID: Final = 2**63 - 1


@batches.get("")
@endpoint(
    Scope.OPERATIONS_READ,
    query=BatchListQuery,
    answers={200: BatchListAnswer},
    errors=(HTTPStatus.BAD_REQUEST,),
)
def list_batches() -> Response:
    """A page of the batches of one state. A batch that moves on between two pages is not shown again.

    It may hold fewer than `limit`, even none, where matches are rare: only a page whose `next_cursor` is null is the
    last.
    """
    query = read_query(BatchListQuery)
    after = _after(query.state, query.cursor)
    with services().reading() as connection:
        wanted = BatchFilter(_occasion_id(connection, query.occasion), query.channel)
        page = batch_lists.page(connection, tenant_id(), query.state, wanted, after=after, most=query.limit)
        keys = _occasion_keys(connection, page.batches)
    next_cursor = _cursor(query.state, page.next) if page.next is not None else None
    listed = [_as_json(batch, keys) for batch in page.batches]
    return json_answer({"batches": listed, "next_cursor": next_cursor})


@batches.get("/<identity:batch_id>")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: OneBatchAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_batch(batch_id: int) -> Response:
    """A batch with its counts, its lease and the users it was made for."""
    read_query(NoQuery)
    with services().reading() as connection:
        batch = batch_lists.find(connection, tenant_id(), batch_id)
        if batch is None:
            raise NotFound("batch", batch_id)
        user_ids = batch_lists.user_ids(connection, tenant_id(), batch_id)
        keys = _occasion_keys(connection, [batch])
    return json_answer({"batch": _as_json(batch, keys) | {"user_ids": user_ids}})


def _occasion_id(connection: Connection, key: str | None) -> int | None:
    if key is None:
        return None
    found = occasions.find(connection, tenant_id(), key)
    if found is None:
        raise InvalidQuery([FieldError("/occasion", "is not the key of an occasion")])
    return found.id


def _cursor(which: BatchList, last: After) -> str:
    return to_cursor(f"batch-{which}", f"{last.instant.isoformat()}/{last.id}")


def _after(which: BatchList, cursor: str | None) -> After | None:
    """The place that a cursor of this list names."""
    if cursor is None:
        return None
    instant, _, batch_id = from_cursor(f"batch-{which}", cursor).partition("/")
    try:
        after = After(as_utc(datetime.fromisoformat(instant)), int(batch_id))
    except (ValueError, OverflowError):
        raise unknown_cursor() from None
    if not 0 < after.id <= _LARGEST_ID:
        raise unknown_cursor()
    return after


def _occasion_keys(connection: Connection, shown: Sequence[StoredBatch]) -> dict[int, str]:
    found = occasions.by_id(connection, sorted({batch.occasion_id for batch in shown}))
    return {occasion.id: occasion.key for occasion in found.values()}


def _as_json(batch: StoredBatch, occasion_keys: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id": batch.id,
        "state": batch.state,
        "held": batch.held,
        "occasion": occasion_keys.get(batch.occasion_id),
        "local_date": batch.local_date,
        "slot": batch.slot,
        "channel": batch.channel,
        "priority": batch.priority,
        "send_at": batch.send_at,
        "due_at": batch.due_at,
        "enqueued_at": batch.enqueued_at,
        "lease_expires_at": batch.lease_expires_at,
        "leased_by": batch.leased_by,
        "lease_token": batch.lease_token,
        "finished_at": batch.finished_at,
        "created_at": batch.created_at,
        "attempt": batch.attempt,
        "max_attempts": batch.max_attempts,
        "provider": batch.provider,
        "messages": batch.messages,
        "counts": {name: getattr(batch, f"{name}_count") for name in _COUNTS},
    }
