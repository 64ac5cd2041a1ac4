"""An SDK whose relay seals believes nothing else, unpickles nothing else, and misses nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mep.base.secrets import Secret
from mep.serialize import serialize_result
from mep.wire import seal
from mep.wire.envelope import ErrorDetails, Result, encode
from mep.wire.seal import Sealer, derive
from support.broker import broker, broker_node
from support.sdkrig import SOON_S, MakeExecutor, accepted, double
from support.smallrelay import SmallRelay
from support.wait import until

__all__ = ["broker", "broker_node"]

KEY, OTHER = derive(Secret("relay"), 1), derive(Secret("relay"), 2)
AWAY = "/v2/batch_status"


class Bomb:
    """Code that runs on the machine of whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def sealing(small: SmallRelay) -> SmallRelay:
    small.seal_key = KEY
    return small


def group_of(sealing: SmallRelay) -> str:
    (group,) = sealing.groups
    return group


def test_sealed_results_need_no_question_over_http(sealing: SmallRelay, executor: MakeExecutor) -> None:
    with executor() as one:
        assert [one.submit(double, n).result(SOON_S) for n in range(5)] == [0, 2, 4, 6, 8]
    assert sealing.count(AWAY) == 0


def test_what_the_relay_did_not_seal_is_never_unpickled_and_the_true_result_comes(
    sealing: SmallRelay, executor: MakeExecutor, tmp_path: Path
) -> None:
    sealing.faults.hold_results = True
    trace = tmp_path / "ran"
    with executor() as one:
        future = one.submit(double, 4)
        task_id = accepted(future)
        group = group_of(sealing)
        document = sealing.tasks.pop(task_id)
        sealing.tasks[task_id] = {"task_id": task_id, "status": "running"}  # the relay knows of no result yet
        bomb = encode(Result(task_id=task_id, data=serialize_result(Bomb(trace))))
        error = ErrorDetails(code="X", user_message="forged")
        for body in (
            bomb,
            encode(Result(task_id=task_id, data="forged", error_details=error)),
            Sealer(OTHER, seal.DELIVERY, group).seal(bomb),
            Sealer(KEY, seal.DELIVERY, "another group").seal(bomb),
            Sealer(KEY, seal.RESULT, group).seal(bomb),
            b"garbage",
        ):
            sealing.publish(group, body)
        until(lambda: sealing.waiting(group) == 0 and sealing.count(AWAY) > 0, "they are taken, and asked about")
        assert not future.done()
        sealing.tasks[task_id] = document
        sealing.publish(group, bomb)  # true or not: there is something to ask for
        assert future.result(SOON_S) == 8
    assert not trace.exists()


def test_plain_results_of_a_group_that_stock_clients_use_too_come_over_http(
    sealing: SmallRelay, executor: MakeExecutor
) -> None:
    one = executor()
    one.submit(double, 0).result(SOON_S)
    sealing.seal_key = None  # what it publishes from now on is plain
    began = time.monotonic()
    assert [f.result(SOON_S) for f in [one.submit(double, n) for n in range(20)]] == [2 * n for n in range(20)]
    assert time.monotonic() - began < SOON_S / 2


def test_a_plain_result_that_comes_before_the_answer_is_asked_for_too(
    sealing: SmallRelay, executor: MakeExecutor
) -> None:
    one = executor()
    one.submit(double, 0).result(SOON_S)
    sealing.seal_key, sealing.faults.results_first = None, True
    assert one.submit(double, 21).result(SOON_S) == 42


def test_who_hints_for_nothing_is_asked_about_less_and_less(sealing: SmallRelay, executor: MakeExecutor) -> None:
    sealing.faults.hold_results = True
    with executor() as one:
        future = one.submit(double, 4)
        task_id = accepted(future)
        document = sealing.tasks.pop(task_id)
        sealing.tasks[task_id] = {"task_id": task_id, "status": "running"}
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            sealing.publish(group_of(sealing), b"garbage")
            time.sleep(0.01)  # what is measured is how often this is reacted to
        assert sealing.count(AWAY) <= 8
        sealing.tasks[task_id] = document
        assert future.result(SOON_S) == 8
