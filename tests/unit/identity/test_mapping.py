from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import HostError, InputError, MepError, RefusedError
from mep.identity.documents import CONNECTOR_ID
from mep.identity.mapping import Mapping, Match, not_mapped

ALICE = {"id": "id-a", "sub": "id-a", "username": "alice@site.example", "name": "Alice A", "status": "used"}
BOB = {"id": "id-b", "username": "bob@other.example", "status": "private"}
ENDPOINT = "0123abcd-0000-4000-8000-000000000001"


def no_program(argv: Sequence[str], stdin: bytes) -> bytes:
    raise AssertionError("no program is expected to run")


def rule(match: str, output: str = "{0}", source: str = "{username}", **more: Any) -> dict[str, Any]:
    return {"source": source, "match": match, "output": output, **more}


def mapping_of(*documents: Any, run: Any = no_program) -> Mapping:
    return Mapping.parse(json.dumps(documents), source="identity_mapping.json", endpoint_id=ENDPOINT, run=run)


def expressions(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": list(rules)}


def external(*command: str) -> dict[str, Any]:
    return {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": list(command)}


def looked_up(mapping: Mapping, *identities: Any) -> str | None:
    match = mapping.lookup(identities)
    return match.username if match else None


def test_a_match_says_who_and_by_which_rule() -> None:
    mapping = mapping_of(expressions(rule("nobody", "x"), rule(r"(.*)@site\.example")))
    assert mapping.lookup([BOB, ALICE]) == Match(
        "alice", "id-a", r"[0].mappings[1] ({username} ~ (.*)@site\.example -> {0})"
    )
    assert mapping.lookup([BOB]) is None
    assert mapping.lookup([]) is None


def test_the_first_match_wins_by_document_then_rule_then_identity() -> None:
    two = mapping_of(
        expressions(rule(r"bob@other\.example", "first-document")), expressions(rule("(.*)@(.*)", "second"))
    )
    assert looked_up(two, ALICE, BOB) == "first-document"
    rules = mapping_of(expressions(rule(r"bob@.*", "first-rule"), rule(r"alice@.*", "second")))
    assert looked_up(rules, ALICE, BOB) == "first-rule"
    identities = mapping_of(expressions(rule("(.*)@.*")))
    assert looked_up(identities, BOB, ALICE) == "bob"


@pytest.mark.parametrize("status", ["unused", "closed", "", None, 1])
def test_an_identity_that_is_not_in_use_is_passed_over_and_the_log_says_so(status: object) -> None:
    identity = ALICE | {"status": status}
    mapping = mapping_of(expressions(rule("(.*)@.*")))
    assert mapping.lookup([identity]) is None
    text = not_mapped([identity]).for_admin()
    assert f"its status is {status!r}, and only 'used' and 'private' are mapped" in text


def test_an_identity_without_id_is_passed_over() -> None:
    nameless = {"username": "alice@site.example", "status": "used"}
    assert mapping_of(expressions(rule("(.*)@.*"))).lookup([nameless]) is None
    assert "it has no id" in not_mapped([nameless]).for_admin()


def test_the_user_is_told_no_names() -> None:
    refusal = not_mapped([ALICE | {"username": "planted-name"}])
    assert refusal.code is Code.IDENTITY_NOT_MAPPED
    assert "planted-name" not in refusal.for_user()
    assert "planted-name" in refusal.for_admin()


@pytest.mark.parametrize(
    ("match", "username", "mapped"),
    [
        (r"(.*)@site\.example", "alice@site.example", True),
        (r"(.*)@site\.example", "alice@site.example.evil", False),
        (r"(.*)@site\.example", "alice@siteXexample", False),
        (r"(.*)@site\.example", "alice@site.example\n", False),
        (r"(.*)@site\.example", "x\nalice@site.example", False),
        (r"a@x\.org|b@x\.org", "a@x.org", True),
        (r"a@x\.org|b@x\.org", "b@x.org", True),
        (r"a@x\.org|b@x\.org", "a@x.org.evil", False),
        (r"a@x\.org|b@x\.org", "evil-b@x.org", False),
        (r"(a|b)@x\.org", "a@x.org", True),
        ("a+b@x", "a+b@x", True),
        ("a+b@x", "aab@x", False),
    ],
)
def test_a_rule_matches_all_of_a_name_or_nothing(match: str, username: str, mapped: bool) -> None:
    mapping = mapping_of(expressions(rule(match, "somebody")))
    assert (looked_up(mapping, ALICE | {"username": username}) == "somebody") is mapped


def test_literal_and_ignore_case() -> None:
    literal = mapping_of(expressions(rule("a.b@x", "m", literal=True)))
    assert looked_up(literal, ALICE | {"username": "a.b@x"}) == "m"
    assert looked_up(literal, ALICE | {"username": "aXb@x"}) is None
    either = mapping_of(expressions(rule("A@X", "m", ignore_case=True)))
    assert looked_up(either, ALICE | {"username": "a@x"}) == "m"


def test_a_rule_that_needs_a_field_the_identity_lacks_does_not_match_and_others_still_do() -> None:
    mapping = mapping_of(expressions(rule("(.*)", source="{email}"), rule("(.*)@.*")))
    assert looked_up(mapping, ALICE) == "alice"


def test_a_field_cannot_smuggle_in_another_field() -> None:
    """The library fills `{field}` one after the other: a name "{username}" would become the user name."""
    mapping = mapping_of(expressions(rule(r"(.*)", "{0}", source="{name}-{username}")))
    assert looked_up(mapping, ALICE | {"name": "{username}"}) is None


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ("{", "is not valid JSON"),
        ('[{"DATA_TYPE": "x", "DATA_TYPE": "y"}]', "the key 'DATA_TYPE' is there twice"),
        ("3", "wanted a list of mapping documents"),
        ("[3]", "[0].DATA_TYPE: wanted"),
        ('[{"DATA_TYPE": "site_mapping#1.0.0"}]', "found 'site_mapping#1.0.0'"),
        (json.dumps([expressions() | {"mappings": None}]), "[0].mappings: wanted a list of rules, found nothing"),
        (json.dumps([expressions({"source": "{id}"})]), "[0].mappings[0].match: wanted a text, found nothing"),
        (json.dumps([expressions(rule("(a"))]), "[0].mappings[0].match"),
        (json.dumps([expressions(rule("*a"))]), "Invalid leading wildcard"),
        (json.dumps([expressions(rule(r"a\d"))]), "Invalid"),
        (json.dumps([expressions(rule("a", "{0}"))]), "output refers to {0}; match has 0 group(s)"),
        (json.dumps([expressions(rule("a", "b", literal="yes"))]), "literal: wanted true or false"),
        (json.dumps([external()]), "[0].command: wanted a list"),
        (json.dumps([external("map.sh")]), "wanted the program's absolute path"),
    ],
)
def test_a_wrong_file_is_refused_with_file_place_and_what_was_wanted(documents: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Mapping.parse(documents, source="/etc/mep/e/identity_mapping.json", endpoint_id=ENDPOINT, run=no_program)
    assert caught.value.code is Code.CONFIG_INVALID
    assert caught.value.user_text.startswith("/etc/mep/e/identity_mapping.json")
    assert says in caught.value.user_text


def test_what_looks_unintended_is_a_warning() -> None:
    warnings = mapping_of(expressions(rule("(.*)@site.example", ignorecase=True), rule("(.*)"))).warnings
    assert any("unescaped '.'" in w for w in warnings)
    assert any("'ignorecase' is not known" in w for w in warnings)
    assert any("anybody may become anybody" in w for w in warnings)
    assert mapping_of().warnings, "an empty file admits nobody"
    assert not mapping_of(expressions(rule(r"(.*)@site\.example"))).warnings


class Program:
    """A mapping program: records how it was called, answers what it is told to."""

    def __init__(self, answer: bytes | MepError) -> None:
        self.answer, self.calls = answer, []  # type: ignore[var-annotated]

    def __call__(self, argv: Sequence[str], stdin: bytes) -> bytes:
        self.calls.append((list(argv), json.loads(stdin)))
        if isinstance(self.answer, MepError):
            raise self.answer
        return self.answer


def answer(*results: tuple[str, str]) -> bytes:
    items = [{"id": identity, "output": output} for identity, output in results]
    return json.dumps({"DATA_TYPE": "identity_mapping_output#1.0.0", "result": items}).encode()


def test_a_program_is_called_as_globus_connect_server_calls_it() -> None:
    program = Program(answer(("id-a", "alice"), ("id-a", "other")))
    mapping = mapping_of(external("/opt/map", "--x"), run=program)
    assert mapping.lookup([ALICE, BOB, ALICE | {"status": "unused"}]) == Match(
        "alice", "id-a", "[0] (/opt/map --x)"
    )
    [(argv, question)] = program.calls
    assert argv == ["/opt/map", "--x", "-c", CONNECTOR_ID, "-s", ENDPOINT, "-a"]
    assert question == {"DATA_TYPE": "identity_mapping_input#1.0.0", "identities": [ALICE, BOB]}
    assert mapping.commands == (("/opt/map", "--x"),)


@pytest.mark.parametrize("nothing", [b"", b"\n", answer(), b'{"result": []}', answer(("id-a", ""))])
def test_a_program_that_knows_nobody_leaves_it_to_the_next_document(nothing: bytes) -> None:
    mapping = mapping_of(external("/opt/map"), expressions(rule("(.*)@.*")), run=Program(nothing))
    assert looked_up(mapping, ALICE) == "alice"


@pytest.mark.parametrize(
    "garbage",
    [
        b"alice",
        b"[]",
        b'{"DATA_TYPE": "other#1", "result": []}',
        b'{"result": "alice"}',
        b'{"result": [{"id": 1, "output": "alice"}]}',
        b'{"result": [{"output": "alice"}]}',
        b'{"result": [{"id": "id-a", "output": null}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        answer(("id-of-somebody-else", "root")),
    ],
)
def test_a_program_that_prints_garbage_ends_the_search(garbage: bytes) -> None:
    mapping = mapping_of(external("/opt/map"), expressions(rule("(.*)@.*")), run=Program(garbage))
    with pytest.raises(RefusedError) as caught:
        mapping.lookup([ALICE])
    assert caught.value.code is Code.MAPPING_FAILED
    assert "/opt/map" in caught.value.for_admin()
    assert "/opt/map" not in caught.value.for_user()


def test_a_program_that_hangs_ends_the_search() -> None:
    slow = Program(HostError(Code.MAPPING_TIMEOUT, "slow"))
    with pytest.raises(HostError):
        mapping_of(external("/opt/map"), expressions(rule("(.*)@.*")), run=slow).lookup([ALICE])


_values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
_keys = st.sampled_from(["id", "username", "status", "name", "email"]) | st.text()


@given(st.lists(st.dictionaries(_keys, _values, max_size=6), max_size=4))
def test_any_identity_set_maps_to_an_account_by_rule_or_to_nobody(identities: list[dict[str, Any]]) -> None:
    mapping = mapping_of(
        expressions(rule(r"(.*)@site\.example", source="{username}"), rule("x", "x", source="{name}{email}"))
    )
    match = mapping.lookup(identities)
    if match is not None:
        assert any(i.get("id") == match.identity and i.get("status") in ("used", "private") for i in identities)
    not_mapped(identities).for_admin()
