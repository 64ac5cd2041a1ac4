"""Drives one SDK, stock or ours, from outside its process: one JSON request per line in, one JSON answer out.

    sdk_driver.py stock|mep

The same lines run with both packages: that the surface is the same is part of what is tested. Functions that
are submitted stand here because a function of the main program travels by value, to a worker that has no such
module. Standard library only beside the package under test.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import os
import statistics
import sys
import threading
import time
import traceback
from typing import Any

PACKAGE = {"stock": "globus_compute_sdk", "mep": "mep"}


# ---- what is submitted ----


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


def echo(data: Any) -> Any:
    return data


def nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return time.time()


def whoami() -> dict[str, Any]:
    import multiprocessing
    import os
    import pwd
    import threading

    user = pwd.getpwuid(os.getuid())
    return {
        "user": user.pw_name,
        "uid": os.getuid(),
        "euid": os.geteuid(),
        "gid": os.getgid(),
        "home": os.environ.get("HOME"),
        "site": os.environ.get("INTEROP_SITE"),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "process": multiprocessing.current_process().name,
        "thread": threading.current_thread().name,
        "secrets": sorted(k for k in os.environ if "SECRET" in k or "TOKEN" in k),
    }


def crash() -> None:
    import os

    os._exit(3)


def pair(item: Any) -> tuple[Any, Any]:
    return (item, item)


def unjsonable() -> set[int]:
    return {1}


def blow_up(characters: int) -> str:
    return "x" * characters


FUNCTIONS = {f.__name__: f for f in (add, fail, echo, nap, whoami, crash, pair, unjsonable, blow_up)}


#: what travels in the serialization tests
SAMPLES: dict[str, Any] = {
    "add": add,
    "nothing": None,
    "numbers": [0, -1, 2**70, 1.5, float("inf")],
    "texts": {"plain": "a", "wide": "\u00e4\U0001f600\n", "empty": ""},
    "bytes": b"\x00\xff" * 100,
    "nested": ({"a": [1, (2, 3)]}, [[]], {"s": {1}}),
    "long": "x" * 10_000,
    "json": {"a": [1, 2.5, "\u00e4", None, True], "b": {}},
}


# ---- the driver ----


class Driver:
    """Holds the package under test, its clients by name, and executors by key."""

    def __init__(self, which: str) -> None:
        self.which = which
        self.sdk = importlib.import_module(PACKAGE[which])
        self.clients: dict[str, Any] = {}
        self.executors: dict[str, Any] = {}
        self.functions: dict[str, str] = {}
        self.groups: dict[str, Any] = {}

    def client(self, name: str, token: str | None = None) -> Any:
        """Return the named client; made at first use, from a token or from the environment's credentials."""
        if name not in self.clients:
            self.clients[name] = self._new_client(token)
        return self.clients[name]

    def _new_client(self, token: str | None) -> Any:
        arguments: dict[str, Any] = {"local_compute_services": True}
        if token is not None:
            import globus_sdk

            arguments["authorizer"] = globus_sdk.AccessTokenAuthorizer(token)
        return self.sdk.Client(**arguments)

    def executor(self, request: dict[str, Any]) -> Any:
        """Return an executor for (identity, endpoint, options); kept until one of its submits failed."""
        options = request.get("options")
        key = json.dumps([request["identity"], request["endpoint"], options, request.get("serializers")])
        executor = self.executors.get(key)
        if executor is None:
            more = {"result_serializers": request["serializers"]} if "serializers" in request else {}
            # the stock class remembers the last group for all of the process, whoever's it is
            self.sdk.Executor._default_task_group_id = self.groups.get(request["identity"])
            executor = self.sdk.Executor(
                endpoint_id=request["endpoint"],
                user_endpoint_config=options,
                client=self.client(request["identity"], request.get("token")),
                **more,
            )
            self.executors[key] = executor
        return executor

    def drop(self, executor: Any) -> None:
        self.executors = {k: e for k, e in self.executors.items() if e is not executor}
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except Exception:  # noqa: BLE001 - an executor that failed may fail again here
            traceback.print_exc()

    # ---- verbs: each returns plain data ----

    def hello(self, request: dict[str, Any]) -> Any:
        version = getattr(self.sdk, "__version__", "")
        return {"which": self.which, "version": version, "python": sys.version.split()[0], "pid": os.getpid()}

    def call(self, request: dict[str, Any]) -> Any:
        """Submit `count` calls of one function; answer with values or errors, and seconds."""
        function = FUNCTIONS[request["function"]]
        arguments = request.get("arguments", [])
        if "megabytes" in request:
            arguments = ["x" * int(request["megabytes"] * 1_000_000)]
        executor = self.executor(request)
        began = time.perf_counter()
        try:
            futures = [executor.submit(function, *arguments) for _ in range(request.get("count", 1))]
            outcomes = [_outcome(f, request.get("within_s", 60)) for f in futures]
        except BaseException:
            self.drop(executor)
            raise
        seconds = time.perf_counter() - began
        if any("error" in o for o in outcomes):
            self.drop(executor)
        if "megabytes" in request:
            outcomes = [{"value": len(o["value"])} if "value" in o else o for o in outcomes]
        group = self.groups[request["identity"]] = executor.task_group_id
        return {"outcomes": outcomes, "seconds": seconds, "task_group_id": str(group) if group else None}

    def many(self, request: dict[str, Any]) -> Any:
        """Submit `count` additions, check each sum; answer with how long the whole took."""
        executor, count = self.executor(request), request["count"]
        began = time.perf_counter()
        futures = [executor.submit(add, i, 1) for i in range(count)]
        submitted = time.perf_counter() - began
        done = concurrent.futures.wait(futures, request.get("within_s", 120))
        seconds = time.perf_counter() - began
        right = sum(1 for i, f in enumerate(futures) if f in done.done and _value(f) == i + 1)
        return {"right": right, "seconds": seconds, "submitted_s": submitted}

    def sequence(self, request: dict[str, Any]) -> Any:
        """Submit one addition after the other's result, `count` times; answer with each one's seconds."""
        executor, seconds = self.executor(request), []
        for i in range(request["count"]):
            began = time.perf_counter()
            value = executor.submit(add, i, 1).result(timeout=60)
            seconds.append(time.perf_counter() - began)
            assert value == i + 1
        return {"seconds": seconds, "median_s": statistics.median(seconds)}

    def first(self, request: dict[str, Any]) -> Any:
        """Time three calls of a new user: everything new; SDK at work but no user endpoint; all running."""
        began = time.perf_counter()
        executor = self.executor(request)
        assert executor.submit(add, 1, 1).result(timeout=120) == 2
        contact = time.perf_counter()
        executor.user_endpoint_config = {**request["options"], "label": "another"}
        assert executor.submit(add, 1, 2).result(timeout=120) == 3
        start = time.perf_counter()
        assert executor.submit(add, 1, 3).result(timeout=120) == 4
        end = time.perf_counter()
        self.drop(executor)
        return {"contact_s": contact - began, "start_s": start - contact, "next_s": end - start}

    def storm(self, request: dict[str, Any]) -> Any:
        """Submit one call for each of many users at the same moment; answer with each one's seconds."""
        asks = [{**request, "identity": identity, "token": token} for identity, token in request["tokens"].items()]
        executors = [self.executor(ask) for ask in asks]
        for executor in executors:
            executor.task_group_id = None
        barrier = threading.Barrier(len(executors))

        def one(executor: Any) -> float:
            barrier.wait()
            began = time.perf_counter()
            assert executor.submit(add, 1, 1).result(timeout=120) == 2
            return time.perf_counter() - began

        with concurrent.futures.ThreadPoolExecutor(len(executors)) as pool:
            seconds = list(pool.map(one, executors))
        for executor in executors:
            self.drop(executor)
        return {"seconds": seconds}

    def run(self, request: dict[str, Any]) -> Any:
        """The polling way: Client.run, then get_result until it is there."""
        client = self.client(request["identity"], request.get("token"))
        name = request["function"]
        if name not in self.functions:
            self.functions[name] = client.register_function(FUNCTIONS[name])
        task = client.run(
            *request.get("arguments", []), endpoint_id=request["endpoint"], function_id=self.functions[name]
        )
        return _polled(client, task, request.get("within_s", 60))

    def batch(self, request: dict[str, Any]) -> Any:
        """A batch of additions through the client; answer with the values, read by polling."""
        client = self.client(request["identity"], request.get("token"))
        function = client.register_function(add)
        batch = client.create_batch()
        for i in range(request["count"]):
            batch.add(function, (i, 1))
        tasks = client.batch_run(request["endpoint"], batch)["tasks"][function]
        end = time.monotonic() + 60
        while True:
            answers = client.get_batch_result(tasks)
            if not any(answers[task]["pending"] for task in tasks):
                return [answers[task]["result"] for task in tasks]
            assert time.monotonic() < end, f"still pending: {answers}"
            time.sleep(0.1)

    def shell(self, request: dict[str, Any]) -> Any:
        """A shell function; answer with its result's fields."""
        shell = self.sdk.ShellFunction(request["command"], **request.get("shell", {}))
        outcome = _outcome(self.executor(request).submit(shell, **request.get("keywords", {})), 60)
        if "value" not in outcome:
            return outcome
        result = outcome["value"]
        names = ("cmd", "stdout", "stderr", "returncode", "exception_name")
        if isinstance(result, dict):
            return {"value": result, "type": "dict"}
        return {"value": {n: getattr(result, n) for n in names}, "type": type(result).__name__}

    def reload(self, request: dict[str, Any]) -> Any:
        """Submit in a group of its own, forget the executor, and collect the group's results with a new one."""
        self.groups.pop(request["identity"], None)
        executor = self.executor({**request, "options": {"label": "reload"}})
        futures = [executor.submit(add, i, 1) for i in range(request["count"])]
        concurrent.futures.wait(futures, 60)
        group = executor.task_group_id
        self.drop(executor)
        again = self.executor(request)
        again.task_group_id = group
        reloaded = list(again.reload_tasks())
        values = sorted(f.result(timeout=60) for f in reloaded)
        self.drop(again)
        return values

    def client_method(self, request: dict[str, Any]) -> Any:
        """Call one method of the client with JSON arguments; answer with what it returned."""
        client = self.client(request["identity"], request.get("token"))
        if request["method"] == "run_by_id":  # the function's id is known, no code is at hand
            argument, endpoint, function = request["arguments"]
            task = client.run(argument, endpoint_id=endpoint, function_id=function)
            return _polled(client, task, 60)["value"]
        method = getattr(client, request["method"])
        answer = method(*request.get("arguments", []), **request.get("keywords", {}))
        return json.loads(json.dumps(getattr(answer, "data", answer), default=str))

    def serialize(self, request: dict[str, Any]) -> Any:
        """Return the buffer that a strategy makes of a sample."""
        module = importlib.import_module(f"{PACKAGE[self.which]}.serialize")
        return getattr(module, request["strategy"])().serialize(SAMPLES[request["sample"]])

    def deserialize(self, request: dict[str, Any]) -> Any:
        """Return what a buffer holds: a function is called with 20 and 22, data is shown by repr."""
        module = importlib.import_module(f"{PACKAGE[self.which]}.serialize")
        found = module.ComputeSerializer().deserialize(request["buffer"])
        return found(20, 22) if callable(found) else repr(found)


VERBS = {
    "serialize": Driver.serialize,
    "deserialize": Driver.deserialize,
    "hello": Driver.hello,
    "call": Driver.call,
    "many": Driver.many,
    "sequence": Driver.sequence,
    "first": Driver.first,
    "storm": Driver.storm,
    "run": Driver.run,
    "batch": Driver.batch,
    "shell": Driver.shell,
    "reload": Driver.reload,
    "client": Driver.client_method,
}


def _value(future: Any) -> Any:
    return None if future.exception() else future.result()


def _outcome(future: Any, within_s: float) -> dict[str, Any]:
    try:
        return {"value": future.result(timeout=within_s)}
    except Exception as error:  # noqa: BLE001 - goes into the answer
        return _error(error)


def _polled(client: Any, task: Any, within_s: float) -> dict[str, Any]:
    end = time.monotonic() + within_s
    while True:
        try:
            return {"value": client.get_result(task), "task_id": str(task)}
        except Exception as error:  # noqa: BLE001 - goes into the answer
            if "Pending" not in type(error).__name__ or time.monotonic() > end:
                return _error(error)
        time.sleep(0.1)


def _error(error: BaseException) -> dict[str, Any]:
    facts = {n: getattr(error, n, None) for n in ("http_status", "code")}
    return {"error": type(error).__name__, "text": str(error), **{k: v for k, v in facts.items() if v}}


def main() -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a package prints must not mix with the answers
    driver = Driver(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": True, "answer": VERBS[request["verb"]](driver, request)}
        except Exception as error:  # noqa: BLE001 - goes into the answer
            traceback.print_exc()
            answer = {"ok": False, **_error(error)}
        answers.write(json.dumps(answer, default=repr) + "\n")
        answers.flush()
    os._exit(0)  # the stock package waits for its threads at a normal end


if __name__ == "__main__":
    main()
