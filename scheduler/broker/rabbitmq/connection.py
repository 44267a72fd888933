"""Connections to RabbitMQ, bounded in every wait.

A peer that accepts the connection and then says nothing is bounded by `stack_timeout`, a broker that
blocks us for lack of disk or memory by `blocked_connection_timeout` (TRAPS: neither covers the other).
"""

from __future__ import annotations

from typing import Final

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from scheduler.errors import BrokerUnavailable

_HEARTBEAT_SECONDS: Final = 30
_BLOCKED_TIMEOUT_SECONDS: Final = 30
_CONNECT_TIMEOUT_SECONDS: Final = 5
_STACK_TIMEOUT_SECONDS: Final = 10


def connect(url: str, name: str) -> pika.BlockingConnection:
    """An open connection that RabbitMQ shows as `name`. Raises BrokerUnavailable."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = _HEARTBEAT_SECONDS
    parameters.blocked_connection_timeout = _BLOCKED_TIMEOUT_SECONDS
    parameters.socket_timeout = _CONNECT_TIMEOUT_SECONDS
    parameters.stack_timeout = _STACK_TIMEOUT_SECONDS
    parameters.client_properties = {"connection_name": name}
    try:
        return pika.BlockingConnection(parameters)
    # Where `stack_timeout` ends the wait, pika raises an error that is none of its AMQPErrors.
    except (AMQPError, AMQPConnectorException, OSError) as error:
        raise BrokerUnavailable(f"RabbitMQ does not answer ({type(error).__name__})") from error
