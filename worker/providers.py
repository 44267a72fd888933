"""Builds the providers of a process from its plan, and what its threads share of them.

    channel ── failover ──┬── circuit ── rate ── adapter     a provider's adapter is each thread's own;
                          └── circuit ── rate ── adapter     circuit, rate and request slots are the process's

An adapter's module is imported when a provider of its kind is built: a worker without RabbitMQ, SMTP or cloud
services need not wait for what those import.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from loguru import logger
from sqlalchemy import Engine, create_engine

from scheduler.clock import Clock, SystemClock
from scheduler.domain.occasion import Channel
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ChannelRoute, ProviderEntry, ProviderPlan, UnknownOutcome
from worker.breaker import Circuit, CircuitListener, CircuitPolicy
from worker.channels.context import ProviderContext
from worker.channels.failover import FailoverProvider
from worker.channels.guarded import CircuitProvider
from worker.channels.limited import LimitedProvider, Rate
from worker.channels.outbox import OutboxProvider
from worker.channels.port import Provider
from worker.channels.slots import RequestSlots
from worker.holds import ProviderHolds

ADAPTERS: Final = {
    "http": "worker.channels.http_options",
    "smtp": "worker.channels.smtp",
    "webhook": "worker.channels.webhook",
    "inbox": "worker.channels.inbox",
}
"""The module of each adapter, with a `build` in it. `outbox` is built here, every other kind is a preset."""

OUTBOX: Final = "outbox"
PRESETS: Final = "worker.channels.presets"


class Build(Protocol):
    """Makes one provider from its entry; opens nothing. Raises ConfigurationError for its options."""

    def __call__(self, entry: ProviderEntry, context: ProviderContext) -> Provider:
        """The provider, for one thread."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the threads of a process have in common of one provider."""

    circuit: Circuit
    rate: Rate | None
    context: ProviderContext


class ProviderSet:
    """The providers of one process."""

    def __init__(
        self,
        plan: ProviderPlan,
        engine: Engine,
        clock: Clock,
        outbox_file: Path,
        policy: CircuitPolicy,
        listener: CircuitListener | None = None,
    ) -> None:
        """Raises ConfigurationError for a kind that there is not; options are checked as a thread's are built."""
        self._plan = plan
        self._clock = clock
        self._holds = ProviderHolds(engine, clock)
        used = {name for route in plan.routes.values() for name in route.providers}
        for name in sorted(set(plan.providers) - used):
            logger.bind(provider=name).warning("provider_unused")
        self._builds = {name: build_for(entry) for name, entry in plan.providers.items() if name in used}
        self._shared = {
            name: _Shared(
                Circuit(name, clock, policy, listener),
                _rate(plan.providers[name], engine, clock),
                ProviderContext(clock, engine, outbox_file, _slots(plan.providers[name])),
            )
            for name in self._builds
        }

    @property
    def circuits(self) -> list[Circuit]:
        """The circuits of all providers in use."""
        return [shared.circuit for shared in self._shared.values()]

    @property
    def described(self) -> str:
        """Each channel and its providers in order, such as `email=ses>smtp sms=twilio`; for the logs."""
        return " ".join(f"{channel}={'>'.join(self._route(channel).providers)}" for channel in self.channels)

    @property
    def channels(self) -> list[Channel]:
        """The channels that have a provider, in the order of their definition."""
        return [channel for channel in Channel if channel in self._plan.routes]

    @property
    def channels_without(self) -> list[Channel]:
        """The channels that have none: their batches wait."""
        return [channel for channel in Channel if channel not in self._plan.routes]

    @property
    def hold_channels(self) -> frozenset[Channel]:
        """The channels on which a message that may have been accepted is not sent again by itself."""
        return frozenset(
            channel
            for channel in self.channels
            if self._route(channel).unknown_outcome is UnknownOutcome.HOLD
        )

    def for_thread(self) -> Mapping[Channel, Provider]:
        """The provider of each channel for one more thread, which is to close them. Raises ConfigurationError."""
        guarded = {name: self._guarded(name) for name in self._builds}
        return {channel: self._in_order(channel, guarded) for channel in self.channels}

    def _in_order(self, channel: Channel, guarded: Mapping[str, CircuitProvider]) -> Provider:
        providers = [guarded[name] for name in self._route(channel).providers]
        return providers[0] if len(providers) == 1 else FailoverProvider(channel, providers, self._clock)

    def _guarded(self, name: str) -> CircuitProvider:
        shared = self._shared[name]
        provider = self._builds[name](self._plan.providers[name], shared.context)
        if shared.rate is not None:
            provider = LimitedProvider(provider, shared.rate, self._clock)
        return CircuitProvider(provider, shared.circuit, partial(self._holds.until, name))

    def _route(self, channel: Channel) -> ChannelRoute:
        return self._plan.routes[channel]


def check_plan(plan: ProviderPlan, outbox_file: Path) -> None:
    """Build every provider in use once and let go of it; nothing is connected. Raises ConfigurationError."""
    engine = create_engine("postgresql+psycopg://")
    built = ProviderSet(plan, engine, SystemClock(), outbox_file, CircuitPolicy())
    for provider in built.for_thread().values():
        provider.close()


def build_for(entry: ProviderEntry) -> Build:
    """How a provider of this kind is built. Raises ConfigurationError: one line, with the kind that was meant."""
    if entry.kind == OUTBOX or (entry.sandbox and entry.kind in ADAPTERS):
        return _outbox
    if entry.kind in ADAPTERS:
        return _build_of(ADAPTERS[entry.kind])
    presets = import_module(PRESETS)
    if entry.kind in presets.PRESETS:
        return _build_of(PRESETS)
    kinds = sorted({OUTBOX, *ADAPTERS, *presets.PRESETS})
    near = difflib.get_close_matches(entry.kind, kinds, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
    raise ConfigurationError(f"provider {entry.name}: there is no kind {entry.kind!r}; {advice}")


def _build_of(module: str) -> Build:
    return cast("Build", import_module(module).build)


def _outbox(entry: ProviderEntry, context: ProviderContext) -> Provider:
    return OutboxProvider(context.outbox_file, context.clock, name=entry.name)


def _rate(entry: ProviderEntry, engine: Engine, clock: Clock) -> Rate | None:
    if entry.messages_per_second is None or entry.sandbox:
        return None
    return Rate(entry.name, entry.messages_per_second, engine, clock)


def _slots(entry: ProviderEntry) -> RequestSlots | None:
    return None if entry.concurrency is None else RequestSlots(entry.concurrency)
