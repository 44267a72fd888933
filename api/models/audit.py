"""The audit log as callers see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from api.models.answer import Answer
from api.models.words import Instant, Word
from api.queries import NoQuery, PageQuery


class AuditExportQuery(NoQuery):
    """Which entries are meant. `at_from` is included, `at_until` is not."""

    actor: Word | None = None
    action: Word | None = None
    kind: Word | None = None
    subject: Word | None = None
    at_from: Instant | None = None
    at_until: Instant | None = None


class AuditListQuery(AuditExportQuery, PageQuery):
    """Which entries to list."""


class AuditEntryAnswer(Answer):
    """What somebody did. `before` and `after` hold the fields that it changed; null: there was or is nothing."""

    id: int
    at: datetime
    actor: str
    """`key:` and the id of an API key, `jwt:` and a token's subject, or a word such as `cli` or `recipient`."""
    address: str | None
    request_id: str | None
    action: str
    kind: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditListAnswer(Answer):
    """A page of the audit log, the newest entry first."""

    entries: list[AuditEntryAnswer]
    next_cursor: str | None
