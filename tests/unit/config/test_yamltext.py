from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.yamltext import MAX_VALUES, load_yaml


def test_every_key_has_its_line() -> None:
    located = load_yaml("a: 1\nb:\n  c: 2\n  d: [x, {e: 3}]\n", source="f")
    assert located.data == {"a": 1, "b": {"c": 2, "d": ["x", {"e": 3}]}}
    assert located.line(("b", "c")) == 3
    assert located.line(("b", "d", 1, "e")) == 4
    assert located.line(("b", "nothing")) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "f line 3: the key 'a' is there twice"),
        ("a: !!python/object/apply:os.system [id]\n", "f line 1: the tag"),
        ("a: !site x\n", "f line 1: the tag '!site' is not allowed"),
        ("a: [1, 2\n", "f line 2: not valid YAML"),
        ("a: 1\n--- \nb: 2\n", "f line 2: not valid YAML"),
        ("1: a\n", "f line 1: the key 1 must be a text"),
        ("? [a]\n: b\n", "must be a text"),
        ("a: &x [*x]\n", "nested deeper"),
        ("a: 2024-02-31\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("a: 1" + " " * 1024 * 1024, "characters"),
    ],
)
def test_what_surprises_is_an_error_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_yaml(text, source="f")
    assert caught.value.code is Code.CONFIG_INVALID
    assert says in caught.value.user_text


def test_a_billion_laughs_end_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match=f"more than {MAX_VALUES} values"):
        load_yaml("\n".join(lines), source="f")


def test_walltimes_stay_texts() -> None:
    assert load_yaml("walltime: 10:00:00\nn: 10\nf: 1.5\n", source="f").data == {
        "walltime": "10:00:00",
        "n": 10,
        "f": 1.5,
    }


def test_merge_keys_work_and_explicit_keys_win() -> None:
    text = "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n"
    assert load_yaml(text, source="f").data["use"] == {"x": 1, "y": 3}


def test_merging_is_bounded_too() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    with pytest.raises(InputError, match="more than"):
        load_yaml("\n".join(lines), source="f")


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _plain, max_size=5))
def test_what_yaml_wrote_is_read_back(value: dict[str, object]) -> None:
    text = yaml.safe_dump(value, allow_unicode=False)
    assert load_yaml(text, source="f").data == yaml.safe_load(text)


@given(st.text())
def test_any_text_is_data_or_an_input_error(text: str) -> None:
    try:
        load_yaml(text, source="f")
    except InputError:
        pass


def test_a_number_that_python_cannot_show_is_refused() -> None:
    assert load_yaml("a: 0x" + "f" * 60, source="f").data == {"a": 16**60 - 1}
    with pytest.raises(InputError, match="f line 1: a number that large"):
        load_yaml("a: 0x" + "f" * 5000, source="f")


@pytest.mark.parametrize("text", ["[" * 500_000, "{a: " * 200_000, "- " * 400_000, "? " * 400_000, "[{" * 900])
def test_nesting_without_end_ends_no_process(text: str) -> None:
    """The parser in C would: a fault here is the death of whoever runs this test."""
    with pytest.raises(InputError, match=r"nested deeper|not valid YAML|characters"):
        load_yaml(text, source="f")
