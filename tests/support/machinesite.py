"""An endpoint inside the virtual machine, run by its real unit, on a relay outside."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from support.endpoint import MAPPING
from support.machine import HOST, Machine
from support.relay import Relay

NAME = "site"
_UNIT = f"mep@{NAME}.service"
_PROXY = "/lib/systemd/systemd-socket-proxyd"


class MachineSite:
    """`mep@site` in the machine. What it is told stands in /etc/mep/site, as an administrator would write it."""

    def __init__(self, machine: Machine, relay: Relay, broker_port: int) -> None:
        self.machine, self.relay, self.id = machine, relay, ""
        machine.run("cp", "/opt/checkout/systemd/mep@.service", "/etc/systemd/system/")
        for port in (urlsplit(relay.url).port, broker_port):  # what the relay calls 127.0.0.1 is outside
            listen = f"--socket-property=ListenStream=127.0.0.1:{port}"
            machine.run("systemd-run", "--quiet", f"--unit=outside-{port}", listen, _PROXY, f"{HOST}:{port}")

    def configure(self, *, config: str, template: str) -> None:
        """Write the endpoint's files, and what the unit needs besides: the credentials."""
        folder = f"/etc/mep/{NAME}"
        client = self.relay.client(NAME)
        files = {
            f"{folder}/config.yaml": f"relay: {self.relay.url}\n{config}",
            f"{folder}/user_config_template.yaml.j2": template,
            f"{folder}/user_config_schema.json": '{"type": "object"}',
            f"{folder}/identity_mapping.json": json.dumps(MAPPING),
            "/etc/pam.d/mep": "account required pam_permit.so\nsession required pam_permit.so\n",
            f"/etc/systemd/system/{_UNIT}.d/credentials.conf": (
                f"[Service]\nEnvironment=MEP_CLIENT_ID={client.client_id}\n"
                f"Environment=MEP_CLIENT_SECRET={client.client_secret}\n"
            ),
        }
        for path, text in files.items():
            self.machine.write(path, text)

    def start(self) -> None:
        """Start the unit; return once the endpoint is up, as its unit tells."""
        self.machine.run("systemctl", "daemon-reload")
        try:
            self.machine.run("systemctl", "start", _UNIT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal()}") from None
        self.id = str(json.loads(self.mep("status", NAME, "--json"))["endpoint_id"])

    def user_endpoints(self) -> list[dict[str, Any]]:
        return list(json.loads(self.mep("status", NAME, "--json"))["user_endpoints"])

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", _UNIT)

    def mep(self, *arguments: str) -> str:
        return self.machine.run("mep", *arguments)

    def journal(self) -> str:
        """What the daemon has said."""
        return self.machine.run("journalctl", "-u", _UNIT, "--no-pager", "-o", "cat")
