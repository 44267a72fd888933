"""What holds for a delivery: an occasion's own rules, and the settings' for what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from scheduler.domain.occasion import AdHocRule, Channel, Occasion
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.retry import RetryPolicy
from scheduler.store.batches import LeasedBatch

_DISTURBING: Final = frozenset({Channel.EMAIL, Channel.SMS, Channel.PUSH})


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """The settings that hold for occasions which set nothing of their own."""

    lateness_limit: timedelta
    retry: RetryPolicy
    quiet_hours: QuietHours | None = None
    hold_channels: frozenset[Channel] = frozenset()
    """Where a message that may have been accepted is not sent again by itself, but becomes a dead letter."""

    def lateness_limit_of(self, occasion: Occasion) -> timedelta:
        """How late its messages may be."""
        return occasion.lateness_limit or self.lateness_limit

    def latest_at(self, occasion: Occasion, batch: LeasedBatch) -> datetime:
        """The last instant at which its messages may still be sent."""
        latest = batch.send_at + self.lateness_limit_of(occasion)
        rule = occasion.rule
        expires_at = rule.expires_at if isinstance(rule, AdHocRule) else None
        return latest if expires_at is None else min(latest, expires_at)

    def quiet_hours_of(self, occasion: Occasion, channel: Channel) -> QuietHours | None:
        """When its messages do not go out on that channel; what disturbs nobody goes at any time."""
        return (occasion.quiet_hours or self.quiet_hours) if channel in _DISTURBING else None

    def retry_of(self, occasion: Occasion, batch: LeasedBatch) -> RetryPolicy:
        """How often and how patiently its messages are tried; a replayed batch brings its own number."""
        retry = occasion.retry or self.retry
        return retry if batch.max_attempts is None else replace(retry, max_attempts=batch.max_attempts)

    def holds(self, channel: Channel) -> bool:
        """Whether an outcome that is not known is left to a person."""
        return channel in self.hold_channels
