"""Who may, and how many: every rule through relay, daemon and SDK, with its code and what to do next."""

from __future__ import annotations

import grp
import json
import pwd
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mep import Client
from mep.base.codes import Code
from mep.base.ids import new_id
from mep.daemon.controlclient import ask
from mep.sdk.errors import ComputeAPIError, TaskExecutionFailed
from mep.wire.control import Request
from support.endpoint import Endpoint
from support.program import clean_environment
from support.program import run as run_program
from support.remote import WAIT_S, assert_refused, by_source, process_id, refusal
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@example.org"
SLOW_MAPPER = """\
#!{python}
import json, pathlib, sys, time
identity = json.load(sys.stdin)["identities"][0]["id"]
pathlib.Path("{asked}").touch()
while not pathlib.Path("{go}").exists():
    time.sleep(0.02)
print(json.dumps({{"result": [{{"id": identity, "output": "alice"}}]}}))
"""
ONE_AT_A_TIME = "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\n# {{ n | default(0) }}\n"


def wait_for(path: str) -> int:
    """Runs in the user endpoint: until the file is there; its pid."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.02)
    return os.getpid()


def groups() -> list[int]:
    """Runs in the user endpoint: its groups."""
    import os

    return sorted(os.getgroups())


def run(command: list[str]) -> None:
    run_program(command, env=clean_environment())


def set_rules(site: Endpoint, **rules: Any) -> None:
    """Edit config.yaml as an administrator does, and return when the daemon has read it."""
    config = site.directory / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if line.partition(":")[0] not in rules]
    before = site.log_text().count("config.yaml: the change is in force")
    config.write_text("\n".join([*lines, *(f"{key}: {json.dumps(value)}" for key, value in rules.items()), ""]))
    until(
        lambda: site.log_text().count("config.yaml: the change is in force") > before, "config.yaml is read again"
    )


def works(site: Endpoint, **options: Any) -> int:
    with by_source(site.id, user_endpoint_config=options) as executor:
        return int(executor.submit(process_id).result(WAIT_S))


def test_rules_about_accounts_apply_as_soon_as_config_yaml_changes(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint()
    sdk_env(ALICE)
    first = works(site)
    group = grp.getgrgid(pwd.getpwnam("alice").pw_gid).gr_name
    for rules, code in (
        ({"denied_users": ["al*"]}, Code.IDENTITY_DENIED),
        ({"denied_users": [], "denied_groups": [group]}, Code.IDENTITY_DENIED),
        ({"denied_groups": [], "allowed_users": ["bob"]}, Code.IDENTITY_DENIED),
        ({"allowed_users": None, "allowed_groups": ["nobody-is-in-it"]}, Code.IDENTITY_DENIED),
        ({"allowed_groups": None, "min_uid": pwd.getpwnam("alice").pw_uid + 1}, Code.IDENTITY_UID_TOO_LOW),
    ):
        set_rules(site, **rules)
        assert_refused(refusal(site, user_endpoint_config={"case": str(rules)}), code)
    assert works(site) == first, "who is in stays in, until stopped"
    set_rules(site, min_uid=1000, allowed_users=["bob"], allowed_groups=[group])
    assert works(site, case="allowed by group") != first
    sdk_env(BOB)
    works(site)


def test_a_broken_config_yaml_keeps_the_rules_and_says_so(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint(config={"denied_users": ["alice"]})
    config = site.directory / "config.yaml"
    good = config.read_text()
    config.write_text(good + "denied_usrs: []\n")
    until(lambda: site.status()["broken_files"], "status tells of the broken file")
    assert "denied_users" in site.status()["broken_files"][0]["error"], "the nearest known key"
    sdk_env(ALICE)
    assert_refused(refusal(site), Code.IDENTITY_DENIED)
    config.write_text(good.replace('"alice"', '"carol"') + "heartbeat_period: 17\n")
    until(lambda: "next start" in str(site.status()["broken_files"]), "what waits for a start is named")
    assert "heartbeat_period" in site.status()["broken_files"][0]["error"]
    works(site)


def test_how_many_and_how_often(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint(config={"max_user_endpoints": 3, "max_user_endpoints_per_user": 2})
    sdk_env(ALICE)
    pids = [works(site, n=number) for number in (1, 2)]
    assert_refused(refusal(site, user_endpoint_config={"n": 3}), Code.USER_LIMIT_REACHED)
    assert works(site, n=1) == pids[0], "what runs is not a further one"
    sdk_env(BOB)
    works(site)
    text = refusal(site, user_endpoint_config={"n": 4})
    assert_refused(text, Code.ENDPOINT_FULL)
    assert "3" not in text, "how many others there are is nobody's business"
    set_rules(site, max_user_endpoints=10, max_user_endpoints_per_user=10, start_rate_per_user=3)
    works(site, n=5)
    works(site, n=6)
    assert_refused(refusal(site, user_endpoint_config={"n": 7}), Code.START_RATE_EXCEEDED)
    sdk_env(ALICE)
    works(site, n=8)
    assert {entry["code"] for entry in site.status()["last_refusals"]} == {
        Code.USER_LIMIT_REACHED,
        Code.ENDPOINT_FULL,
        Code.START_RATE_EXCEEDED,
    }


def test_functions_are_restricted_at_the_relay_and_again_at_the_user_endpoint(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    sdk_env(ALICE)
    with by_source(new_id()) as nowhere:
        first, second, third = (nowhere.register_function(f) for f in (process_id, wait_for, groups))
    template = f"{ONE_AT_A_TIME}allowed_functions: [{first}]\n"
    site = endpoint(template=template, config={"allowed_functions": [first, second]})
    with by_source(site.id) as executor:
        executor.submit_to_registered_function(first).result(WAIT_S)
        with pytest.raises(ComputeAPIError) as by_relay:
            executor.submit_to_registered_function(third).result(WAIT_S)
        with pytest.raises(TaskExecutionFailed) as by_user_endpoint:
            executor.submit_to_registered_function(second).result(WAIT_S)
    assert by_relay.value.http_status == 403
    assert "FUNCTION_NOT_PERMITTED" in str(by_relay.value)
    assert "Ask its administrator" in str(by_relay.value)
    assert_refused(str(by_user_endpoint.value), Code.FUNCTION_NOT_ALLOWED)
    assert Client().get_allowed_functions(site.id)["restricted"] is True
    set_rules(site, allowed_functions=[first, second, third])
    with by_source(site.id) as executor:

        def asked() -> bool:
            with pytest.raises((ComputeAPIError, TaskExecutionFailed)) as caught:
                executor.submit_to_registered_function(third).result(WAIT_S)
            return "FUNCTION_NOT_ALLOWED" in str(caught.value)

        until(asked, "the relay knows the new list; the template's still holds", every_s=0.2)


def test_draining_finishes_what_is_there_refuses_what_is_new_and_can_be_taken_back(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    site = endpoint(template=ONE_AT_A_TIME)
    gate = open_dir / "go"
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        running = executor.submit(wait_for, str(gate))
        until(lambda: running.task_id, "it is on its way")
        until(lambda: site.user_endpoints() and site.user_endpoints()[0]["state"] == "running", "it runs")
        site.mep("drain", site.name)
        queued = executor.submit(process_id)
        assert_refused(refusal(site, user_endpoint_config={"n": 1}), Code.ENDPOINT_DRAINING)
        gate.touch()
        assert running.result(WAIT_S) == queued.result(WAIT_S)
    assert site.status()["state"] == "draining"
    site.mep("drain", site.name, "--off")
    works(site, n=1)


def test_a_stopped_users_running_tasks_finish_and_queued_ones_run_in_the_next_user_endpoint(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    site = endpoint(template=ONE_AT_A_TIME)
    gate = open_dir / "go"
    sdk_env(BOB)
    bobs = works(site)
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        running, queued = executor.submit(wait_for, str(gate)), executor.submit(process_id)
        begun(running, queued)
        assert "NOT_FOUND" in site.mep("stop-user", site.name, "carol", check=False).stderr
        site.mep("stop-user", site.name, "alice")
        at_once = executor.submit(process_id)  # meets one that is leaving
        gate.touch()
        assert running.result(WAIT_S) == first
        assert queued.result(WAIT_S) != first
        assert at_once.result(WAIT_S) == queued.result(WAIT_S)
    assert {uep["user"]: uep["pid"] for uep in site.user_endpoints()}["bob"] == bobs


def test_a_user_who_is_denied_and_stopped_is_out(endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path) -> None:
    site = endpoint(template=ONE_AT_A_TIME)
    gate = open_dir / "go"
    sdk_env(BOB)
    bobs = works(site)
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        running, queued = executor.submit(wait_for, str(gate)), executor.submit(process_id)
        begun(running, queued)
        set_rules(site, denied_users=["alice"])
        site.mep("stop-user", site.name, "alice")
        gate.touch()
        assert running.result(WAIT_S) == first
        with pytest.raises(TaskExecutionFailed) as caught:
            queued.result(WAIT_S)
        assert_refused(str(caught.value), Code.IDENTITY_DENIED)
    assert_refused(refusal(site), Code.IDENTITY_DENIED)
    sdk_env(BOB)
    assert works(site) == bobs


def test_who_is_denied_and_stopped_while_the_mapping_is_asked_does_not_start_after_it(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    program, asked, go = (open_dir / name for name in ("mapper", "asked", "go"))
    program.write_text(SLOW_MAPPER.format(python=sys.executable, asked=asked, go=go))
    program.chmod(0o755)
    slow = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(program)]}
    site = endpoint(mapping=[slow], config={"mapping_timeout_s": 30})
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        future = executor.submit(process_id)
        until(asked.exists, "the mapping is asked")
        with (site.directory / "config.yaml").open("a") as config:
            config.write("denied_users: [alice]\n")
        ask(site.state_dir / "control.sock", Request(verb="stop-user", user="alice"))  # at once
        go.touch()
        with pytest.raises(TaskExecutionFailed) as caught:
            future.result(WAIT_S)
        assert_refused(str(caught.value), Code.IDENTITY_DENIED)
    assert " admitted by " not in site.log_text()


def begun(*futures: Future[Any]) -> None:
    """Wait until the relay has taken them."""
    for future in futures:
        until(lambda f=future: f.task_id, "the relay has the task")  # type: ignore[misc]
    time.sleep(0.3)  # the last step to the user endpoint has no sign outside


def test_changed_groups_hold_from_the_next_user_endpoint_on(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint()
    sdk_env(CAROL)

    with by_source(site.id) as executor:
        before = executor.submit(groups).result(WAIT_S)
        run(["groupadd", "--gid", "4711", "later"])
        try:
            run(["usermod", "--append", "--groups", "later", "carol"])
            assert executor.submit(groups).result(WAIT_S) == before, "no running process gets other rights"
            site.mep("stop-user", site.name, "carol")
            until(lambda: not site.user_endpoints(), "it is gone")
            assert executor.submit(groups).result(WAIT_S) == sorted([*before, 4711])
        finally:
            run(["groupdel", "later"])
