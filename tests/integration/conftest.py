"""A RabbitMQ for all tests of a process: it takes seconds to start, and is started by the first that needs it."""

from collections.abc import Iterator

import pytest
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
