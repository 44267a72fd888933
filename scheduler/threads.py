"""Threads for work that is done some pieces at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads to work in; at the end, what they are at comes to its end, and what waits for them is not begun."""
    executor = ThreadPoolExecutor(max_workers=number, thread_name_prefix=name)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
