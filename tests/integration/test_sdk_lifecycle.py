"""Executors over time: sessions, broken connections, shutdown, forks, the end of the process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import CancelledError, as_completed
from urllib.parse import quote, urlsplit

import pytest

from mep import Client, Executor, TaskExecutionFailed
from mep.base.ids import new_id
from mep.relay.brokeraddress import BrokerAddress
from mep.wire.envelope import Result, encode
from support.broker import manage
from support.sdkrig import SOON_S, MakeExecutor, accepted, double, fail_with
from support.smallrelay import SmallRelay
from support.wait import until


def test_another_session_gets_everything_back(executor: MakeExecutor, small: SmallRelay) -> None:
    first = executor()
    done = [first.submit(double, n) for n in range(3)] + [first.submit(fail_with, "x")]
    for future in done:
        future.exception(SOON_S)
    small.faults.hold_results = True
    waiting = first.submit(double, 50)
    task = accepted(waiting)
    with small._lock:
        small.tasks[task], later = {"task_id": task, "status": "pending"}, small.tasks[task]
    group = first.task_group_id
    first.shutdown(wait=True, cancel_futures=True)

    second = executor()
    futures = {f.task_id: f for f in second.reload_tasks(group)}
    assert second.task_group_id == group
    assert list(futures) == small.groups[group]
    assert [futures[f.task_id].result(0) for f in done[:3]] == [0, 2, 4]
    assert isinstance(futures[done[3].task_id].exception(0), TaskExecutionFailed)
    assert not futures[task].done()
    small.publish(group, encode(Result(task_id=task, data=later["result"])))
    assert futures[task].result(SOON_S) == 100
    assert second.reload_tasks()[0].result(0) == 0


def test_shutdown_waits_for_what_was_submitted(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.submit_delay_s = 0.2
    with executor() as ex:
        futures = [ex.submit(double, n) for n in range(10)]
    assert all(f.done() for f in futures)
    with pytest.raises(RuntimeError, match="shut down"):
        ex.submit(double, 1)


def test_shutdown_can_leave_the_rest_to_the_background(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.submit_delay_s = 0.2
    ex = executor()
    future = ex.submit(double, 1)
    ex.shutdown(wait=False)
    assert not future.done()
    assert future.result(SOON_S) == 2


def test_shutdown_can_give_up_everything(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.hold_results = True
    ex = executor()
    future = ex.submit(double, 1)
    accepted(future)
    ex.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        future.result(0)


def test_cancelling_a_future_leaves_the_others(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.submit_delay_s = 0.2
    ex = executor()
    futures = [ex.submit(double, n) for n in range(4)]
    assert futures[2].cancel()
    assert [f.result(SOON_S) for n, f in enumerate(futures) if n != 2] == [0, 2, 6]
    assert len(list(as_completed(futures, SOON_S))) == 4


def test_an_executor_that_nobody_holds_ends_its_threads(executor: MakeExecutor, small_client: Client) -> None:
    before = set(threading.enumerate())
    future = Executor(new_id(), small_client).submit(double, 1)
    assert future.result(SOON_S) == 2
    gc.collect()
    until(lambda: not {t for t in set(threading.enumerate()) - before if t.name.startswith("mep-")}, "gone")


def test_a_forked_child_neither_hangs_nor_disturbs_the_parent(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.hold_results = True
    ex = executor()
    waiting = ex.submit(double, 1)
    accepted(waiting)
    until(ex._stream.streaming, "the stream is up")
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        words = []
        try:
            words.append(type(waiting.exception(1)).__name__)
            ex.submit(double, 2)
        except RuntimeError as error:
            words.append(str(error))
        finally:
            os.write(write, "|".join(words).encode())
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as pipe:
        assert pipe.read().startswith("RuntimeError|This Executor belongs to the parent")
    small.faults.hold_results = False
    assert ex.submit(double, 3).result(SOON_S) == 6


def test_a_client_works_on_both_sides_of_a_fork(small_client: Client, small: SmallRelay) -> None:
    assert small_client.get_version()["api"] == "1"
    before = len(small._sockets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if small_client.get_version()["api"] == "1" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert small_client.get_version()["api"] == "1"
    assert len(small._sockets) == before + 1  # the child's own; ours was kept and not shared


def test_a_cut_connection_loses_no_result(
    executor: MakeExecutor, small: SmallRelay, broker: BrokerAddress
) -> None:
    ex = executor()
    assert ex.submit(double, 1).result(SOON_S) == 2
    small.faults.hold_results = True
    future = ex.submit(double, 2)
    task = accepted(future)
    _cut(broker, ex.task_group_id[:8])
    small.publish(ex.task_group_id, encode(Result(task_id=task, data=small.tasks[task]["result"])))
    assert future.result(SOON_S) == 4
    assert small.count("/v2/batch_status") == 0


def _cut(broker: BrokerAddress, name: str) -> None:
    """Close the connection of that name, as an administrator or a broken network does."""
    vhost = urlsplit(broker.amqp.reveal()).path[1:]

    def ours() -> list[str]:
        listed = manage(broker, "GET", f"/vhosts/{vhost}/connections")
        assert isinstance(listed, list)
        return [c["name"] for c in listed if c.get("client_properties", {}).get("connection_name") == name]

    for connection in until(ours, "the broker lists the connection"):
        manage(broker, "DELETE", f"/connections/{quote(connection, safe='')}")


_SCRIPT = """
import sys
from mep import Client, Executor
executor = Executor(sys.argv[2], Client(relay_url=sys.argv[1], token="t"))
for n in range(20):
    executor.submit(pow, n, 2)
print(executor.task_group_id)
"""


def test_what_was_submitted_is_sent_before_the_process_ends(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.submit_delay_s = 0.1
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, small.url, new_id()],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    futures = executor().reload_tasks(done.stdout.strip())
    assert [future.result(SOON_S) for future in futures] == [n * n for n in range(20)]
