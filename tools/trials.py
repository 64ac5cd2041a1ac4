"""`sudo ./dev trials`: a user endpoint ends in every way there is, and all that it had started is gone in 2 s.

Each trial: a function leaves detached processes behind that ignore signals, hold every descriptor and adopt each
other; then the user endpoint leaves by being idle, by `mep stop`, or it, the monitor, or gate and monitor are
killed. The clock runs from the end of the user endpoint's own process (from the kill, where that comes first) to
the end of the last process of the user, and of the session process where there is one. With --no-cgroups the
daemon finds no cgroup v2, and session processes do the work; with --pam they hold a PAM session.

    ./dev trials [--trials N] [--way WAY[,WAY]] [--engine ENGINE] [--pam] [--no-cgroups] [--realtime] [--json]
    ./dev trials --storm [--realtime] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from mep.daemon.controlclient import ask
from mep.wire.control import EndpointStatus, Request
from support.endpoint import Endpoint
from support.noise import cling
from support.program import Program, mep
from support.relay import Relay
from support.remote import WAIT_S, alive, by_source, escape, kill_9, titled
from support.rigs import make_open_dir
from support.wait import until

GONE_S = 2.0
NAME = "trials"
_SESSION = f"mep session: {NAME} "
USER_UID = 20001  # alice, in the sandbox
ENGINES = {"threads": "ThreadPoolEngine", "processes": "ProcessPoolEngine", "parsl": "GlobusComputeEngine"}
PAM_SERVICE = Path("/etc/pam.d/mep-trials")  # in the sandbox's own /etc
TEMPLATE = """\
engine:
  type: {{ engine }}
{% if engine == "GlobusComputeEngine" %}
  address: 127.0.0.1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}
{% endif %}
idle_heartbeats_soft: {{ idle }}
heartbeat_period: 5
"""


@dataclass
class Row:
    """One way to end: how long the last process lived on, per trial. `worst` is what the promise is about."""

    way: str
    seconds: list[float] = field(default_factory=list)
    left: int = 0  # trials after which somebody was still there

    @property
    def good(self) -> int:
        return sum(took <= GONE_S for took in self.seconds) - self.left

    def cells(self) -> dict[str, Any]:
        worst = max(self.seconds, default=0.0)
        return {
            "way": self.way,
            "trials": len(self.seconds),
            "good": self.good,
            "worst_s": round(worst, 3),
            "median_s": round(sorted(self.seconds)[len(self.seconds) // 2], 3) if self.seconds else None,
        }


class Rig:
    """A relay and one endpoint, started again after a trial that ends it. `cgroups` False: hidden from it.

    `engine`: one of ENGINES. `pam`: with a session of the modules that every host has.
    """

    def __init__(
        self, *, cgroups: bool = True, relay: Relay | None = None, engine: str = "threads", pam: bool = False
    ) -> None:
        self.folder = make_open_dir()
        self._own_relay = relay is None
        self.relay = relay or Relay(self.folder / "relay").start()
        self._cgroups = cgroups
        etc = self.folder / "etc"
        etc.mkdir()
        self.site = Endpoint(NAME, etc, self.relay)
        client = self.relay.client(NAME)
        self.site.extra_env |= {"MEP_CLIENT_ID": client.client_id, "MEP_CLIENT_SECRET": client.client_secret}
        config: dict[str, Any] = {"start_rate_per_user": None}
        if pam:
            PAM_SERVICE.write_text("account required pam_unix.so\nsession required pam_unix.so\n")
            config["pam"] = {"enable": True, "service_name": PAM_SERVICE.name}
        self.site.configure(template=TEMPLATE, config=config)
        self._engine, self._pam = ENGINES[engine], pam
        self.stopping: Program | None = None
        self._environment = dict(os.environ)
        os.environ |= self.relay.sdk_env("alice@example.org")

    def close(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        self.site.stop()
        PAM_SERVICE.unlink(missing_ok=True)
        if self._own_relay:
            self.relay.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the endpoint if it does not run."""
        program = self.site.program
        if program is not None and program.running:
            return
        if self._cgroups:
            self.site.start(wait=False)
            until(self._is_up, "the endpoint is up", timeout_s=30.0)
            return
        hidden = 'mount --make-rprivate / && umount -l /sys/fs/cgroup && exec "$@"'
        command = mep("--config-dir", self.site.config_dir, "start", NAME)
        self.site.program = Program.start(
            ["/usr/bin/unshare", "-m", "/bin/sh", "-c", hidden, "sh", *command],
            log=self.site.config_dir / f"{NAME}.log",
            env=self.site.environment(),
        )
        until(self._is_up, "the endpoint is up", timeout_s=30.0)

    def _status(self) -> EndpointStatus | None:
        reply = ask(self.site.state_dir / "control.sock", Request(verb="status"))
        return reply.status if reply is not None else None

    def _user_endpoint(self) -> int:
        status = self._status()
        assert status is not None
        [one] = status.user_endpoints
        return one.pid

    def _is_up(self) -> bool:
        status = self._status()
        return status is not None and status.state == "running"

    def trial(self, way: str) -> tuple[float, bool]:
        """End a user endpoint in one way; return how long anything of the user's lived on, and whether it does."""
        self.start()
        status = self._status()
        assert status is not None
        options = {"idle": 1 if way == "idle" else 0, "engine": self._engine}
        with by_source(status.endpoint_id, user_endpoint_config=options) as executor:
            executor.submit(escape).result(WAIT_S)
            executor.submit(cling).result(WAIT_S)
            main = self._user_endpoint()
        assert not self._pam or titled(_SESSION), "there is a session to be closed"
        monitor, gates = status.pid, titled(f"mep gate: {NAME}")
        pidfd = os.pidfd_open(main)
        try:
            WAYS[way](self, main, monitor, gates)
            began = time.monotonic()
            select.select([pidfd], [], [], 30.0)
            if way in ("idle", "mep stop"):
                began = time.monotonic()  # it may take leave as long as it likes: what it leaves is the question
        finally:
            os.close(pidfd)
        while (
            left := processes_of(USER_UID) + titled(f"mep session: {NAME} ")
        ) and time.monotonic() < began + 3 * GONE_S:
            time.sleep(0.005)
        took = time.monotonic() - began
        for pid in left:
            kill_9(pid)
        self._settle(way)
        return took, bool(left)

    def _settle(self, way: str) -> None:
        """Wait until a daemon that was ended is gone: the next one is to find nothing of it."""
        if way in ("idle", "kill -9 of UEP"):
            until(lambda: (now := self._status()) and not now.user_endpoints, "the monitor has noticed")
            return
        assert self.site.program is not None
        self.site.program.process.wait(30)
        if self.stopping is not None:
            self.stopping.process.wait(30)
            self.stopping = None
        until(lambda: not titled(f": {NAME}"), "monitor, gate and guard are gone", timeout_s=10.0)


def _stop(rig: Rig, _main: int, _monitor: int, _gates: list[int]) -> None:
    rig.stopping = Program.start(
        mep("--config-dir", rig.site.config_dir, "stop", NAME),
        log=rig.folder / "stop.log",
        env=rig.site.environment(),
    )


def _kill_gate_and_monitor(_rig: Rig, _main: int, monitor: int, gates: list[int]) -> None:
    for pid in (*gates, monitor):
        kill_9(pid)


WAYS: dict[str, Callable[[Rig, int, int, list[int]], None]] = {
    "idle": lambda *_: None,
    "mep stop": _stop,
    "kill -9 of UEP": lambda _rig, main, _monitor, _gates: kill_9(main),
    "kill -9 of monitor": lambda _rig, _main, monitor, _gates: kill_9(monitor),
    "kill -9 of gate+monitor": _kill_gate_and_monitor,
}


def processes_of(uid: int) -> list[int]:
    """Return the living processes of an account."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found.append(int(name))
            except OSError:
                continue
    return alive(found)


def run(rig: Rig, way: str, trials: int) -> Row:
    """Do `trials` trials of one way."""
    row = Row(way)
    for _ in range(trials):
        took, left = rig.trial(way)
        row.seconds.append(took)
        row.left += left
    return row


def main(argv: list[str]) -> int:
    """Run the trials and print the table; 1 if one of them left anything for longer than 2 s."""
    parser = argparse.ArgumentParser(prog="./dev trials", description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="of each way [100]")
    parser.add_argument("--way", default=",".join(WAYS), metavar="WAY[,WAY]", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--engine", default="threads", choices=ENGINES, help="what runs the tasks [threads]")
    parser.add_argument("--pam", action="store_true", help="with PAM sessions")
    parser.add_argument("--no-cgroups", action="store_true", help="hide cgroup v2 from the daemon")
    parser.add_argument("--storm", action="store_true", help="instead: 200 users' endpoints at once")
    parser.add_argument("--realtime", action="store_true", help="take precedence over whatever else runs")
    parser.add_argument("--json", action="store_true", help="one JSON line per row and no table")
    arguments = parser.parse_args(argv)
    if os.environ.get("MEP_SANDBOX") != "1":
        parser.error("needs the sandbox of throw-away users: sudo ./dev trials")
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if arguments.storm:
        import storm

        return storm.main(as_json=arguments.json)
    ways = arguments.way.split(",")
    if unknown := [way for way in ways if way not in WAYS]:
        parser.error(f"unknown way {unknown[0]!r}; ways: {', '.join(WAYS)}")
    rig = Rig(cgroups=not arguments.no_cgroups, engine=arguments.engine, pam=arguments.pam)
    rows = []
    try:
        for way in ways:
            rows.append(run(rig, way, arguments.trials))
            if arguments.json:
                print(json.dumps(rows[-1].cells()), flush=True)
    finally:
        rig.close()
    if not arguments.json:
        print(f"\n| {'end by':24} | gone within {GONE_S:.0f} s | {'median':>8} | {'longest':>8} |")
        print(f"|{'-' * 26}|{'-' * 17}|{'-' * 10}|{'-' * 10}|")
        for cells in (row.cells() for row in rows):
            good = f"{cells['good']} of {cells['trials']}"
            print(f"| {cells['way']:24} | {good:>15} | {cells['median_s']:6} s | {cells['worst_s']:6} s |")
    return 0 if all(row.good == len(row.seconds) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
