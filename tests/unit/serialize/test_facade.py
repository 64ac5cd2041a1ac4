"""The door: calls out of task buffers, allowed strategies, results by the first strategy that can."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.errors import MepError
from mep.serialize import (
    AllCodeStrategies,
    ComputeSerializer,
    DeserializationError,
    JSONData,
    PureSourceTextInspect,
    SerdeError,
    SerializationError,
    Serializer,
    find_strategy,
    serialize_result,
)
from mep.wire.packing import pack


def _add(a: int, b: int = 1) -> int:
    return a + b


def test_a_call_goes_through_a_task_buffer() -> None:
    serializer = Serializer()
    buffer = pack([serializer.serialize(_add)]) + serializer.pack_arguments((2,), {"b": 3})
    function, args, kwargs = serializer.load_call(buffer)
    assert function(*args, **kwargs) == 5


def test_json_arguments_are_packed_as_the_protocol_shows_them() -> None:
    assert Serializer(data_strategy=JSONData).pack_arguments([1, 2], {}) == "9\n11\n[1, 2]5\n11\n{}"


@pytest.mark.parametrize("buffers", [[], ["11\n1"], ["11\n1", "11\n[]", "11\n{}"], ["11\n1"] * 4])
def test_a_buffer_that_is_no_call_is_refused(buffers: list[str]) -> None:
    with pytest.raises(DeserializationError, match=r"wanted function|three buffers"):
        Serializer().load_call(pack(buffers))


@given(st.text(max_size=60))
def test_no_task_buffer_raises_anything_but_a_mep_error(text: str) -> None:
    with pytest.raises(MepError):
        Serializer().load_call(text)


def test_only_allowed_strategies_are_read() -> None:
    serializer = Serializer(allowed=["globus_compute_sdk.serialize.PureSourceTextInspect", "mep.*Data"])
    source = Serializer(PureSourceTextInspect).serialize(_add)
    assert serializer.deserialize(source)(1) == 2
    assert serializer.deserialize("11\n[]") == []
    with pytest.raises(DeserializationError, match="DillCode, which is not allowed here"):
        serializer.deserialize(Serializer().serialize(_add))


@pytest.mark.parametrize(
    "allowed",
    [
        ["globus_compute_sdk.*Code"],
        ["globus_compute_sdk.serialize.JSONData"],
        ["globus_compute_sdk.*Code", "os.system"],
        ["mep.serialize.strategies.Strategy", "mep.*Data"],
    ],
)
def test_a_list_that_lets_nothing_through_or_names_nothing_known_is_refused(allowed: list[str]) -> None:
    with pytest.raises(SerdeError):
        Serializer(allowed=allowed)


def test_wildcards_allow_everything_of_their_kind() -> None:
    serializer = Serializer(allowed=["globus_compute_sdk.*Code", "globus_compute_sdk.*Data"])
    assert serializer.deserialize(Serializer(AllCodeStrategies).serialize(_add))(1) == 2


@pytest.mark.parametrize(
    "path",
    [
        "globus_compute_sdk.serialize.JSONData",
        "globus_compute_sdk.serialize.concretes.JSONData",
        "mep.serialize.JSONData",
        JSONData,
        JSONData(),
    ],
)
def test_strategies_are_found_by_class_instance_and_both_paths(path: object) -> None:
    assert isinstance(find_strategy(path), JSONData)


def test_a_strategy_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(SerdeError, match="JSONData is for data; a strategy for code is wanted"):
        Serializer(code_strategy=JSONData)


def test_the_stock_constructor_is_there() -> None:
    serializer = ComputeSerializer(strategy_code=AllCodeStrategies(), strategy_data=JSONData())
    assert serializer.serialize([1]) == "11\n[1]"


def test_a_result_is_written_by_the_first_strategy_that_can() -> None:
    assert serialize_result([1], ["globus_compute_sdk.serialize.JSONData"]) == "11\n[1]"
    both = ["globus_compute_sdk.serialize.JSONData", "globus_compute_sdk.serialize.DillDataBase64"]
    assert serialize_result({1, 2}, both).startswith("00\n")
    assert serialize_result(_add, [*both, "mep.serialize.PureSourceTextInspect"]).startswith("st\n")


def test_a_result_that_none_can_write_names_every_cause() -> None:
    with pytest.raises(SerializationError, match=r"JSONData: TypeError.*'nonsense' is no serialization strategy"):
        serialize_result({1, 2}, ["globus_compute_sdk.serialize.JSONData", "nonsense"])


def test_a_rehearsal_returns_what_the_far_end_gets() -> None:
    function, args, kwargs = Serializer(data_strategy=JSONData).check_strategies(_add, 2, b=3)
    assert function(*args, **kwargs) == 5
    assert args == [2]


def test_serialization_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(DeserializationError("why")))
    assert (type(error), error.reason, error.code) == (DeserializationError, "why", "DESERIALIZATION_FAILED")
