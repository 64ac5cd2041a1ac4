from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.yamltext import load_yaml
from mep.template import ReservedVariables, check_template, render

RUNTIME = {"globus_compute_sdk_version": "4.19.0", "python": {"version_tuple": [3, 11, 2]}}
RESERVED = ReservedVariables(
    parent_config={"display_name": "here"},
    user_runtime=RUNTIME,
    mapped_identity={"local": {"uname": "alice", "uid": 1001}, "globus": {"id": "i"}},
    env={"SCRATCH": "/scratch"},
)


def rendered(template: str, **options: Any) -> str:
    return render(template, options=options, reserved=RESERVED, source="user_config_template")


def refusal(template: str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        rendered(template, **options)
    return caught.value


UNDEFINED, INVALID = Code.TEMPLATE_UNDEFINED, Code.TEMPLATE_INVALID

ATTACKS = [
    "x\nengine:\n  type: ThreadPoolEngine",
    "x\r\nevil: 1",
    'x", evil: "1',
    "x' evil: '1",
    "{{ 7 * 7 }}",
    "{% for i in range(9) %}x{% endfor %}",
    "!!python/object/apply:os.system [id]",
    "&a [*a, *a]",
    "null",
    "~",
    "true",
    "1e3",
    "# comment",
    "- a\n- b",
    "\u2028evil: 1\u0085evil: 2",
    "\x00\x07\x7f",
    '\\" \\n \\u0041',
    "\U0001f600 \\ud83d\\ude00",
    "... ---\n--- x",
    "%YAML 9.9",
    "",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_users_text_stays_one_text(attack: str) -> None:
    text = rendered("account: {{ account }}\nlast: 1\n", account=attack)
    assert load_yaml(text, source="r").data == {"account": attack, "last": 1}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_users_text_in_a_list_or_object_stays_one_text(attack: str) -> None:
    text = rendered("a: {{ a }}\nb: {{ b }}\nc: {{ b | tojson }}\n", a=[attack], b={"k": attack})
    assert load_yaml(text, source="r").data == {"a": [attack], "b": {"k": attack}, "c": {"k": attack}}


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"\w[\w.-]{1,8}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_values)
@example(1e22)
@example([5e-324, -1e16, 0.1])
def test_any_json_value_reads_back_as_itself(value: Any) -> None:
    text = rendered("before: 1\nvalue: {{ value }}\nafter: 2\n", value=value)
    for data in (load_yaml(text, source="r").data, yaml.safe_load(text)):
        assert data == {"before": 1, "value": value, "after": 2}
        assert json.dumps(data["value"]) == json.dumps(value), "the types are the same, too"


def test_null_prints_as_null_is_false_and_is_none() -> None:
    template = "a: {{ a }}\nb: {{ 'yes' if a else 'no' }}\nc: {{ a is none }}\nd: {{ a | default('x', true) }}\n"
    assert yaml.safe_load(rendered(template, a=None)) == {"a": None, "b": False, "c": True, "d": "x"}
    assert rendered("w: |\n  {{ a | indent(2) }}x", a=None) == "w: |\n  x", "no text, where a text is needed"


def test_a_text_can_be_compared_with_the_plain_word_and_with_the_quoted() -> None:
    template = """{{ q == "debug" }} {{ q == '"debug"' }} {{ q != "debug" }} {{ q in ["gpu", "debug"] }}"""
    assert rendered(template, q="debug") == "True True False True"
    assert rendered(template, q="other") == "False False True False"


def test_a_text_that_brings_its_own_quotes_is_not_the_plain_word() -> None:
    assert rendered("""{{ q == "debug" }} {{ q == '"debug"' }}""", q='"debug"') == "False False"


def test_shell_escape_gives_one_word_for_the_shell_and_one_text_for_yaml() -> None:
    text = rendered("cmd: {{ x | shell_escape }}\nn: {{ n | shell_escape }}", x="a b; rm -rf '$HOME'\n", n=3)
    assert yaml.safe_load(text) == {"cmd": "'a b; rm -rf '\"'\"'$HOME'\"'\"'\n'", "n": 3}


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        (
            "a: 1\nb: {{ acount }}\n",
            UNDEFINED,
            "line 2: the option 'acount' is needed and was not given. You gave 'account'.",
        ),
        ("\n{{ account.x.y }}", UNDEFINED, "line 2: "),
        ("a\n{% if %}\n", INVALID, "user_config_template line 2: Expected an expression"),
        ("{{ 1 / 0 }}", INVALID, "line 1: ZeroDivisionError"),
        ("a\n{{ account.__class__.__mro__ }}", INVALID, "line 2: SecurityError"),
        ("{{ range.__init__.__globals__ }}", INVALID, "SecurityError"),
        ("{{ ''.format.__self__.__class__ }}", INVALID, "SecurityError"),
        ("{{ '{0.__class__}'.format(account) }}", INVALID, "SecurityError"),
        ("{{ 'a' * 10000000 }}", INVALID, "a repetition gives more than"),
        ("{{ 10 ** 1000000 }}", INVALID, "a power has more than"),
        ("{% for i in range(1000000) %}x{% endfor %}", INVALID, "Range too big"),
        ("{% for i in range(9999) %}{{ 'x' * 999 }}{% endfor %}", INVALID, "gives more than 1048576"),
        ("{% include '/etc/passwd' %}", INVALID, "line 1: includes '/etc/passwd', which is not there"),
        ("{{ account.nope() }}", UNDEFINED, "line 1"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", INVALID, "RecursionError"),
    ],
)
def test_a_fault_names_the_files_role_the_line_and_what_was_wanted(template: str, code: Code, says: str) -> None:
    error = refusal(template, account="x")
    assert error.code is code
    assert "user_config_template" in error.user_text
    assert says in error.user_text


def test_the_endpoints_variables_are_there_by_both_names() -> None:
    assert rendered("{{ _GC.mapped_identity.local.uname }} {{ mapped_identity.local.uid }}") == "alice 1001"
    assert rendered("{{ _GC.parent_config.display_name }} {{ parent_config.display_name }}") == "here here"
    assert rendered("{{ _GC.user_runtime.python.version_tuple | join('.') }}") == "3.11.2"
    assert (
        rendered("{{ user_runtime.globus_compute_sdk_version[1:-1] }} {{ _GC.env.SCRATCH }}") == "4.19.0 /scratch"
    )


@pytest.mark.parametrize("name", ["_GC", "parent_config", "user_runtime", "mapped_identity"])
def test_a_user_cannot_stand_in_for_them(name: str) -> None:
    assert refusal("x", **{name: {"local": {"uname": "root"}}}).code is Code.OPTIONS_RESERVED


def test_an_option_may_have_any_other_name() -> None:
    assert rendered("{{ self }} {{ x }}", self=1, x=2, caller=3, range=4).endswith(" 2")


def test_the_users_runtime_is_quoted_and_checked_like_options() -> None:
    hostile = ReservedVariables(user_runtime={"python": "3\nevil: 1"})
    text = render("v: {{ _GC.user_runtime.python }}\n", options={}, reserved=hostile, source="t")
    assert yaml.safe_load(text) == {"v": "3\nevil: 1"}
    with pytest.raises(InputError, match="user_runtime"):
        render("v: 1", options={}, reserved=ReservedVariables(user_runtime={"a\nb": 1}), source="t")


def test_templates_include_each_other_by_name() -> None:
    text = render(
        "{% include 'part.j2' %}b: {{ x }}",
        options={"x": 1},
        reserved=RESERVED,
        source="t",
        includes={"part.j2": "a: {{ x }}\n\n"},
    )
    assert text == "a: 1\nb: 1"


def test_the_options_that_a_template_mentions() -> None:
    template = "{% set a = a | default(1) %}{{ a }}{{ b }}{% set c = 1 %}{{ c }}{{ _GC.env }}{{ user_runtime }}"
    assert check_template(template, source="t") == {"a", "b"}
    with pytest.raises(InputError, match="t line 1"):
        check_template("{{", source="t")


def test_what_a_template_includes_is_checked_with_it_and_nothing_else() -> None:
    includes = {"a.j2": '{% include "b.j2" %}', "b.j2": "{{ x | nonesuch }}", "not ours.j2": "{% if %}"}
    with pytest.raises(InputError, match=r"b\.j2 line 1: .*nonesuch"):
        check_template('{% include "a.j2" %}', source="t", includes=includes)
    includes["b.j2"] = "{{ x }}"
    check_template('{% include "a.j2" %}{% include "none.j2" ignore missing %}', source="t", includes=includes)


CASES = json.loads(Path(__file__).with_name("stock_rendered.json").read_text())


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_template_gives_what_the_stock_renderer_gives(case: dict[str, Any]) -> None:
    """Recorded from globus-compute-endpoint 4.19.0, from this very template."""
    reserved = ReservedVariables(user_runtime=case["runtime"])
    text = render(CASES["template"], options=case["options"], reserved=reserved, source="t")
    assert yaml.safe_load(text) == case["yaml"]
