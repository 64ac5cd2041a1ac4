"""What careless functions do to their worker: each is answered, in words that help, and the next task runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mep.relay.brokeraddress import BrokerAddress
from mep.serialize.facade import Serializer
from mep.wire.packing import pack
from support.broker import temporary_vhost
from support.uep import Site, site, user_endpoint
from support.wait import until

ENGINES = {
    "threads": "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\n",
    "processes": "engine:\n  type: ProcessPoolEngine\n  max_workers: 1\n",
}


@pytest.fixture(scope="module")
def places(broker_node: BrokerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """One user endpoint of each kind for all tests, each of which must leave it at work."""
    with ExitStack() as stack:
        made = {}
        for kind, template in ENGINES.items():
            address = stack.enter_context(temporary_vhost(broker_node))
            made[kind] = stack.enter_context(site(address.amqp.reveal()))
            stack.enter_context(user_endpoint(made[kind], tmp_path_factory.mktemp(kind), template))
        yield made


@pytest.fixture(params=ENGINES)
def place(places: dict[str, Site], request: pytest.FixtureRequest) -> Site:
    return places[request.param]


@pytest.fixture
def processes(places: dict[str, Site]) -> Site:
    """Where a worker is a process of its own; a thread would take the user endpoint along."""
    return places["processes"]


def failure(place: Site, function: Callable[..., Any], *args: Any) -> str:
    """Return what the user reads of a task that fails; the next task must run."""
    result = place.result(place.submit(function, *args))
    assert result.error_details is not None, result.data
    assert place.run(int) == 0
    return result.data


def test_what_fails_while_it_is_unpacked_is_an_error_of_the_task(place: Site) -> None:
    """As a module that is missing there, or dies at its import."""

    class Fails:
        def __reduce__(self) -> Any:
            return exec, ("raise ImportError('no module of mine')",)

    text = failure(place, lambda _x: None, Fails())
    assert "no module of mine" in text


def test_who_ends_the_worker_while_it_is_unpacked_is_named(processes: Site) -> None:
    class Dies:
        def __reduce__(self) -> Any:
            return exec, ("import os; os._exit(7)",)

    text = failure(processes, lambda _x: None, Dies())
    assert text.startswith("WORKER_LOST")
    assert "exited with status 7" in text


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: text[:40] + text[60:]])
def test_a_pickle_that_cannot_be_read_says_so(place: Site, damage: Callable[[str], str]) -> None:
    serializer = Serializer()
    code = damage(serializer.serialize(lambda: None))
    result = place.result(place.submit_buffer(pack([code]) + serializer.pack_arguments((), {})))
    assert result.error_details is not None
    assert "DESERIALIZATION_FAILED" in result.data
    assert place.run(int) == 0


def test_endless_recursion_is_an_error_of_bounded_length(place: Site) -> None:
    def again(n: int) -> int:
        def deeper(n: int) -> int:
            return deeper(n + 1)

        return deeper(n)

    text = failure(place, again, 0)
    assert "RecursionError" in text
    assert len(text) < 20_000


def test_a_result_too_deep_to_be_packed_says_so(place: Site) -> None:
    def deep() -> list[Any]:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    text = failure(place, deep)
    assert "SERIALIZATION_FAILED" in text or "RecursionError" in text


def test_an_exception_that_cannot_be_packed_still_comes_back(place: Site) -> None:
    def fails() -> None:
        import threading

        class Odd(Exception):
            def __init__(self) -> None:
                super().__init__("odd")
                self.lock = threading.Lock()

            def __reduce__(self) -> Any:
                raise TypeError("never")

        raise Odd

    assert "Odd: odd" in failure(place, fails)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_program_ends_the_task_alone(place: Site, kind: type[BaseException]) -> None:
    def leaves(kind: type[BaseException]) -> None:
        raise kind("enough")

    assert f"{kind.__name__}: enough" in failure(place, leaves, kind)


def test_who_closes_all_descriptors_loses_the_worker_alone(processes: Site) -> None:
    def closes() -> None:
        import os

        os.closerange(0, 1024)

    assert failure(processes, closes).startswith("WORKER_LOST")


def test_another_working_directory_is_not_the_next_tasks(processes: Site) -> None:
    def moves() -> str:
        import os

        before = os.getcwd()
        os.chdir("/")
        return before

    assert processes.run(moves) == processes.run(moves) != "/"


def test_a_thread_that_goes_on_holds_nothing(place: Site) -> None:
    def leaves_a_thread() -> int:
        import threading
        import time

        threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
        return 5

    assert place.run(leaves_a_thread) == 5
    assert place.run(leaves_a_thread) == 5


def test_signal_handlers_of_a_task_do_not_keep_its_worker(processes: Site) -> None:
    """Nor do they reach the user endpoint: the worker is killed by what cannot be caught."""

    def ignores() -> int:
        import os
        import signal

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        return os.getpid()

    pid = processes.run(ignores)

    def stop(pid: int) -> None:
        import os
        import signal

        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGKILL)

    assert failure(processes, stop, pid).startswith("WORKER_LOST")


def test_a_fork_that_returns_twice_is_answered_once(place: Site, tmp_path: Path) -> None:
    def forks(folder: str) -> int:
        import os

        pid = os.fork()
        if pid == 0:
            open(f"{folder}/{os.getpid()}", "w").close()
            return -1
        os.waitpid(pid, 0)
        return 6

    task_id = place.submit(forks, str(tmp_path))
    place.result(task_id)
    assert place.run(int) == 0
    assert [result.error_details for result in place.results[task_id]] == [None]
    assert Serializer().deserialize(place.results[task_id][0].data) == 6
    until(lambda: list(tmp_path.iterdir()), "the child was there")


def test_who_closes_all_descriptors_in_a_thread_ends_the_user_endpoint_and_is_named_by_the_next(
    broker: BrokerAddress, tmp_path: Path
) -> None:
    def closes() -> None:
        import os

        os.closerange(0, 1024)

    with site(broker.amqp.reveal()) as place:
        with user_endpoint(place, tmp_path, ENGINES["threads"]) as running:
            task_id = place.submit(closes)
            assert running.wait() != 0
        with user_endpoint(place, tmp_path, ENGINES["threads"]):
            assert place.result(task_id).data.startswith("TASK_LOST")
            assert place.run(int) == 0


def test_a_thread_that_goes_on_does_not_keep_a_user_endpoint_in_its_own_interpreter(
    broker: BrokerAddress, tmp_path: Path
) -> None:
    def leaves_a_thread() -> int:
        import threading
        import time

        threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
        return 5

    with (
        site(broker.amqp.reveal()) as place,
        user_endpoint(place, tmp_path, ENGINES["threads"], fresh=True) as running,
    ):
        assert place.run(leaves_a_thread) == 5
        running.kill(signal.SIGTERM)
        assert running.wait(5) == 0
