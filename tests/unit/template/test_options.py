from __future__ import annotations

import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.template import validate_options
from mep.template.options import RESERVED

SCHEMA = {
    "type": "object",
    "properties": {
        "account": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
        "workers": {"type": "integer", "minimum": 1, "maximum": 4},
        "queue": {"enum": ["debug", "gpu"]},
        "hosts": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    },
    "required": ["account"],
    "additionalProperties": False,
}


def refusal(options: object, schema: object = SCHEMA) -> InputError:
    with pytest.raises(InputError) as caught:
        validate_options(options, schema)
    return caught.value


def test_what_the_schema_allows_passes() -> None:
    validate_options({"account": "abc", "workers": 2, "queue": "gpu", "hosts": [{"n": 1}]}, SCHEMA)
    validate_options({"anything": [None, True, 1.5]}, None)
    validate_options({"anything": 1}, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "$: 'account' is required and missing."),
        (
            {"account": "a", "worker": 1},
            "$: 'worker' is not an option here; wanted one of account, hosts, queue, workers.",
        ),
        ({"account": "a", "workers": 9}, "$.workers: found 9, wanted at most 4."),
        ({"account": "a", "workers": "2"}, '$.workers: found "2", wanted integer.'),
        ({"account": "A b"}, '$.account: found "A b", wanted a text that matches "^[a-z]+$".'),
        ({"account": "a", "queue": "x"}, '$.queue: found "x", wanted one of "debug", "gpu".'),
        ({"account": "a", "hosts": [{"n": 1}, {"n": "x"}]}, '$.hosts[1].n: found "x", wanted integer.'),
        ([], "user_endpoint_config: wanted an object (a dict), found []."),
        ("text", 'found "text"'),
        ({"account": math.nan}, "$.account: nan is not a JSON number"),
        ({"account": "\ud800"}, "half of a surrogate pair"),
        ({"a: 1\nb": 1}, r'$: the key "a: 1\nb" has characters other than'),
        ({"account": {"x": {'"': 1}}}, "$.account.x: the key"),
        ({"account": {1, 2}}, "set is not a JSON type"),
    ],
)
def test_a_refusal_names_path_value_and_what_was_wanted(options: object, says: str) -> None:
    error = refusal(options)
    assert error.code is Code.OPTIONS_INVALID
    assert says in error.user_text


def test_three_faults_are_shown_and_all_are_counted() -> None:
    error = refusal({"account": "", "workers": 0, "queue": 1, "hosts": 1, "account2": 1})
    assert "(2 more faults are not shown.)" in error.user_text


def test_a_long_value_is_cut() -> None:
    assert len(refusal({"account": "A" * 100_000}).user_text) < 500


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_refused_with_and_without_a_schema(name: str) -> None:
    schemas: list[object] = [None, {}]
    for schema in schemas:
        error = refusal({name: 1}, schema)
        assert error.code is Code.OPTIONS_RESERVED
        assert repr(name) in error.user_text


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object or so"}, "$.type"),
        ({"properties": {"a": {"pattern": "("}}}, "pattern"),
        ({"$schema": "https://json-schema.org/draft/9999/schema"}, "is not a known draft"),
        ([], "must be an object"),
        ({"$ref": "#/nothing"}, "which is not in it"),
    ],
)
def test_a_wrong_schema_is_the_administrators_and_says_so_to_them_only(schema: object, says: str) -> None:
    error = refusal({"a": "x"}, schema)
    assert error.code is Code.SCHEMA_INVALID
    assert says in error.admin_text
    assert says not in error.user_text


def test_a_reference_to_another_host_or_file_is_never_followed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outside = tmp_path / "schema.json"
        outside.write_text('{"type": "object"}')
        for reference in (f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json", outside.as_uri()):
            error = refusal({"a": 1}, {"$ref": reference})
            assert error.code is Code.SCHEMA_INVALID
            assert "nothing is fetched" in error.admin_text
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("draft", ["draft-07/schema#", "draft/2019-09/schema", "draft/2020-12/schema"])
def test_the_draft_that_the_schema_names_is_used(draft: str) -> None:
    scheme = "http" if "07" in draft else "https"
    schema = {"$schema": f"{scheme}://json-schema.org/{draft}", "properties": {"a": {"const": 1}}}
    validate_options({"a": 1}, schema)
    assert "wanted 1" in refusal({"a": 2}, schema).user_text


def test_deep_nesting_ends_in_a_refusal() -> None:
    options: dict[str, object] = {}
    for _ in range(200):
        options = {"a": options}
    assert "nested deeper" in refusal(options, None).user_text


@given(st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.text()), max_size=3))
def test_any_options_pass_or_are_refused_with_a_code(options: dict[str, object]) -> None:
    try:
        validate_options(options, SCHEMA)
    except InputError as error:
        assert error.code in (Code.OPTIONS_INVALID, Code.OPTIONS_RESERVED)


def test_the_relay_checks_options_without_jinja_or_yaml() -> None:
    code = (
        "import sys; import mep.template; sys.exit(any(m in sys.modules for m in ('jinja2', 'yaml', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
