"""A broker of the site's own, over TLS: AMQP and management API, both verified."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mep.base.errors import ServiceError
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.broker import BrokerConnection
from mep.relay import topology
from mep.relay.amqp import RelayBroker
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.brokeradmin import BrokerAdmin
from support.proxy import Proxy


def certificate(directory: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1, with its key, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "broker.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@dataclass
class Site:
    address: BrokerAddress
    certificate: Path


@pytest.fixture
async def site(broker: BrokerAddress, tmp_path: Path) -> AsyncIterator[Site]:
    pem = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    async with (
        Proxy.before(broker.amqp.reveal(), tls=tls) as amqp,
        Proxy.before(broker.management.reveal(), tls=tls) as management,
    ):
        url = urlsplit(amqp.url(broker.amqp.reveal()))._replace(scheme="amqps").geturl()
        address = BrokerAddress.of_url(url, management_url=f"https://127.0.0.1:{management.port}")
        yield Site(address, pem)


async def test_a_site_broker_over_tls_serves_the_relay_and_its_clients(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))  # as if in the system's CA store
    admin, relay, uep = BrokerAdmin(site.address), RelayBroker(site.address), new_id()
    assert (await admin.check()).count(".") == 2
    await relay.open()
    await relay.ensure_uep_queues(uep)
    grants = topology.uep_grants(uep)
    await admin.ensure_user(grants, Secret("p"))
    url = relay.client_url(grants.user, Secret("p"))
    assert url.reveal().startswith("amqps://")
    client = BrokerConnection(url, name="client")
    client.open()
    await client.wait_open(10)
    await client.publisher().publish("results", f"{uep}.results", b"r")
    await client.close()
    await admin.delete_user(grants.user)
    await relay.close()
    admin.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(site: Site) -> None:
    admin = BrokerAdmin(site.address, patience_s=0)
    with pytest.raises(ServiceError) as caught:
        await admin.check()
    assert "certificate" in caught.value.admin_text.lower()
    admin.close()
    relay = RelayBroker(site.address)
    with pytest.raises(ServiceError) as caught:
        await relay.open(timeout_s=1)
    assert "certificate" in caught.value.admin_text.lower()
    await relay.close()
