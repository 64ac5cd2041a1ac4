"""Limits by the cgroup's controllers, in a virtual machine that has them: the real unit, the SDK outside."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from mep import Executor
from mep.relay.brokeraddress import BrokerAddress
from mep.sdk.errors import TaskExecutionFailed
from support.eaters import eat_memory, fork_many, my_cgroup, spin
from support.machine import SLOW_S, Machine, find_image
from support.machinesite import MachineSite
from support.relay import Relay
from support.remote import by_source, process_id

pytestmark = pytest.mark.timeout(900)  # on a machine with little else to do, all of them take two to three minutes

CONFIG = """\
limits:
  memory: 400 MiB
  swap: 100 MiB
  pids: 100
  cpu: 2
start_timeout_s: 120
pam: {enable: true}
"""
TEMPLATE = """\
engine:
  type: {{ engine }}
{% if engine == "GlobusComputeEngine" %}
  max_workers_per_node: 1
  address: 127.0.0.1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}
{% else %}
  max_workers: 2
{% endif %}
limits: {memory: {{ memory }}, swap: {{ swap }}, pids: {{ pids }}, cpu: {{ cpu }}}
"""
LIMITS = {"memory": "200 MiB", "swap": 0, "pids": 60, "cpu": 1}

Become = Callable[..., Executor]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all tests here: it takes half a minute to come up."""
    running = Machine(find_image())
    try:
        yield running.boot()
    finally:
        running.close()


@pytest.fixture(scope="module")
def site(machine: Machine, relay: Relay, broker_node: BrokerAddress) -> Iterator[MachineSite]:
    """The endpoint inside; what it has said is shown where a test fails."""
    machine.run("mkswap", "/dev/vdc")  # `swap: 0` is to say something
    machine.run("swapon", "/dev/vdc")
    made = MachineSite(machine, relay, urlsplit(broker_node.amqp.reveal()).port or 0)
    made.configure(config=CONFIG, template=TEMPLATE)
    made.start()
    yield made
    print(made.journal())


@pytest.fixture
def become(site: MachineSite, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Call it with a user and options to get that user's executor."""

    def executor(user: str, engine: str = "ThreadPoolEngine", **limits: Any) -> Executor:
        for name, value in relay.sdk_env(f"{user}@example.org").items():
            monkeypatch.setenv(name, value)
        return by_source(site.id, user_endpoint_config={"engine": engine, **LIMITS, **limits})

    return executor


def failure_of(executor: Executor, *call: Any) -> str:
    """Return the text with which this call fails."""
    with pytest.raises(TaskExecutionFailed) as caught:
        executor.submit(*call).result(SLOW_S)
    return str(caught.value)


def test_check_and_status_say_which_controllers_limit(site: MachineSite) -> None:
    wanted = "limited by cgroup (memory, swap, pids, cpu)"
    assert f"as a service (mep@NAME), {wanted}" in site.mep("check", "site")
    assert wanted in site.mep("status", "site")


def test_every_limit_is_the_lower_one_of_config_and_template(become: Become) -> None:
    with become("alice", cpu=0.5) as executor:
        own = executor.submit(my_cgroup).result(SLOW_S)
    path = own.pop("path")
    assert "/mep@site.service/mep-site-" in path
    assert path.endswith("/user"), "what holds the PAM session is not limited by what the user does"
    assert own == {
        "memory.max": str(200 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "0",
        "pids.max": "60",
        "cpu.max": "50000 100000",
    }
    with become("alice", memory="2 GiB", swap="1 GiB", pids=10_000, cpu=64) as executor:
        own = executor.submit(my_cgroup).result(SLOW_S)
    assert (own["memory.max"], own["memory.swap.max"]) == (str(400 << 20), str(100 << 20))
    assert (own["pids.max"], own["cpu.max"]) == ("100", "200000 100000")


def test_a_user_endpoint_that_meets_its_memory_limit_tells_its_users(become: Become, site: MachineSite) -> None:
    with become("alice") as executor:
        assert executor.submit(eat_memory, 50).result(SLOW_S) == 50
        text = failure_of(executor, eat_memory, 300)
        assert text.startswith("LIMIT_EXCEEDED: Your user endpoint was killed: memory limit 200 MiB. ")
        assert executor.submit(eat_memory, 50).result(SLOW_S) == 50, "the next one serves"
    assert "killed: memory limit 200 MiB" in site.journal()


def test_a_worker_that_meets_the_memory_limit_fails_its_task_alone(become: Become, site: MachineSite) -> None:
    with become("bob", "ProcessPoolEngine") as executor:
        executor.submit(process_id).result(SLOW_S)
        before = [uep["pid"] for uep in site.user_endpoints() if uep["user"] == "bob"]
        text = failure_of(executor, eat_memory, 300)
        assert text.startswith("LIMIT_EXCEEDED: The worker (pid ")
        assert "that ran this task was killed: memory limit 200 MiB. " in text
        assert executor.submit(eat_memory, 50).result(SLOW_S) == 50
        assert [uep["pid"] for uep in site.user_endpoints() if uep["user"] == "bob"] == before


def test_a_parsl_worker_that_meets_the_memory_limit_fails_its_task_alone(become: Become) -> None:
    with become("bob", "GlobusComputeEngine", memory="380 MiB") as executor:
        executor.submit(process_id).result(SLOW_S)
        text = failure_of(executor, eat_memory, 500)
        assert text.startswith("LIMIT_EXCEEDED: ")
        assert "killed: memory limit 380 MiB" in text
        assert executor.submit(eat_memory, 20).result(SLOW_S) == 20


def test_a_fork_bomb_ends_at_the_limit_and_others_are_served(become: Become, machine: Machine) -> None:
    with become("alice", "ProcessPoolEngine") as executor:
        bomb = executor.submit(fork_many, 1000, "/tmp/defused")
        with become("bob") as other:
            assert other.submit(eat_memory, 10).result(SLOW_S) == 10
        assert not bomb.done()
        machine.write("/tmp/defused", "")
        count, refusal = bomb.result(SLOW_S)
        assert refusal == errno.EAGAIN
        assert 40 < count < 60


def test_cpu_time_is_limited(become: Become) -> None:
    with become("alice", "ProcessPoolEngine", cpu=0.3) as executor:
        assert executor.submit(spin, 5.0).result(SLOW_S) < 0.5


def test_nothing_is_left_when_the_unit_has_stopped(become: Become, site: MachineSite) -> None:
    with become("alice") as executor:
        executor.submit(process_id).result(SLOW_S)
    site.stop()
    found = "answer = sorted(pwd.getpwuid(os.stat(p).st_uid).pw_name for p in glob.glob('/proc/[0-9]*'))"
    people = site.machine.evaluate(f"import glob, os, pwd\n{found}")
    assert not {"alice", "bob", "mep"} & set(people)
    assert not site.machine.evaluate(
        "import glob\nanswer = glob.glob('/sys/fs/cgroup/system.slice/system-mep.slice/*/*/')"
    )
