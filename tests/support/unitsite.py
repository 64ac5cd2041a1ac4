"""An endpoint as an administrator installs it: the unit of systemd/, in a container with a real systemd."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import nspawn
from support.endpoint import MAPPING, THREADS
from support.nspawn import Container, python_path
from support.relay import Relay
from support.source import ROOT
from support.wait import until

ALICE = 20001
HELPER = "/usr/local/bin/helper"
#: Notes each session's begin and end, and leaves a process behind in the session's scope, as ssh-agent would be.
PAM_SERVICE = f"""\
auth required pam_rootok.so
account required pam_unix.so
session required pam_limits.so
session required pam_exec.so /usr/local/bin/note
session required pam_systemd.so
session required pam_exec.so {HELPER}
"""
SESSIONS = "/var/log/sessions"
_NOTE = f"#!/bin/sh\necho $PAM_TYPE $PAM_USER >>{SESSIONS}\n"
_HELPER = "#!/bin/sh\n[ $PAM_TYPE = close_session ] || setsid -f sleep 31415 </dev/null >/dev/null 2>&1\n"


@contextmanager
def systemd_machine(mep: str, *, pure: bool = True, name: str = "mep-machine") -> Iterator[Container]:
    """Boot a machine with the unit in place; `pure`: cgroups version 2 only."""
    if trouble := nspawn.why_not():
        pytest.skip(trouble)
    made = Container(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/run")), name)
    try:
        install(made, mep)
        made.boot(pure=pure)
        yield made
    finally:
        made.close()


def install(container: Container, mep: str) -> None:
    """Put the unit and what belongs to it in place, before the boot; alice and bob have accounts."""
    units = ROOT / "systemd"
    container.write("/etc/systemd/system/mep@.service", (units / "mep@.service").read_text())
    container.write("/etc/sysusers.d/mep.conf", (units / "mep.sysusers").read_text())
    container.write("/etc/tmpfiles.d/mep.conf", (units / "mep.tmpfiles").read_text())
    container.path("/usr/local/bin/mep").unlink(missing_ok=True)
    container.path("/usr/local/bin/mep").symlink_to(mep)
    for variable in python_path():
        container.write("/etc/systemd/system/mep@.service.d/test.conf", f"[Service]\nEnvironment={variable}\n")
    container.write("/etc/pam.d/mep", PAM_SERVICE)
    container.write("/etc/pam.d/mep-hangs", f"{PAM_SERVICE}session required pam_exec.so /bin/sleep 16180\n")
    container.write("/usr/local/bin/note", _NOTE, mode=0o755)
    container.write(HELPER, _HELPER, mode=0o755)
    # the user's manager goes with the last session of the user, after 10 s otherwise
    container.write("/etc/systemd/logind.conf.d/test.conf", "[Login]\nUserStopDelaySec=0\n")
    for name, uid in (("alice", ALICE), ("bob", ALICE + 1)):
        container.add_user(name, uid)


class UnitSite:
    """One endpoint of the container, `mep@NAME`."""

    def __init__(
        self, container: Container, relay: Relay, name: str, *, pam: str = "", secret: str = "", **config: Any
    ) -> None:
        """Write its files. `pam`: a service; `secret`: instead of the right one; `config`: further settings."""
        self.machine, self.name, self.unit = container, name, f"mep@{name}.service"
        if pam:
            config["pam"] = {"enable": True, "service_name": pam}
        self._settings = {"relay": relay.url, "start_rate_per_user": None, **config}
        self._write_settings()
        self.write("user_config_template.yaml.j2", THREADS)
        self.write("identity_mapping.json", json.dumps(MAPPING))
        client = relay.client(name)
        credentials = {"client_id": client.client_id, "client_secret": secret or client.client_secret}
        container.write(f"/var/lib/mep/{name}/credentials.json", json.dumps(credentials), mode=0o600)

    def write(self, file: str, text: str) -> None:
        """Write one of its files, as an administrator's editor does."""
        self.machine.write(f"/etc/mep/{self.name}/{file}", text)

    def set(self, setting: str, value: object) -> None:
        """Change config.yaml."""
        self._settings[setting] = value
        self._write_settings()

    def _write_settings(self) -> None:
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in self._settings.items())
        self.write("config.yaml", "".join(lines))

    def drop_in(self, text: str) -> None:
        """Change its unit, as by `systemctl edit`."""
        self.machine.write(f"/etc/systemd/system/{self.unit}.d/override.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def systemctl(self, verb: str, *options: str, check: bool = True) -> str:
        """Run systemctl about its unit."""
        return self.machine.run("systemctl", verb, *options, self.unit, check=check)

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.systemctl("show", "--value", f"-p{name}")

    def journal(self, *options: str) -> list[dict[str, str]]:
        """Return the unit's journal of this boot."""
        lines = self.machine.run("journalctl", "-q", "-b", "-o", "json", "-u", self.unit, *options)
        return [json.loads(line) for line in lines.splitlines()]

    def status(self) -> dict[str, Any]:
        """Return what `mep status --json` says inside."""
        answer: dict[str, Any] = json.loads(self.machine.run("mep", "status", self.name, "--json", check=False))
        return answer

    @property
    def id(self) -> str:
        return str(self.status()["endpoint_id"])

    def monitor(self) -> int:
        """Return the monitor's pid, as seen from here."""
        inside = int(self.show("MainPID"))
        assert inside, self.systemctl("status", check=False)
        return self.seen_from_here(inside)

    def seen_from_here(self, inside: int) -> int:
        """Return the pid of a process of the container as this side numbers it."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    numbers = (entry / "status").read_text().partition("\nNSpid:")[2].split("\n")[0].split()
                except OSError:
                    continue
                if len(numbers) > 1 and int(numbers[-1]) == inside and self.machine.has(int(entry.name)):
                    return int(entry.name)
        raise AssertionError(f"no process {inside} in the container")

    def cgroup(self) -> str:
        """Return the unit's cgroup."""
        return self.show("ControlGroup")

    def processes(self, uid: int = ALICE) -> dict[int, str]:
        """Return the user's processes but for the user's own systemd, with their cgroups."""
        found = self.machine.processes(uid)
        return {pid: group for pid, group in found.items() if f"/user@{uid}.service/init.scope" not in group}

    def until_gone(self, *, within_s: float = 2.0) -> None:
        """Wait until nothing of alice's runs; what her own systemd runs does not count."""
        until(lambda: not self.processes(), "all of the user's processes are gone", timeout_s=within_s)
