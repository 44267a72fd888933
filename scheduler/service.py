"""Put the scheduler together from its settings, and run it until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from loguru import logger
from sqlalchemy import Engine

from scheduler import connections
from scheduler.broker.port import Broker
from scheduler.broker.postgres import PostgresBroker
from scheduler.clock import Clock, SystemClock
from scheduler.cron import Cron
from scheduler.domain.tombstone import Tombstones
from scheduler.errors import ConfigurationError
from scheduler.jobs.enqueue import Enqueue
from scheduler.jobs.precalculate import Precalculate
from scheduler.jobs.recover import Recover
from scheduler.jobs.run import JobRunner
from scheduler.keys import ApiKeys
from scheduler.links import LinkSigner
from scheduler.planner import Planner, PlanningPolicy
from scheduler.privacy import Privacy
from scheduler.registry import Registry, never
from scheduler.settings import Settings
from scheduler.store.database import create_database_engine


@dataclass(frozen=True, slots=True)
class Jobs:
    """The three jobs on one database, and the broker they publish to."""

    broker: Broker
    precalculate: Precalculate
    enqueue: Enqueue
    recover: Recover


def engine_for(
    settings: Settings,
    role: str,
    *,
    least_connections: int = 1,
    statement_seconds: int = 0,
    plans_once: bool = False,
) -> Engine:
    """An engine on the database the settings name, with as many connections as they say, and enough.

    With fewer than `least_connections` the process would wait for itself. Raises ConfigurationError where
    the settings name no database.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            f"DAYBREAK_DATABASE_URL: got nothing, but the {role} needs a database; takes "
            "postgresql://user:password@host:port/name (`daybreak up` brings a database of its own)"
        )
    return create_database_engine(
        settings.database_url.get_secret_value(),
        pool_size=max(settings.pool_size, least_connections),
        application_name=f"daybreak-{role}",
        statement_seconds=statement_seconds,
        plans_once=plans_once,
    )


def planning_in_turn(settings: Settings) -> Settings:
    """The settings, but for jobs that plan on their caller's thread and connection alone."""
    return settings.model_copy(update={"planning_slices_at_once": 1})


def planner_for(settings: Settings, engine: Engine, slices_at_once: int = 1) -> Planner:
    """A planner that follows the settings; by itself one that works on its caller's thread alone."""
    policy = PlanningPolicy(settings.horizon, settings.lateness_limit, settings.batch_size, slices_at_once)
    return Planner(engine, policy)


def registry_for(
    settings: Settings, engine: Engine, clock: Clock, writes_apart: Callable[[], bool] = never
) -> Registry:
    """The register of users; without a secret key it takes nobody new once somebody was erased.

    `writes_apart`: whether the present caller's writes are not to be gathered with those of others.
    """
    secret = settings.secret_key
    tombstones = None if secret is None else Tombstones(secret)
    return Registry(engine, planner_for(settings, engine), clock, tombstones, writes_apart)


def privacy_for(settings: Settings, engine: Engine, clock: Clock) -> Privacy:
    """What tells and erases what is known of a person. Raises ConfigurationError where there is no secret key."""
    if settings.secret_key is None:
        raise ConfigurationError(
            "DAYBREAK_SECRET_KEY: got nothing, but who was erased is remembered under it; takes a secret text of at "
            "least 32 characters, the same for all processes and for as long as erasures are to hold"
        )
    tombstones = Tombstones(settings.secret_key)
    return Privacy(engine, planner_for(settings, engine), clock, tombstones)


def links_for(settings: Settings) -> LinkSigner | None:
    """What makes and reads links for recipients; None where the settings allow for none."""
    if settings.secret_key is None or settings.public_url is None:
        return None
    return LinkSigner(settings.secret_key, settings.public_url)


def keys_for(settings: Settings, engine: Engine, clock: Clock) -> ApiKeys:
    """The API keys of a database. Raises ConfigurationError where there is no key to keep them under."""
    if settings.secret_key is None:
        raise ConfigurationError(
            "DAYBREAK_SECRET_KEY: got nothing, but API keys are kept under it; takes a secret text of at least 32 "
            "characters, the same for all processes (DAYBREAK_API_AUTHENTICATION=none asks nobody who they are)"
        )
    return ApiKeys(engine, clock, settings.secret_key)


def broker_for(settings: Settings, engine: Engine, clock: Clock) -> Broker:
    """The broker that the settings name."""
    if settings.broker_url is not None:
        # pika takes a tenth of a second to import, which those without RabbitMQ need not wait for.
        from scheduler.broker.rabbitmq import RabbitBroker

        return RabbitBroker(settings.broker_url.get_secret_value(), engine, clock)
    return PostgresBroker(engine, clock)


def jobs_for(settings: Settings, engine: Engine, clock: Clock) -> Jobs:
    """The three jobs as the settings have them."""
    planner = planner_for(settings, engine, settings.planning_slices_at_once)
    broker = broker_for(settings, engine, clock)
    return Jobs(
        broker=broker,
        precalculate=Precalculate(planner),
        enqueue=Enqueue(engine, broker, clock),
        recover=Recover(engine, planner, broker, timedelta(seconds=settings.enqueue_deadline_seconds)),
    )


def run_scheduler(settings: Settings, stop: Event) -> None:
    """Run the jobs by cron until `stop` is set; what runs then comes to its end."""
    clock = SystemClock()
    engine = engine_for(settings, "scheduler", least_connections=connections.of_the_scheduler(settings))
    jobs = jobs_for(settings, engine, clock)
    cron = Cron(
        JobRunner(engine, clock),
        jobs.precalculate,
        jobs.enqueue,
        jobs.recover,
        clock,
        {
            "precalculate": settings.precalculate_cron,
            "enqueue": settings.enqueue_cron,
            "recover": settings.recover_cron,
        },
    )
    cron.start()
    logger.info("scheduler_started")
    try:
        stop.wait()
    finally:
        cron.stop()
        jobs.broker.close()
        engine.dispose()
        logger.info("scheduler_stopped")
