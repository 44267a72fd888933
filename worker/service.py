"""Put a worker together from its settings, and run it until it is told to stop."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from random import Random
from threading import Event
from typing import Final

from loguru import logger
from sqlalchemy import Engine

from scheduler import connections
from scheduler.broker.port import Broker
from scheduler.clock import Clock, SystemClock
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.planner import Planner
from scheduler.service import broker_for, engine_for, links_for, planner_for
from scheduler.settings import Settings
from worker.alerts import Alerts
from worker.breaker import CircuitPolicy
from worker.channels.port import Provider
from worker.circuit_reporter import CircuitReporter, Signals
from worker.consumer import DeliveryLoop, run_side_by_side
from worker.delivery import Deliverer
from worker.leases import LeaseKeeper, Shutdown
from worker.policy import DeliveryPolicy
from worker.providers import ProviderSet
from worker.rendering import Renderer

_OBJECTS_BETWEEN_COLLECTIONS: Final = 20_000
"""More than the batches under delivery hold: they go with their last reference, and are looked through in vain."""


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """What holds for occasions that set nothing of their own, whatever the providers."""
    retry = RetryPolicy(settings.retry_max_attempts, settings.retry_base_seconds, settings.retry_cap_seconds)
    return DeliveryPolicy(settings.lateness_limit, retry, settings.quiet_hours)


def circuit_policy(settings: Settings) -> CircuitPolicy:
    """When the circuits of providers open, and for how long."""
    return CircuitPolicy(settings.breaker_failures, settings.breaker_reset_seconds)


def renderer_for(settings: Settings) -> Renderer:
    """What renders texts; with links to unsubscribe where the settings allow for them."""
    return Renderer(links_for(settings))


class Worker:
    """One worker process: threads that deliver, one that keeps their leases, one that reports their circuits."""

    def __init__(self, settings: Settings, engine: Engine, clock: Clock, stop: Event) -> None:
        """Raises ConfigurationError where the plan names a kind of provider that there is not."""
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._lease_for = timedelta(seconds=settings.lease_seconds)
        self._keeper = LeaseKeeper(engine, clock, self._lease_for)
        self._shutdown = Shutdown(stop, clock, timedelta(seconds=settings.stop_deadline_seconds))
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._alerts = Alerts(settings.alert_url)
        signals = Signals(self._name, self._alerts)
        self._providers = ProviderSet(
            settings.provider_plan, engine, clock, settings.outbox_file, circuit_policy(settings), signals
        )
        self._reporter = CircuitReporter(
            engine,
            clock,
            self._name,
            self._providers.circuits,
            self._providers.channels_without,
            signals,
        )

    def run(self) -> None:
        """Deliver until the stop is asked for; what is under way then is finished or handed back in time.

        Raises ConfigurationError where an option of a provider is wrong; nothing has begun then.
        """
        providers = [self._providers.for_thread() for _ in range(self._settings.worker_threads)]
        planner = planner_for(self._settings, self._engine)
        broker = broker_for(self._settings, self._engine, self._clock)
        loops = [self._loop(number, each, planner, broker) for number, each in enumerate(providers)]
        for thread in (self._keeper, self._alerts, self._reporter):
            thread.start()
        logger.bind(worker=self._name, threads=len(loops), channels=self._providers.described).info(
            "worker_started"
        )
        try:
            run_side_by_side(loops)
        finally:
            self._keeper.close()
            for provider in chain.from_iterable(each.values() for each in providers):
                provider.close()
            self._reporter.close()
            self._alerts.close()
            logger.bind(worker=self._name).info("worker_stopped")

    def _loop(
        self, number: int, providers: Mapping[Channel, Provider], planner: Planner, broker: Broker
    ) -> DeliveryLoop:
        policy = replace(delivery_policy(self._settings), hold_channels=self._providers.hold_channels)
        deliverer = Deliverer(
            self._engine, planner, providers, policy, self._clock, Random(), renderer_for(self._settings)
        )
        return DeliveryLoop(
            broker.consumer(f"{self._name}:{number}", list(providers)),
            deliverer,
            self._keeper,
            self._shutdown,
            self._clock,
            self._lease_for,
        )


def run_worker(settings: Settings, stop: Event) -> None:
    """Run a worker until `stop` is set."""
    engine = engine_for(
        settings, "worker", least_connections=connections.of_a_worker(settings), plans_once=True
    )
    try:
        worker = Worker(settings, engine, SystemClock(), stop)
        # What is there by now stays, and need not be looked through again and again.
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])
        worker.run()
    finally:
        engine.dispose()
