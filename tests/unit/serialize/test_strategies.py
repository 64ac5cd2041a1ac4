"""Byte for byte what the stock strategies write, and readers of all that they wrote.

golden.json was written by globus-compute-sdk 4.19.0 under Python 3.11 and dill 0.3.9. Entries whose payload is
byte code end in its Python version; the others are bound to none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.serialize import (
    AllCodeStrategies,
    CombinedCode,
    DeserializationError,
    DillCode,
    DillCodeSource,
    DillCodeTextInspect,
    PickleCode,
    PureSourceDill,
    PureSourceTextInspect,
    SerializationError,
    Serializer,
    find_strategy,
)

GOLDEN: dict[str, str] = json.loads(Path(__file__).with_name("golden.json").read_text())
DATA = {"a": [1, 2.5, None, "é"], "b": "x" * 100}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def _double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("name", ["DillDataBase64", "JSONData", "AllDataStrategies"])
def test_data_is_written_as_the_stock_strategy_writes_it(name: str) -> None:
    assert find_strategy(f"mep.serialize.{name}").serialize(DATA) == GOLDEN[name]


@pytest.mark.parametrize("name", ["DillDataBase64", "JSONData", "AllDataStrategies"])
def test_stock_data_is_read(name: str) -> None:
    assert Serializer().deserialize(GOLDEN[name]) == DATA


@pytest.mark.parametrize(
    "name", ["DillCodeSource", "DillCodeTextInspect", "PureSourceDill", "PureSourceTextInspect"]
)
def test_stock_code_of_any_python_is_read(name: str) -> None:
    assert Serializer().deserialize(GOLDEN[name])(21) == 42


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="golden byte code is of Python 3.11")
@pytest.mark.parametrize("name", ["DillCode-3.11", "CombinedCode-3.11", "AllCodeStrategies-3.11"])
def test_stock_byte_code_is_read(name: str) -> None:
    assert Serializer().deserialize(GOLDEN[name])(21) == 42


def test_source_is_written_as_the_stock_strategy_writes_it() -> None:
    payload = PureSourceTextInspect().serialize(_double)
    assert payload == "st\n_double:def _double(x: int) -> int:\n    return 2 * x\n"
    assert GOLDEN["PureSourceTextInspect"].startswith("st\ndouble:def double(x):\n")


@pytest.mark.parametrize(
    "strategy",
    [
        AllCodeStrategies,
        CombinedCode,
        DillCode,
        DillCodeSource,
        DillCodeTextInspect,
        PureSourceDill,
        PureSourceTextInspect,
    ],
)
def test_every_code_strategy_reads_what_it_writes(strategy: type[Any]) -> None:
    serializer = Serializer(strategy)
    assert serializer.deserialize(serializer.serialize(_double))(21) == 42


def test_combined_code_survives_colons_in_the_source() -> None:
    def with_colons(x: int) -> dict[str, int]:
        return {"00\n:01\n": x, ":": x}

    only_sources = CombinedCode().serialize(with_colons)
    head = only_sources.index("sd\n:")
    assert Serializer().deserialize("10\n" + only_sources[head:])(1) == {"00\n:01\n": 1, ":": 1}


def test_several_strategies_fall_back_to_the_one_that_can_be_read() -> None:
    whole = Serializer(AllCodeStrategies).serialize(_double)
    broken = whole.replace("def _double", "def !double", 2)
    assert Serializer().deserialize(broken)(21) == 42


def test_several_strategies_name_every_cause_when_none_can_be_read() -> None:
    with pytest.raises(DeserializationError, match=r"JSONData: JSONDecodeError.*unknown strategy 'zz'"):
        Serializer().deserialize("13\n5\n11\n{{6\nzz\nabc")


@given(plain_values)
def test_plain_values_are_pickled_byte_for_byte_as_dill_does(value: object) -> None:
    import codecs

    expected = "00\n" + codecs.encode(dill.dumps(value), "base64").decode()
    assert Serializer().serialize(value) == expected


@given(json_values)
def test_any_json_value_comes_back(value: object) -> None:
    serializer = Serializer(data_strategy="globus_compute_sdk.serialize.JSONData")
    assert serializer.deserialize(serializer.serialize(value)) == value


def test_values_of_own_classes_come_back_by_dill() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    serializer = Serializer()
    assert serializer.deserialize(serializer.serialize([Point(3)]))[0].x == 3


def test_what_cannot_be_pickled_is_a_serialization_error_that_names_the_cause() -> None:
    with pytest.raises(SerializationError, match=r"DillDataBase64: TypeError: .*generator"):
        Serializer().serialize([(letter for letter in "ab")])


def test_old_pickled_code_is_read_and_no_longer_written() -> None:
    payload = DillCode().serialize(_double)
    assert Serializer().deserialize("02" + payload[2:])(21) == 42
    with pytest.raises(SerializationError):
        PickleCode().serialize(_double)


@pytest.mark.parametrize("payload", ["", "0", "zz\nabc", "00\n!!", "00\nYWJj\n", "01\n", "st\nno colon", "10\n"])
def test_garbage_is_a_deserialization_error(payload: str) -> None:
    with pytest.raises(DeserializationError):
        Serializer().deserialize(payload)
