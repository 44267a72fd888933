"""Why an address is not written to."""

from __future__ import annotations

from enum import StrEnum


class SuppressionReason(StrEnum):
    """Why an address is on the suppression list."""

    BOUNCED = "bounced"
    """It does not exist, or takes nothing."""

    COMPLAINED = "complained"
    """Its owner has called a message spam."""

    UNSUBSCRIBED = "unsubscribed"
    """Its owner has asked a provider for no more messages."""

    MANUAL = "manual"
    """Somebody here has put it there."""
