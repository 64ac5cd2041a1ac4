"""Functions whose code is put together do what they did, and their code lies together."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mep.base.together import code_run_by, put_together


@pytest.fixture
def restored() -> Iterator[Callable[[Any], Any]]:
    """Call it with a function: its code is put back at the end, as other tests use it too."""
    with contextlib.ExitStack() as stack:

        def keep(function: Any) -> Any:
            stack.callback(setattr, function, "__code__", function.__code__)
            return function

        yield keep


def _add(left: int, right: int = 2, *, third: int = 3) -> int:
    return left + right + third


def test_code_run_by_names_what_ran() -> None:
    codes = code_run_by(lambda: _add(1))
    assert _add.__code__ in codes
    assert asyncio.run.__code__ not in codes


def test_a_function_that_is_put_together_does_what_it_did(restored: Callable[[Any], Any]) -> None:
    before = restored(_add).__code__
    assert put_together([before]) == 1
    assert _add.__code__ is not before
    assert _add.__code__ == before
    assert (_add(1), _add(1, 1, third=1)) == (6, 3)


#: In an interpreter of its own: how far apart copies lie depends on the holes that others left in the heap. Here
#: they take a third of the pages, after a thousand tests more than half; with nothing put together, all of them.
_MEASURE = """
import argparse, asyncio, concurrent.futures, email, gc, http.client, json, logging
import sqlite3, ssl, sys, types, typing, unittest, xml.dom.minidom
from mep.base.together import put_together

def is_standard(function):
    return str(function.__module__).partition(".")[0] in sys.stdlib_module_names

functions = [one for one in gc.get_objects() if type(one) is types.FunctionType and is_standard(one)][::20]
before = {id(one.__code__) // 4096 for one in functions}
put_together([one.__code__ for one in functions])
after = {id(one.__code__) // 4096 for one in functions}
print(len(functions), len(before), len(after))
"""


def test_the_code_of_what_ran_lies_on_far_fewer_pages() -> None:
    """Every twentieth function of what is imported: what one process runs of it is no less scattered."""
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    functions, before, after = map(int, done.stdout.split())
    assert functions > 100
    assert after < before * 0.7
