"""Secrets show nowhere: no log, title, environment, result, repr or file that somebody else can read holds one."""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mep import Client, Executor
from mep.relay.auth.keys import Keys
from mep.relay.seals import Seals
from support.endpoint import Endpoint
from support.remote import WAIT_S, alive, by_source, kill_9, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(180)

OPTION = "planted-option-4c1e"
TEMPLATE = "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\ndisplay_name: {{ password | default('none') }}\n"


class Watcher(threading.Thread):
    """Collects all titles, and the environments of the endpoint's and users' processes, while it runs."""

    def __init__(self) -> None:
        super().__init__(name="watcher")
        self.titles: set[bytes] = set()
        self.environments: set[bytes] = set()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.02):
            for name in os.listdir("/proc"):
                if name.isdigit():
                    self._look(Path("/proc", name))

    def stop(self) -> None:
        self._end.set()
        self.join()

    def _look(self, process: Path) -> None:
        try:
            title = (process / "cmdline").read_bytes()
            self.titles.add(title)
            ours = title.startswith(b"mep ") and b"request" not in title
            if ours or process.stat().st_uid >= 20000:
                self.environments.add((process / "environ").read_bytes())
        except OSError:
            pass  # it has ended


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def core_dumps_wanted() -> Iterator[None]:
    """A soft limit that would let every program that we start leave a core file."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("core files are forbidden here for good")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def fail() -> None:
    """Runs in the user endpoint."""
    raise ValueError("on purpose")


def crash() -> None:
    """Runs in the user endpoint."""
    import os

    os.abort()


def own_broker_url() -> str:
    """Runs in the user endpoint."""
    import gc

    for one in gc.get_objects():
        if type(one).__name__ == "Links":
            url: str = one._creds.task_queue_info.connection_url.reveal()
            return url
    return ""


def broker_passwords(site: Endpoint, ids: list[str]) -> list[str]:
    """Return what the relay derives for these accounts, of any generation so far."""
    secret = (site.relay.data_dir / "keys" / "broker-secret").read_bytes().strip()
    names = [
        f"{kind}.{one}:{generation}" for one in ids for kind in ("ep", "uep", "sdk") for generation in range(4)
    ]
    return [hmac.new(secret, name.encode(), hashlib.sha256).hexdigest() for name in names]


def seal_keys(site: Endpoint, ids: list[str]) -> list[str]:
    """Return what the relay derives for these to seal with."""
    seals = Seals(Keys(site.relay.data_dir).broker_secret)
    kinds = (seals.endpoint_key, seals.uep_key, lambda one, _seals: seals.sdk_key(one))
    return [key(one, 1).reveal() for one in ids for key in kinds]


def live(site: Endpoint, sdk_env: SdkEnv) -> tuple[list[str], list[str]]:
    """Let everything happen that can; return what users were told, and the ids of all who have accounts."""
    told: list[str] = []
    ids = [site.id]

    def expect_failure(ask: Callable[[], object]) -> None:
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, a user may see all of it
            told.append("".join(traceback.format_exception(error)))
        else:
            raise AssertionError("it was to fail")

    sdk_env("alice@example.org")
    with by_source(site.id, user_endpoint_config={"password": OPTION}) as executor:
        executor.submit(process_id).result(WAIT_S)
        [uep] = site.user_endpoints()
        ids.append(uep["uep_id"])
        expect_failure(lambda: executor.submit(fail).result(WAIT_S))
        expect_failure(lambda: executor.submit(crash).result(WAIT_S))
        told.append(repr(executor))
    for options in ({"password": {"x": OPTION}}, {"password": OPTION, "number": "x"}):
        with by_source(site.id, user_endpoint_config=options) as executor:
            expect_failure(lambda ex=executor: ex.submit(process_id).result(WAIT_S))  # type: ignore[misc]
    sdk_env("lowuid@example.org")
    with by_source(site.id) as executor:
        expect_failure(lambda: executor.submit(process_id).result(WAIT_S))
    kill_9(titled(f"mep gate: {site.name}")[0])
    until(lambda: site.status()["broker"]["state"] == "connected", "there is a gate again")
    told.append(site.mep("status", site.name).stdout)
    return told, ids


def test_no_secret_shows_anywhere(endpoint: MakeEndpoint, sdk_env: SdkEnv, watcher: Watcher) -> None:
    schema = {
        "type": "object",
        "properties": {"password": {"type": "string"}, "number": {"type": "integer"}},
    }
    site = endpoint("secretive", template=TEMPLATE, schema=schema)
    alice = sdk_env("alice@example.org")["MEP_TOKEN"]
    client = Client()
    with Executor(site.id) as executor:
        shown = [repr(client), repr(executor), repr(vars(client)), str(client.get_endpoint_status(site.id))]
        me = client.whoami()
    ids = [site.id, *(str(value) for value in me.values())]
    client.close()
    told, more = live(site, sdk_env)
    low = sdk_env("lowuid@example.org")["MEP_TOKEN"]
    until(lambda: titled("mep gate: secretive"), "all run")
    mine = next(Path("/home/alice/.local/state/mep").iterdir())
    site.mep("stop", "secretive")
    watcher.stop()
    keys = site.relay.data_dir / "keys"
    pem = "".join(line for line in (keys / "start-1.pem").read_text().splitlines() if "-" not in line)
    secrets = {
        "the client's secret": [site.extra_env["MEP_CLIENT_SECRET"]],
        "tokens": [alice, low],
        "the relay's signing key": [pem],
        "the relay's broker secret": [(keys / "broker-secret").read_text().strip()],
        "broker passwords": broker_passwords(site, [*ids, *more]),
        "keys of seals": seal_keys(site, [*ids, *more]),
    }
    relay_log = site.relay.program.text() if site.relay.program else ""
    places = {
        "the relay's log": relay_log,
        "the daemon's log": site.log_text(),
        "the audit log": (site.state_dir / "audit.log").read_text(),
        "the user's log": (mine / "endpoint.log").read_text() + (mine / "output.log").read_text(),
        "what users were told": "\n".join(told),
        "reprs": "\n".join(shown),
        "titles": "\n".join(title.decode(errors="replace") for title in watcher.titles),
        "environments": "\n".join(one.decode(errors="replace") for one in watcher.environments),
    }
    assert all(places[name] for name in places if name != "environments")
    assert any(b"mep gate: secretive" in title for title in watcher.titles)
    found = [
        f"{what} in {where}"
        for where, text in places.items()
        for what, values in secrets.items()
        if any(value in text for value in values)
    ]
    assert found == []
    others = ("the relay's log", "the daemon's log", "the audit log", "titles", "environments")
    assert [where for where in others if OPTION in places[where]] == [], "an option is the user's own"


def test_broker_passwords_are_what_the_search_looks_for(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("known")
    sdk_env("alice@example.org")

    with by_source(site.id) as executor:
        url = executor.submit(own_broker_url).result(WAIT_S)
    [uep] = site.user_endpoints()
    assert any(one in url for one in broker_passwords(site, [uep["uep_id"]]))


def test_nobody_leaves_a_core_file(core_dumps_wanted: None, endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("coreless")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = [executor.submit(process_id).result(WAIT_S), *titled(": coreless")]
    assert len(pids) == 4, "user endpoint, monitor, gate, guard"
    for pid in alive(pids):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        [soft] = [line.split()[4] for line in limits if line.startswith("Max core file size")]
        assert soft == "0", Path(f"/proc/{pid}/cmdline").read_text()
    [gate] = titled("mep gate: coreless")
    assert Path(f"/proc/{gate}/environ").stat().st_uid == 0, "it can be dumped or traced by its account"


def test_state_is_private_and_homes_hold_only_their_users_files(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("owned")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
        assert site.state_dir.stat().st_mode & 0o777 == 0o700
        assert site.relay.data_dir.stat().st_mode & 0o777 == 0o700
        for path in [*site.state_dir.rglob("*"), *(site.relay.data_dir / "keys").rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0 or path.is_socket() or path.is_dir(), path
            assert path.stat().st_uid == 0, path
    site.mep("stop", "owned")
    uid = Path("/home/alice").stat().st_uid
    everything = [Path("/home/alice"), *Path("/home/alice").rglob("*")]
    assert len(everything) > 5
    assert [path for path in everything if path.lstat().st_uid != uid] == []
    state = next(Path("/home/alice/.local/state/mep").iterdir())
    assert state.stat().st_mode & 0o777 == 0o700
