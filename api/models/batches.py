"""Batches as callers see them."""

from __future__ import annotations

from datetime import date, datetime

from pydantic import BaseModel

from api.models.words import Word
from api.queries import PageQuery
from scheduler.domain.batch import BatchState
from scheduler.domain.occasion import Channel, Priority
from scheduler.store.batch_lists import BatchList


class BatchListQuery(PageQuery):
    """Which batches to list. `held` are those that wait for their occasion to resume; they are not among `pending`."""

    state: BatchList = BatchList.PENDING
    occasion: Word | None = None
    channel: Channel | None = None


class BatchCountsAnswer(BaseModel):
    """What has become of a batch's messages, under all its leases together."""

    sent: int
    retried: int
    dead: int
    expired: int
    cancelled: int


class BatchAnswer(BaseModel):
    """A batch: a ticket for some messages of one occasion, local date, slot, channel and instant.

    `messages` is how many it was made for; some may have moved on to other batches since. `provider` is the one
    to which they may have been given at its latest claim.
    """

    id: int
    state: BatchState
    held: bool
    occasion: str | None
    local_date: date
    slot: int
    channel: Channel
    priority: Priority
    send_at: datetime
    due_at: datetime
    enqueued_at: datetime | None
    lease_expires_at: datetime | None
    leased_by: str | None
    lease_token: int
    finished_at: datetime | None
    created_at: datetime
    attempt: int
    max_attempts: int | None
    provider: str | None
    messages: int
    counts: BatchCountsAnswer


class BatchListAnswer(BaseModel):
    """A page of batches: in the order of their turn, but those that are done, the newest first.

    It may be short, even empty: only one whose `next_cursor` is null is the last.
    """

    batches: list[BatchAnswer]
    next_cursor: str | None


class BatchWithUsersAnswer(BatchAnswer):
    """A batch with the users it was made for."""

    user_ids: list[int]


class OneBatchAnswer(BaseModel):
    """A batch."""

    batch: BatchWithUsersAnswer
