"""Secrets show nowhere: no log, title, environment, result, repr or file that somebody else can read holds one."""

from __future__ import annotations

import os
import resource
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mep import Client, Executor
from support.endpoint import Endpoint
from support.planted import broker_passwords, files_below, findings, seal_keys
from support.remote import WAIT_S, alive, by_source, kill_9, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(180)

#: The daemon's, the relay's, its broker's; of all accounts, of one; the user endpoint's, its batch workers'.
LOGS = (
    "secretive.log",
    "relay.log",
    "rabbit",
    "audit.log",
    "audit.log.tasks.",
    "endpoint.log",
    "output.log",
    "interchange.log",
    "manager.log",
)
OPTION = "planted-option-4c1e"
TEMPLATE = """\
engine:
{% if "parsl" in (engine | default("")) %}
  type: GlobusComputeEngine
  max_workers_per_node: 1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}
{% else %}
  type: {{ engine | default("ThreadPoolEngine") }}
{% endif %}
display_name: {{ password | default('none') }}
"""


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
    for engine in ("ProcessPoolEngine", "parsl"):
        with by_source(site.id, user_endpoint_config={"password": OPTION, "engine": engine}) as executor:
            executor.submit(process_id).result(WAIT_S)
            expect_failure(lambda ex=executor: ex.submit(fail).result(WAIT_S))  # type: ignore[misc]
    ids += [one["uep_id"] for one in site.user_endpoints()]
    for options in ({"password": {"x": OPTION}}, {"password": OPTION, "number": "x"}):
        with by_source(site.id, user_endpoint_config=options) as executor:
            expect_failure(lambda ex=executor: ex.submit(process_id).result(WAIT_S))  # type: ignore[misc]
    sdk_env("lowuid@example.org")
    with by_source(site.id) as executor:
        expect_failure(lambda: executor.submit(process_id).result(WAIT_S))
    kill_9(titled(f"mep gate: {site.name}")[0])
    until(lambda: site.status()["broker"]["state"] == "connected", "there is a gate again")
    for command in (["status", site.name], ["diagnose"]):
        told += [site.mep(*command, *form).stdout for form in ([], ["--json"])]
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
    places = {"what is in /run/mep": "\n".join(files_below(Path("/run/mep")).values())}
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
    places |= {
        "what users were told": "\n".join(told),
        "reprs": "\n".join(shown),
        "titles": "\n".join(title.decode(errors="replace") for title in watcher.titles),
        "environments": "\n".join(one.decode(errors="replace") for one in watcher.environments),
    }
    assert all(places[name] for name in places if name not in ("environments", "what is in /run/mep"))
    assert any(b"mep gate: secretive" in title for title in watcher.titles)
    written = files_below(site.config_dir, Path("/home/alice"), site.relay.data_dir, but=(keys,))
    written |= files_below(Path("/tmp"), Path("/run/mep"))
    logs = {path: text for path, text in written.items() if path.endswith(".log") or ".log." in path}
    assert site.relay.program is not None
    logs["relay.log"] = site.relay.program.text()
    brokers = files_below(*Path("/var/tmp").glob("mep-broker-*"))
    logs |= {path: text for path, text in brokers.items() if path.endswith(".log")}
    for wanted in LOGS:
        assert any(wanted in path and logs[path] for path in logs), (wanted, sorted(logs))
    assert findings(secrets, places | written | logs) == []
    assert findings(secrets, {"planted": f"a line with {secrets['tokens'][0]} in it"}) == ["tokens in planted"]
    others = {path: text for path, text in (places | logs).items() if "/home/alice/" not in path}
    others = {where: text for where, text in others.items() if where not in ("what users were told", "reprs")}
    assert [where for where, text in others.items() if OPTION in text] == [], "an option is the user's own"


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
