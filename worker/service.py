"""Put a worker together from its settings, and run it until it is told to stop."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from random import Random
from threading import Event

from loguru import logger
from sqlalchemy import Engine

from scheduler.broker.port import Broker
from scheduler.clock import Clock, SystemClock
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.planner import Planner
from scheduler.service import broker_for, engine_for, planner_for
from scheduler.settings import Settings
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.guarded import CircuitProvider
from worker.channels.http import HttpProvider, HttpSettings
from worker.channels.outbox import OutboxProvider
from worker.channels.port import Provider
from worker.consumer import DeliveryLoop, run_side_by_side
from worker.delivery import Deliverer, DeliveryPolicy
from worker.leases import LeaseKeeper, Shutdown


def provider_for(settings: Settings, clock: Clock) -> Provider:
    """The provider that the settings name, without its circuit; used by one thread."""
    if settings.provider == "http" and settings.http_url is not None:
        return HttpProvider(_http_settings(settings, settings.http_url), clock)
    return OutboxProvider(settings.outbox_file, clock)


def _http_settings(settings: Settings, url: str) -> HttpSettings:
    return HttpSettings(
        name="http",
        url=url,
        headers={name: value.get_secret_value() for name, value in settings.http_headers.items()},
        body=settings.http_body,
        concurrency=settings.http_concurrency,
        connect_timeout_seconds=settings.http_connect_timeout_seconds,
        total_timeout_seconds=settings.http_total_timeout_seconds,
    )


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """What holds for occasions that set nothing of their own."""
    retry = RetryPolicy(settings.retry_max_attempts, settings.retry_base_seconds, settings.retry_cap_seconds)
    return DeliveryPolicy(settings.lateness_limit, retry)


def circuit_policy(settings: Settings) -> CircuitPolicy:
    """When the circuits of providers open, and for how long."""
    return CircuitPolicy(settings.breaker_failures, settings.breaker_reset_seconds)


class Worker:
    """One worker process: threads that deliver, and one that keeps their leases."""

    def __init__(self, settings: Settings, engine: Engine, clock: Clock, stop: Event) -> None:
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._lease_for = timedelta(seconds=settings.lease_seconds)
        self._keeper = LeaseKeeper(engine, clock, self._lease_for)
        self._shutdown = Shutdown(stop, clock, timedelta(seconds=settings.stop_deadline_seconds))
        self._circuits: dict[str, Circuit] = {}
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(self) -> None:
        """Deliver until the stop is asked for; what is under way then is finished or handed back in time."""
        planner = planner_for(self._settings, self._engine)
        broker = broker_for(self._settings, self._engine, self._clock)
        providers = [self._provider() for _ in range(self._settings.worker_threads)]
        loops = [self._loop(number, provider, planner, broker) for number, provider in enumerate(providers)]
        self._keeper.start()
        logger.bind(worker=self._name, threads=len(loops), provider=providers[0].name).info("worker_started")
        try:
            run_side_by_side(loops)
        finally:
            self._keeper.close()
            for provider in providers:
                provider.close()
            logger.bind(worker=self._name).info("worker_stopped")

    def _provider(self) -> Provider:
        """A provider of one thread's own, behind the circuit that all threads share."""
        provider = provider_for(self._settings, self._clock)
        circuit = Circuit(provider.name, self._clock, circuit_policy(self._settings))
        return CircuitProvider(provider, self._circuits.setdefault(provider.name, circuit))

    def _loop(self, number: int, provider: Provider, planner: Planner, broker: Broker) -> DeliveryLoop:
        deliverer = Deliverer(
            self._engine,
            planner,
            dict.fromkeys(Channel, provider),
            delivery_policy(self._settings),
            self._clock,
            Random(),
        )
        return DeliveryLoop(
            broker.consumer(f"{self._name}:{number}", list(Channel)),
            deliverer,
            self._keeper,
            self._shutdown,
            self._clock,
            self._lease_for,
        )


def run_worker(settings: Settings, stop: Event) -> None:
    """Run a worker until `stop` is set."""
    # Each thread listens on one connection and works on another; one more renews the leases.
    engine = engine_for(settings, "worker", least_connections=2 * settings.worker_threads + 1)
    try:
        Worker(settings, engine, SystemClock(), stop).run()
    finally:
        engine.dispose()
