"""What may change a process or run a program stands in few places, and each is listed with its reason."""

from __future__ import annotations

import ast
import re

from support.source import Module, calls, imports, modules

#: What becomes, makes or ends a process. Only in `priv`, but for what is listed below.
PROCESS_CALLS = re.compile(
    r"^(os|signal)\.(fork|forkpty|posix_spawnp?|kill|killpg|pidfd_send_signal|wait|waitpid|wait3|wait4|waitid"
    r"|dup2|set(e|re|res)?[ug]id|setgroups|initgroups|setsid|setpgid|chroot|unshare)$"
)
PROGRAM_NAMES = re.compile(r"^(subprocess(\..*)?|asyncio\.create_subprocess_.*|os\.(exec[lv]p?e?|system|popen))$")
EXEC_CALLS = re.compile(r"^os\.(exec[lv]p?e?|system|popen|spawn[lv]p?e?)$")

#: path -> (what it may call, why)
PROCESS_EXCEPTIONS: dict[str, tuple[set[str], str]] = {
    "src/mep/endpoint/home.py": ({"os.dup2"}, "the user's process points its standard streams at its own log"),
    "src/mep/endpoint/limits.py": (
        {"os.posix_spawn"},
        "a process that runs nothing, as the user: is there room for one?",
    ),
    "src/mep/engines/workerlink.py": (
        {"os.fork", "os.kill", "os.waitpid"},
        "the process engine forks its workers",
    ),
    "src/mep/engines/child.py": (
        {"os.setpgid"},
        "a forked worker leads a group, so that it ends with what it started",
    ),
    "src/mep/engines/parslpool.py": (
        {"os.killpg"},
        "Parsl's local workers end with their user endpoint",
    ),
    "src/mep/engines/parslquick.py": (
        {"os.dup2", "os.fork", "os.waitpid", "signal.pidfd_send_signal"},
        "the Parsl engine forks its interchange",
    ),
    "src/mep/engines/parslscaler.py": (
        {"os.killpg"},
        "ends the workers that Parsl's local provider started",
    ),
    "src/mep/host/programs.py": ({"os.killpg"}, "ends a mapping program, with what it started, at its time limit"),
    "src/mep/relay/proc.py": ({"os.killpg"}, "ends the relay's own broker node, which is a session"),
    "src/mep/serialize/shell.py": (
        {"os.killpg"},
        "ends a ShellFunction's command, with what it started, at its walltime",
    ),
}

#: path -> why it runs programs
RUNS_PROGRAMS: dict[str, str] = {
    "src/mep/endpoint/hooks.py": "endpoint_setup and endpoint_teardown of the template, as the user",
    "src/mep/engines/parslquick.py": "Parsl's own way to start its interchange, where the fork is of no use",
    "src/mep/host/programs.py": "the administrator's mapping programs",
    "src/mep/priv/execute.py": "becomes a fresh interpreter, as the user or without the secrets of the old one",
    "src/mep/relay/proc.py": "holds the broker node's process",
    "src/mep/relay/rabbit.py": "the relay's own broker node and its name service",
    "src/mep/relay/tied.py": "becomes a program that ends with its parent",
    "src/mep/serialize/shell.py": "a ShellFunction's command, as the user, in a worker",
}

#: path -> why it prints
PRINTS: dict[str, str] = {}


def _rooms() -> tuple[Module, ...]:
    return modules("src")


def test_processes_are_made_changed_and_ended_in_priv_only() -> None:
    found = [
        f"{module.name}:{line} {name}"
        for module in _rooms()
        if module.room != "priv"
        for name, line in calls(module)
        if PROCESS_CALLS.match(name) and name not in PROCESS_EXCEPTIONS.get(module.name, (set(), ""))[0]
    ]
    assert not found, "\n".join(found)


def test_programs_are_run_only_where_that_is_said() -> None:
    found = [
        f"{module.name}:{line} {name}"
        for module in _rooms()
        for name, line in [*calls(module), *imports(module)]
        if PROGRAM_NAMES.match(name) and module.name not in RUNS_PROGRAMS
    ]
    assert not found, "\n".join(found)


def test_who_runs_programs_says_so_in_its_first_lines() -> None:
    said = re.compile(r"\b([Rr]uns?|programs?|commands?|process(es)?)\b")
    silent = [
        m.name for m in _rooms() if m.name in RUNS_PROGRAMS and not said.search(ast.get_docstring(m.tree) or "")
    ]
    assert not silent, f"the module's docstring must say what programs it runs: {silent}"


def test_exceptions_are_still_needed() -> None:
    by_name = {module.name: module for module in _rooms()}
    for path, (allowed, _) in PROCESS_EXCEPTIONS.items():
        assert path in by_name, f"{path} is gone: take it off the list"
        assert allowed <= {name for name, _ in calls(by_name[path])}, f"{path} no longer calls all of {allowed}"
    for path in RUNS_PROGRAMS:
        assert path in by_name, f"{path} is gone: take it off the list"


def test_only_the_command_line_speaks_to_the_terminal() -> None:
    found = [
        f"{module.name}:{line}"
        for module in _rooms()
        if module.room != "cli" and module.name not in PRINTS
        for name, line in calls(module)
        if name in ("print", "click.echo", "sys.stdout.write")
    ]
    assert not found, "\n".join(found)


def test_nobody_keeps_a_back_door_to_processes() -> None:
    """`from os import kill` or a process call by name would slip past the rules above."""
    found = [
        f"{module.name}:{line} {name}"
        for module in _rooms()
        for name, line in imports(module)
        if PROCESS_CALLS.match(name) or EXEC_CALLS.match(name)
    ]
    assert not found, "\n".join(found)
