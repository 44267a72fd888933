"""Connections to RabbitMQ, bounded in every wait.

A peer that accepts the connection and then says nothing is bounded by `stack_timeout`, a broker that
blocks us for lack of disk or memory by `blocked_connection_timeout` (TRAPS: neither covers the other).
An address may list the nodes of a cluster, with commas between them: whichever answers will do.
"""

from __future__ import annotations

from random import Random
from typing import Final

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from scheduler.errors import BrokerUnavailable

_HEARTBEAT_SECONDS: Final = 10
_BLOCKED_TIMEOUT_SECONDS: Final = 2
_CONNECT_TIMEOUT_SECONDS: Final = 5
_STACK_TIMEOUT_SECONDS: Final = 10


def nodes_of(url: str, name: str) -> list[pika.URLParameters]:
    """How to reach each node of `url` as the client `name`, in random order: that spreads the clients."""
    nodes = [_parameters(node, name) for node in url.split(",")]
    Random().shuffle(nodes)
    return nodes


def connect(url: str, name: str) -> pika.BlockingConnection:
    """An open connection to a node of `url`, which RabbitMQ shows as `name`. Raises BrokerUnavailable."""
    try:
        return pika.BlockingConnection(nodes_of(url, name))
    # Where `stack_timeout` ends the wait, pika raises an error that is none of its AMQPErrors.
    except (AMQPError, AMQPConnectorException, OSError) as error:
        raise unavailable(error) from error


def unavailable(error: BaseException) -> BrokerUnavailable:
    """What is said of an error of the connection: its kind, as its text may hold an address."""
    return BrokerUnavailable(f"RabbitMQ does not answer ({type(error).__name__})")


def _parameters(node: str, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(node)
    parameters.heartbeat = _HEARTBEAT_SECONDS
    parameters.blocked_connection_timeout = _BLOCKED_TIMEOUT_SECONDS
    parameters.socket_timeout = _CONNECT_TIMEOUT_SECONDS
    parameters.stack_timeout = _STACK_TIMEOUT_SECONDS
    parameters.client_properties = {"connection_name": name}
    return parameters
