"""What every relay may rely on in our SDK's requests, and what the SDK makes of answers it has never seen."""

from __future__ import annotations

import platform

import pytest

from mep import Client, TaskPending
from mep.base.ids import new_id
from mep.wire.packing import unpack
from support.sdkrig import SOON_S, MakeExecutor, double
from support.smallrelay import SmallRelay


def test_each_submit_says_what_runs_here(executor: MakeExecutor, small: SmallRelay) -> None:
    assert executor().submit(double, 1).result(SOON_S) == 2
    (body,) = (body for _, path, body in small.requests if path.endswith("submit"))
    runtime = body["user_runtime"]
    assert runtime["python"]["version_tuple"] == [int(part) for part in platform.python_version_tuple()]
    assert runtime["python_version"].startswith(platform.python_version())
    assert runtime["globus_compute_sdk_version"].count(".") == 2
    assert runtime["platform"]["machine"] == platform.machine()


def test_lengths_of_payloads_count_characters(executor: MakeExecutor, small: SmallRelay) -> None:
    assert executor().submit(len, "\u00e4\U0001f600").result(SOON_S) == 2
    (body,) = (body for _, path, body in small.requests if path.endswith("submit"))
    (payload,) = next(iter(body["tasks"].values()))
    assert len(unpack(payload)) == 2


@pytest.mark.parametrize("status", ["waiting-for-nodes", "some-state-of-the-future"])
def test_a_state_it_does_not_know_is_pending(small_client: Client, small: SmallRelay, status: str) -> None:
    task = new_id()
    small.tasks[task] = {"task_id": task, "status": status}
    with pytest.raises(TaskPending):
        small_client.get_result(task)
    assert small_client.get_batch_result([task])[task]["pending"] is True
