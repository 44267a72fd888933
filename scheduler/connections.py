"""How many database connections each process needs at the same time: with fewer it would wait for itself."""

from __future__ import annotations

from typing import Final

from scheduler.jobs.run import CONNECTIONS_OF_A_RUN, JOBS
from scheduler.settings import Settings

API_THREADS: Final = 8
"""Requests that one process of the API works on at the same time; more wait."""


def of_a_job(settings: Settings) -> int:
    """One run of a job: its own, and one for each slice that it plans."""
    return CONNECTIONS_OF_A_RUN + settings.planning_slices_at_once


def of_the_scheduler(settings: Settings) -> int:
    """All jobs may run at once, and one that stands by asks for a lock meanwhile."""
    return len(JOBS) * of_a_job(settings) + 1


def of_an_api_process() -> int:
    """For each thread one for transactions and one kept for reads (`Readers`): no request waits for another's."""
    return 2 * API_THREADS


def of_a_worker(settings: Settings) -> int:
    """Each thread listens on one and works on another; three more renew leases, report circuits, look for holds."""
    return 2 * settings.worker_threads + 3
