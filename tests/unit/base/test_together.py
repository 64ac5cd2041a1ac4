"""Functions whose code is put together do what they did, and their code lies together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest

from mep.base.together import code_run_by, put_together

_PAGE = 4096


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


def test_the_code_of_what_ran_lies_on_less_than_half_as_many_pages(restored: Callable[[Any], Any]) -> None:
    """Every twentieth function of what is imported: what one process runs of it is no less scattered."""
    functions = [one for one in gc.get_objects() if type(one) is FunctionType and _is_standard(one)][::20]
    for one in functions:
        restored(one)
    before = {id(one.__code__) // _PAGE for one in functions}
    put_together([one.__code__ for one in functions])
    after = {id(one.__code__) // _PAGE for one in functions}
    assert len(functions) > 100
    assert len(after) < len(before) / 2


def _is_standard(function: FunctionType) -> bool:
    return str(function.__module__).partition(".")[0] in sys.stdlib_module_names
