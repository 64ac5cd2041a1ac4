"""Each file that is read again when it changes: a good change counts at once, a bad one never, and says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mep.daemon.controlclient import ask
from mep.sdk.errors import ComputeAPIError, TaskExecutionFailed
from mep.wire.control import FileStatus, Request
from support.endpoint import MAPPING, Endpoint
from support.relay import Relay
from support.remote import WAIT_S, by_source
from support.rigs import SdkEnv, make_open_dir
from support.wait import until

pytestmark = pytest.mark.timeout(120)

TEMPLATE = 'engine:\n  type: ThreadPoolEngine\n# {{ n }}\n{% include "common.j2" %}\n'
TO_BOB = [{**MAPPING[0], "mappings": [{"source": "{username}", "match": ".*", "output": "bob"}]}]


@dataclass(frozen=True)
class Case:
    """A file: a version that shows by `sign` in what becomes of a task, and one that is broken."""

    name: str
    good: str
    sign: str
    broken: str


CASES = [
    Case("user_config_template.yaml.j2", TEMPLATE + "# {{ from_template }}\n", "from_template", "{% if %}\n"),
    Case("common.j2", "# {{ from_include }}\n", "from_include", "{% if %}\n"),
    Case("user_config_schema.json", json.dumps({"required": ["from_schema"]}), "from_schema", "{"),
    Case("user_environment.yaml", "MARKER: from_environment\n", "from_environment", "- no mapping\n"),
    Case("identity_mapping.json", json.dumps(TO_BOB), "as bob", "[{"),
]


@pytest.fixture(scope="module")
def site(relay: Relay) -> Iterator[Endpoint]:
    """One endpoint for all cases; each leaves its file as it was."""
    folder = make_open_dir()
    (folder / "etc").mkdir()
    made = Endpoint("live", folder / "etc", relay)
    client = relay.client("live")
    made.extra_env |= {"MEP_CLIENT_ID": client.client_id, "MEP_CLIENT_SECRET": client.client_secret}
    made.configure(template=TEMPLATE)
    (made.directory / "common.j2").write_text("# nothing\n")
    (made.directory / "user_environment.yaml").write_text("MARKER: none\n")
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def see() -> str:
    """Runs in the user endpoint."""
    import os
    import pwd

    return f"as {pwd.getpwuid(os.getuid()).pw_name}, {os.environ['MARKER']}"


def outcome(site: Endpoint, number: str) -> str:
    """Return what becomes of a task for a user endpoint of its own: what it saw, or why there is none."""
    with by_source(site.id, user_endpoint_config={"n": number}) as executor:
        try:
            return str(executor.submit(see).result(WAIT_S))
        except (ComputeAPIError, TaskExecutionFailed) as error:
            return str(error)


def broken_files(site: Endpoint) -> list[FileStatus]:
    reply = ask(site.state_dir / "control.sock", Request(verb="status"))
    assert reply is not None
    assert reply.status is not None
    return reply.status.broken_files


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_good_change_counts_and_a_broken_or_unsafe_one_keeps_the_last_good(
    site: Endpoint, sdk_env: SdkEnv, case: Case
) -> None:
    sdk_env("alice@example.org")
    path = site.directory / case.name
    original = path.read_text()
    before = site.log_text().count("the change is in force")
    path.write_text(case.good)
    until(lambda: site.log_text().count("the change is in force") > before, "the change is in force")
    assert case.sign in outcome(site, f"good {case.name}")

    path.write_text(case.broken)
    until(lambda: broken_files(site), "status tells of the broken file")
    assert case.name in broken_files(site)[0].error
    assert f"the change is not in force: {broken_files(site)[0].error}" in site.log_text()
    assert case.sign in outcome(site, f"broken {case.name}")

    path.chmod(0o666)
    path.write_text(original)
    until(lambda: "CONFIG_UNTRUSTED" in broken_files(site)[0].error, "that others can write it is noticed")
    assert str(path) in broken_files(site)[0].error
    assert case.sign in outcome(site, f"unsafe {case.name}")

    path.chmod(0o644)
    until(lambda: not broken_files(site), "it is good again")
    assert "Traceback" not in site.log_text()
