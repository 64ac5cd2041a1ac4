"""Ids: canonical spelling only, and a user endpoint's id depends on nothing but its meaning."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.ids import EndpointId, IdentityId, derive_uep_id, is_uuid, new_id

E, I = EndpointId("e"), IdentityId("i")  # noqa: E741
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(st.uuids())
def test_only_the_canonical_spelling_is_an_id(value: uuid.UUID) -> None:
    assert is_uuid(str(value))
    assert not is_uuid(f"{{{value}}}")
    assert not is_uuid(value.hex)
    assert not is_uuid(f"urn:uuid:{value}")
    assert is_uuid(str(value).upper()) == str(value).upper().islower() or str(value).upper() == str(value)


@pytest.mark.parametrize("text", ["", "x" * 36, "../../../../../../../../../etc/passwd", None, 5, b"x" * 36])
def test_nothing_else_is_an_id(text: object) -> None:
    assert not is_uuid(text)


@given(st.text(max_size=40))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    is_uuid(text)


def test_new_ids_are_ids_and_differ() -> None:
    made = {new_id() for _ in range(100)}
    assert len(made) == 100
    assert all(is_uuid(one) for one in made)


@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_uep_id_does_not_depend_on_the_order_of_keys(options: dict[str, Any]) -> None:
    turned = dict(reversed(list(options.items())))
    assert derive_uep_id(E, I, options, None) == derive_uep_id(E, I, turned, None)


@given(JSON, JSON)
def test_other_options_give_another_uep(one: Any, other: Any) -> None:
    same = derive_uep_id(E, I, one, None) == derive_uep_id(E, I, other, None)
    assert not same or one == other


def test_uep_id_tells_endpoint_identity_and_runtime_apart() -> None:
    ids = {
        derive_uep_id(E, I, {}, None),
        derive_uep_id(EndpointId("f"), I, {}, None),
        derive_uep_id(E, IdentityId("j"), {}, None),
        derive_uep_id(E, I, {}, {"python": "3.11"}),
    }
    assert len(ids) == 4
    assert all(is_uuid(one) for one in ids)


def test_uep_id_is_the_same_in_every_process() -> None:
    program = "from mep.base.ids import *; print(derive_uep_id('e', 'i', {'b': 1, 'a': 'ü'}, None))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {derive_uep_id(E, I, {"a": "ü", "b": 1}, None)}
