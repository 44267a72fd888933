"""Identities of messages as parameters of statements, and back from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel


def key_columns(keys: Sequence[MessageKey]) -> dict[str, Any]:
    """Keys, at least one, column by column, and the range of their local dates, which names their partitions."""
    local_dates = [key.local_date for key in keys]
    return {
        "user_ids": [key.user_id for key in keys],
        "local_dates": local_dates,
        "occasion_ids": [key.occasion_id for key in keys],
        "slots": [key.slot for key in keys],
        "channels": [key.channel.value for key in keys],
        "date_first": min(local_dates),
        "date_last": max(local_dates),
    }


def single_key(tenant_id: int, key: MessageKey) -> dict[str, Any]:
    """One key of a tenant's, for statements about the messages of a batch and for those about one message."""
    return {
        "tenant_id": tenant_id,
        "user_id": key.user_id,
        "user_ids": [key.user_id],
        "local_date": key.local_date,
        "occasion_id": key.occasion_id,
        "slot": key.slot,
        "channel": key.channel.value,
    }


def key_of(row: Row[Any]) -> MessageKey:
    """The key in a row's columns."""
    return MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel))
