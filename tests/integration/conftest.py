"""For several integration tests: a RabbitMQ, which the first that asks starts; commands called in this process."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger
from sqlalchemy import Engine

from tests.fixtures.rabbitmq import RabbitNode, rabbitmq_nodes
from tests.fixtures.rabbitmq_rig import RabbitRig, rabbit_rig


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitNode]:
    """A running node; a test that stops it starts it again."""
    with rabbitmq_nodes() as [node]:
        yield node


@pytest.fixture
def rabbit(rabbitmq: RabbitNode, engine: Engine) -> Iterator[RabbitRig]:
    """The node with empty queues, and adapters on it."""
    with rabbit_rig(rabbitmq, engine) as rig:
        yield rig


@pytest.fixture
def command_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """For commands that are called in this process: no setting of this machine, and all logging as it was before."""
    for name in [name for name in os.environ if name.startswith("DAYBREAK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.configure(handlers=[], extra={})
