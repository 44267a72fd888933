"""Which providers there are and which channel uses which, in what order: as one process has read it.

What an option means is for the adapter of its kind to say (`worker/channels/`); here are the parts that are
the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.domain.occasion import Channel


class UnknownOutcome(StrEnum):
    """What becomes of a message that may or may not have been accepted."""

    RESEND = "resend"
    """It is tried again under the same key: right for providers that honour idempotency keys."""

    HOLD = "hold"
    """It becomes a dead letter `outcome_unknown`, for a person to decide on."""


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """One provider: its adapter or preset, and what it was given.

    `options` are values as TOML has them, secrets as `SecretStr`. `messages_per_second` holds for all processes
    together, `concurrency` (requests in flight) for each process; None: no limit of ours. A `sandbox` writes to
    the outbox instead of sending.
    """

    name: str
    kind: str
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    messages_per_second: float | None = None
    concurrency: int | None = None
    sandbox: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRoute:
    """The providers of a channel by name, the preferred one first; at least one."""

    providers: tuple[str, ...]
    unknown_outcome: UnknownOutcome = UnknownOutcome.RESEND


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """All providers by name, and the route of every channel."""

    providers: Mapping[str, ProviderEntry]
    routes: Mapping[Channel, ChannelRoute]

    def channels_of(self, provider: str) -> frozenset[Channel]:
        """The channels whose messages may go through a provider."""
        return frozenset(channel for channel, route in self.routes.items() if provider in route.providers)
