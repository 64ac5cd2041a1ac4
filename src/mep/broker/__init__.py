"""AMQP: one self-healing connection, consumers, confirmed publishers. The only room that imports pika."""

from mep.broker.batch import BatchConsumer
from mep.broker.channel import Channel, ConnectionLostError, QueueFacts, RefusedByBrokerError
from mep.broker.connection import BrokerConnection, State
from mep.broker.consumer import Consumer, Delivery
from mep.broker.publisher import Publisher, UnroutableError

__all__ = [
    "BatchConsumer",
    "BrokerConnection",
    "Channel",
    "ConnectionLostError",
    "Consumer",
    "Delivery",
    "Publisher",
    "QueueFacts",
    "RefusedByBrokerError",
    "State",
    "UnroutableError",
]
