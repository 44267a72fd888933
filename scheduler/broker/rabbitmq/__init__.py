"""RabbitMQ as the broker, for production: quorum queues, confirmed publishing, acknowledged by hand.

Works on RabbitMQ 3.10 to 4.x. Losing every queue loses no message: the log enqueues again.
"""

from scheduler.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
