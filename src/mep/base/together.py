"""Putting the code that every forked process runs next to each other in memory.

CPython counts references inside of objects, code included: to run a function is to write to the pages it lies on,
and a page that a forked process writes to is no longer shared. What is run lies thinly between what is not: a
thousand functions of a user endpoint, half a MiB of code, on three MiB of pages. Copies made in one go lie on a
page after another.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, FunctionType
from typing import Any

#: The originals: if their memory were free, a child would put its new objects into it, and write to those pages.
_originals: list[CodeType] = []


def code_run_by(run: Callable[[], object]) -> set[CodeType]:
    """Call `run`; return the code of every Python function that ran."""
    codes: dict[int, CodeType] = {}

    def note(frame: FrameType, _event: str, _arg: Any) -> None:
        codes[id(frame.f_code)] = frame.f_code

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return set(codes.values())


def put_together(codes: Iterable[CodeType], *, packages: tuple[str, ...] = ()) -> int:
    """Give the functions with these codes, then all others of modules in `packages`, copies of their code that lie
    together; return how many. Nothing else about them changes."""
    functions = [one for one in gc.get_objects() if type(one) is FunctionType]
    run, prefixes = {id(code) for code in codes}, tuple(f"{package}." for package in packages)
    first = [one for one in functions if id(one.__code__) in run]
    then = [one for one in functions if f"{one.__module__}.".startswith(prefixes)]
    copies: dict[int, CodeType] = {}
    made: set[int] = set()
    for one in (*first, *then):
        code = one.__code__
        if id(code) in made:
            continue
        if id(code) not in copies:
            copies[id(code)] = code.replace()
            made.add(id(copies[id(code)]))
            _originals.append(code)
        one.__code__ = copies[id(code)]
    return len(copies)
