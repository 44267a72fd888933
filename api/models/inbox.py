"""The inbox of a user as programs read it that show it."""

from __future__ import annotations

from datetime import date, datetime

from api.models.answer import Answer
from api.queries import PageQuery


class InboxQuery(PageQuery):
    """Which entries to list: all of them, or those that are unread."""

    unread: bool = False


class InboxEntryAnswer(Answer):
    """A message in a user's inbox."""

    id: int
    message_id: str
    occasion: str | None
    """The occasion's key."""
    local_date: date
    slot: int
    """Which of the occasion's times of day, counted from 0."""
    subject: str
    body: str
    html: str | None
    created_at: datetime
    read_at: datetime | None


class InboxAnswer(Answer):
    """A page of a user's inbox, the newest entry first."""

    entries: list[InboxEntryAnswer]
    unread_count: int
    """Of the whole inbox."""
    next_cursor: str | None


class ReadEntryAnswer(Answer):
    """An entry that has been read."""

    entry: InboxEntryAnswer
    unread_count: int
