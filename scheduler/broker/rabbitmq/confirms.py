"""A connection that publishes many messages at once and waits until the broker has confirmed each.

pika's BlockingChannel waits for one confirm before it publishes the next, which is a write to disk on most
nodes each time; here all are under way together. The loop of the connection runs in the caller's thread and
only during a call, so it needs neither a thread nor a lock; whoever holds it must call every few seconds,
or the broker takes it for dead (heartbeats).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pika import BasicProperties
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.connection import Connection, Parameters
from pika.exceptions import AMQPError, ConnectionBlockedTimeout
from pika.frame import Method
from pika.spec import Basic

from scheduler.broker.rabbitmq.connection import unavailable
from scheduler.errors import BrokerUnavailable

_OPEN_SECONDS: Final = 15.0
_CONFIRM_SECONDS: Final = 10.0
"""A queue whose nodes are most of them gone takes a message and confirms it never."""

# Longer than heartbeats take to find that nobody answers: pika then closes the socket.
_CLOSE_SECONDS: Final = 60.0


class ConfirmedChannel:
    """One channel on a connection of its own, with publisher confirms.

    After BrokerUnavailable nothing more can be published: whoever holds it closes it and opens another.
    """

    def __init__(self, nodes: Sequence[Parameters], exchange: str, properties: BasicProperties) -> None:
        """Connect to the first of `nodes` that answers. Raises BrokerUnavailable."""
        self._exchange = exchange
        self._properties = properties
        self._ioloop = IOLoop()
        self._connection: SelectConnection | None = None
        self._channel: Channel | None = None
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._failure: BrokerUnavailable | None = None
        self._gave_up = False
        try:
            SelectConnection.create_connection(nodes, self._connected, custom_ioloop=self._ioloop)
            self._run(_OPEN_SECONDS * len(nodes), "RabbitMQ opened no channel in time")
        except BaseException:
            self.close()
            raise

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish bodies under their routing keys; returns once each is in its queue, on most of its nodes.

        Raises BrokerUnavailable where one may not have arrived; the others may have.
        """
        assert self._channel is not None
        self._unconfirmed = set(range(self._published + 1, self._published + len(messages) + 1))
        self._published += len(messages)
        try:
            for routing_key, content in messages:
                self._channel.basic_publish(
                    self._exchange, routing_key, content, self._properties, mandatory=True
                )
        except AMQPError as error:
            raise unavailable(error) from error
        if messages:
            self._run(_CONFIRM_SECONDS, "RabbitMQ did not confirm in time")

    def keep(self) -> None:
        """Read what has come in and answer heartbeats. Raises BrokerUnavailable if the connection is lost."""
        self._ioloop.add_callback(self._ioloop.stop)
        self._run(_CONFIRM_SECONDS, "")

    def close(self) -> None:
        """Close the connection, in order where the broker answers."""
        connection = self._connection
        if connection is not None and connection.is_open:
            connection.close()
        timer = self._ioloop.call_later(_CLOSE_SECONDS, self._give_up)
        # Channel and connection are closed one after the other, and each stops the loop.
        while connection is not None and not (connection.is_closed or self._gave_up):
            self._ioloop.start()
        self._ioloop.remove_timeout(timer)
        self._ioloop.close()

    def _run(self, seconds: float, overdue: str) -> None:
        """Run the loop until a callback ends it. Raises BrokerUnavailable for whatever went wrong by then."""
        timer = self._ioloop.call_later(seconds, lambda: self._fail(BrokerUnavailable(overdue)))
        try:
            if self._failure is None:
                self._ioloop.start()
        finally:
            self._ioloop.remove_timeout(timer)
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: BrokerUnavailable) -> None:
        """The first failure is the cause; the rest follow from it."""
        self._failure = self._failure or failure
        self._ioloop.stop()

    def _give_up(self) -> None:
        self._gave_up = True
        self._ioloop.stop()

    def _connected(self, result: SelectConnection | BaseException) -> None:
        if isinstance(result, BaseException):
            self._fail(unavailable(result))
            return
        self._connection = result
        result.add_on_close_callback(self._lost)
        result.channel(on_open_callback=self._opened)

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._lost)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, lambda _: self._ioloop.stop())

    def _confirmed(self, frame: Method[Any]) -> None:
        confirm = frame.method
        if isinstance(confirm, Basic.Nack):
            self._fail(BrokerUnavailable("RabbitMQ refused a batch"))
        elif confirm.multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > confirm.delivery_tag}
        else:
            self._unconfirmed.discard(confirm.delivery_tag)
        if not self._unconfirmed:
            self._ioloop.stop()

    def _returned(
        self, _channel: Channel, _method: Basic.Return, _properties: BasicProperties, _content: bytes
    ) -> None:
        self._fail(BrokerUnavailable("no queue of RabbitMQ took a batch; it is declared again"))

    def _lost(self, _closed: Channel | Connection, reason: Exception) -> None:
        if isinstance(reason, ConnectionBlockedTimeout):
            self._fail(BrokerUnavailable("RabbitMQ blocks publishers: it is short of memory or disk"))
        else:
            self._fail(unavailable(reason))
