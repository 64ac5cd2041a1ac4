"""`sudo ./dev demo`: two users on one endpoint, from nothing to nothing. Runs inside tools/sandbox.py.

Everything goes through the public command line and the SDK. What is sent to the endpoint stands in this file on
purpose: functions of a script travel by value.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from demo_rig import NAME, RELAY_URL, DemoError, Rig
from mep import Client, Executor

ALICE, BOB, STRANGER = "alice@example.org", "bob@example.org", "mallory@elsewhere.example"
TASK_LIMIT_S = 30.0


def who_am_i() -> dict[str, Any]:
    """Tell who runs this, and where. Runs on the endpoint."""
    import os
    import pwd

    uid = os.getuid()
    return {
        "uid": uid,
        "user": pwd.getpwuid(uid).pw_name,
        "home": os.path.expanduser("~"),
        "pid": os.getpid(),
        "environment": dict(sorted(os.environ.items())),
    }


def divide(a: int, b: int) -> float:
    """Fail for b = 0. Runs on the endpoint."""
    return a / b


@dataclass
class Check:
    """A row of the summary."""

    what: str
    ok: bool
    seconds: float
    detail: str


@dataclass
class Demo:
    """What has been seen so far. `say` narrates, on stderr when stdout is for the JSON line."""

    say: Callable[[str], None]
    checks: list[Check] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def check(self, what: str, started: float, detail: str, *, ok: bool = True) -> None:
        self.checks.append(Check(what, ok, round(time.monotonic() - started, 3), detail))

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description="Two users on one endpoint.")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON line, the story on stderr")
    arguments = parser.parse_args()
    story = sys.stderr if arguments.json else sys.stdout
    demo = Demo(lambda text: print(text, file=story, flush=True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as ^C: what runs is stopped
    began = time.monotonic()
    status = run(demo)
    print_summary(demo, time.monotonic() - began, as_json=arguments.json)
    return status


def run(demo: Demo) -> int:
    """Play all scenes; return the exit status. Whatever happens, everything is stopped."""
    rig = Rig()
    status = 1
    try:
        endpoint_id = set_up(demo, rig)
        clients = {
            identity: Client(relay_url=RELAY_URL, token=rig.token(identity)) for identity in (ALICE, BOB, STRANGER)
        }
        demo.clients = list(clients.values())
        run_as_users(demo, rig, endpoint_id, clients)
        refuse(demo, endpoint_id, clients)
        status = 0
    except KeyboardInterrupt:
        demo.say("\nInterrupted: cleaning up.")
        demo.check("interrupted", time.monotonic(), "by a signal", ok=False)
        status = 130
    except DemoError as error:
        demo.say(f"\nThe demo cannot go on: {error}")
        demo.check("cannot go on", time.monotonic(), str(error).splitlines()[0], ok=False)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        clean_up(demo, rig)
    return status if demo.ok or status else 1


def set_up(demo: Demo, rig: Rig) -> str:
    """Start relay and endpoint; return the endpoint's id."""
    demo.say(
        "1. A relay: REST service, SQLite and a private RabbitMQ node.\n   $ mep relay serve --data-dir relay"
    )
    started = time.monotonic()
    rig.start_relay()
    demo.check("relay started", started, RELAY_URL)
    rig.make_client()

    demo.say(f"\n2. One multi-user endpoint, started by root.\n   $ mep configure {NAME} ...; mep start {NAME}")
    started = time.monotonic()
    folder = rig.configure()
    for file in ("user_config_template.yaml.j2", "identity_mapping.json"):
        demo.say(f"   {file}:\n" + indented((folder / file).read_text()))
    endpoint_id = rig.start_endpoint()
    demo.check("endpoint started", started, endpoint_id)
    return endpoint_id


def run_as_users(demo: Demo, rig: Rig, endpoint_id: str, clients: dict[str, Client]) -> None:
    """Alice and Bob run the same function with different options, and are told who they were."""
    demo.say("\n3. Alice and Bob send the same function, each with options of their own.")
    options: dict[str, dict[str, Any]] = {
        ALICE: {"engine": "ThreadPoolEngine", "workers": 2},
        BOB: {"engine": "ProcessPoolEngine", "workers": 1},
    }
    for identity, chosen in options.items():
        with Executor(endpoint_id=endpoint_id, user_endpoint_config=chosen, client=clients[identity]) as executor:
            started = time.monotonic()
            seen = executor.submit(who_am_i).result(TASK_LIMIT_S)
            first_s = time.monotonic() - started
            environment = seen.pop("environment")
            demo.say(f"   {identity} with {json.dumps(chosen)}, after {first_s:.3f} s:\n      {json.dumps(seen)}")
            demo.say("      environment: " + " ".join(f"{k}={v}" for k, v in environment.items()))
            wanted = identity.partition("@")[0]
            right = seen["user"] == wanted and seen["uid"] != 0 and environment.get("CLUSTER") == "demo"
            demo.check(f"{identity} ran", started, f"uid {seen['uid']} ({seen['user']}), {seen['home']}", ok=right)
            again = time.monotonic()
            executor.submit(who_am_i).result(TASK_LIMIT_S)
            demo.check(f"{wanted}'s next result", again, "same user endpoint")
            if identity == ALICE:
                fail_in_a_task(demo, executor)
    demo.say(f"\n4. What the administrator sees.\n   $ mep status {NAME}")
    demo.say(indented(rig.endpoint("status", NAME)))
    users = sorted(uep["user"] for uep in rig.status()["user_endpoints"])
    demo.check("status shows both", time.monotonic(), ", ".join(users), ok=users == ["alice", "bob"])


def fail_in_a_task(demo: Demo, executor: Executor) -> None:
    """A task's exception comes back with its traceback."""
    started = time.monotonic()
    text = error_of(lambda: executor.submit(divide, 1, 0).result(TASK_LIMIT_S))
    last = text.strip().splitlines()[-1] if text.strip() else ""
    demo.check("a task's exception", started, last, ok="ZeroDivisionError" in text)


def refuse(demo: Demo, endpoint_id: str, clients: dict[str, Client]) -> None:
    """A configuration outside the schema, and an identity that is nobody here."""
    demo.say("\n5. Alice asks for more than the schema allows.")
    started = time.monotonic()
    text = submit_error(clients[ALICE], endpoint_id, {"engine": "ThreadPoolEngine", "workers": 99})
    demo.say(indented(text))
    demo.check("refused configuration", started, one_line(text), ok="workers" in text and "99" in text)

    demo.say(f"\n6. {STRANGER} has an account at the relay, and none here.")
    started = time.monotonic()
    text = submit_error(clients[STRANGER], endpoint_id, {"engine": "ThreadPoolEngine", "workers": 1})
    demo.say(indented(text))
    demo.check("unmapped identity", started, one_line(text), ok="IDENTITY_NOT_MAPPED" in text)


def submit_error(client: Client, endpoint_id: str, options: dict[str, Any]) -> str:
    """Return the error that a submit ends in, "" if it succeeds."""
    executor = Executor(endpoint_id=endpoint_id, user_endpoint_config=options, client=client)
    try:
        return error_of(lambda: executor.submit(who_am_i).result(TASK_LIMIT_S))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def error_of(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever a user is shown is shown here
        return f"{type(error).__name__}: {error}"
    return ""


def clean_up(demo: Demo, rig: Rig) -> None:
    """Stop everything and count what is left."""
    demo.say(f"\n7. Everything stops.\n   $ mep stop {NAME}")
    started = time.monotonic()
    for client in demo.clients:
        client.close()
    killed = rig.stop()
    demo.check("stopped in order", started, ", ".join(f"{name} killed" for name in killed) or "yes", ok=not killed)
    started = time.monotonic()
    left = rig.leftovers()
    for entry in left:
        demo.say(f"   left: {entry}")
    demo.check("nothing left behind", started, left[0] if left else "no process, file or cgroup", ok=not left)


def print_summary(demo: Demo, seconds: float, *, as_json: bool) -> None:
    if as_json:
        rows = [asdict(check) for check in demo.checks]
        print(json.dumps({"ok": demo.ok, "seconds": round(seconds, 2), "checks": rows}), flush=True)
        return
    width = max(len(check.what) for check in demo.checks)
    print(f"\n{'':4} {'what':{width}} {'seconds':>8}  detail")
    for check in demo.checks:
        print(f"{'ok' if check.ok else 'FAIL':4} {check.what:{width}} {check.seconds:8.3f}  {check.detail[:100]}")
    print(f"\n{'everything as promised' if demo.ok else 'NOT as promised'}, {seconds:.1f} s", flush=True)


def indented(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.strip().splitlines())


def one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    if os.environ.get("MEP_SANDBOX") != "1":
        sys.exit("demo: run it as: sudo ./dev demo")
    sys.exit(main())
