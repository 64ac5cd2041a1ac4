"""Where a broker is: its AMQP and its management side, and the URLs that clients are given."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret

HEARTBEAT_S = 30  # in every URL we hand out: a dead connection is seen after about a minute

_MANAGEMENT_PORTS = {"amqp": ("http", 15672), "amqps": ("https", 15671)}


@dataclass(frozen=True)
class BrokerAddress:
    """A broker as its administrator reaches it: both URLs carry the user and password."""

    amqp: Secret
    management: Secret
    client_host: str = ""  # what clients are told instead of the AMQP URL's host[:port]

    @classmethod
    def of_url(cls, broker_url: str, *, management_url: str = "", client_host: str = "") -> BrokerAddress:
        """Return the address of an existing broker; InputError(CONFIG_INVALID) for a URL that cannot be one.

        Without a management URL: the same host, user and password, and the usual port (15672, with TLS 15671).
        """
        parts = urlsplit(broker_url)
        if parts.scheme not in _MANAGEMENT_PORTS or not parts.hostname:
            raise InputError(
                Code.CONFIG_INVALID,
                "The broker URL must look like amqp://USER:PASSWORD@HOST:PORT/VHOST (or amqps://).",
            )
        scheme, port = _MANAGEMENT_PORTS[parts.scheme]
        account = parts.netloc.rpartition("@")[0]
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        derived = f"{scheme}://{account}@{host}:{port}"
        if management_url and "@" not in urlsplit(management_url).netloc:
            given = urlsplit(management_url)
            management_url = given._replace(netloc=f"{account}@{given.netloc}").geturl()
        return cls(Secret(broker_url), Secret(management_url or derived), client_host)

    @property
    def vhost(self) -> str:
        """The virtual host, decoded; an absent one is `/`."""
        return unquote(urlsplit(self.amqp.reveal()).path[1:]) or "/"

    def client_url(self, user: str, password: Secret) -> Secret:
        """Return the AMQP URL for a client: its own account, the heartbeat, the same broker and vhost."""
        parts = urlsplit(self.amqp.reveal())
        where = self.client_host or parts.netloc.rpartition("@")[2]
        account = f"{quote(user, safe='')}:{quote(password.reveal(), safe='')}"
        return Secret(f"{parts.scheme}://{account}@{where}/{quote(self.vhost, safe='')}?heartbeat={HEARTBEAT_S}")
