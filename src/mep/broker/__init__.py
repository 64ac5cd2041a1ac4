"""AMQP: one self-healing connection, consumers, confirmed publishers. The only room that imports pika."""

from mep.broker.connection import BrokerConnection, State
from mep.broker.consumer import Consumer, Delivery
from mep.broker.publisher import Publisher, UnroutableError

__all__ = ["BrokerConnection", "Consumer", "Delivery", "Publisher", "State", "UnroutableError"]
