"""One mapping document: expression rules, or an external program."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from globus_identity_mapping.errors import IdentityMappingError, InvalidMappingError
from globus_identity_mapping.mappers.expression import ExpressionIdentityMapping

from mep.base.codes import Code
from mep.base.errors import InputError, RefusedError

#: The connector that mapping programs are told (`-c`): the POSIX one, as the stock endpoint says.
CONNECTOR_ID: Final = "145812c8-decc-41f1-83cf-bb2a85a2a70b"
EXPRESSION: Final = "expression_identity_mapping#1.0.0"
EXTERNAL: Final = "external_identity_mapping#1.0.0"
_INPUT: Final = "identity_mapping_input#1.0.0"
_OUTPUT: Final = "identity_mapping_output#1.0.0"
_REFERENCE = re.compile(r"\{([^}]*)\}")
_RULE_KEYS: Final = ("source", "match", "output", "ignore_case", "literal", "comment", "DATA_TYPE")

Identity = Mapping[str, Any]


class ProgramRunner(Protocol):
    """Runs a mapping program and returns its standard output for `stdin`, within limits of time and size.

    Raises MAPPING_TIMEOUT or MAPPING_FAILED (a MepError) if it does not end in time and with status 0.
    """

    def __call__(self, argv: Sequence[str], stdin: bytes) -> bytes: ...


@dataclass(frozen=True)
class Match:
    """The account's name, the id of the identity that matched, and the rule: its place and text, for the log."""

    username: str
    identity: str
    rule: str


class Document(Protocol):
    """Answers for a set of usable identities, in their order."""

    def lookup(self, identities: Sequence[Identity]) -> Match | None: ...


# ---- expressions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    place: str
    text: str
    fields: frozenset[str]
    matcher: ExpressionIdentityMapping

    def lookup(self, identity: Identity) -> Match | None:
        values = {name: identity[name] for name in self.fields if _plain(identity.get(name))}
        if len(values) < len(self.fields):
            return None
        try:
            username = self.matcher.map_identity(values)
        except IdentityMappingError:
            return None
        return Match(username, str(identity["id"]), f"{self.place} ({self.text})") if username else None


def _plain(value: object) -> bool:
    """Whether a rule may use this text.

    A missing field means "no match". Control characters would slip past `$`, which matches before a final line
    break; braces would be taken for further references by the library, which replaces one after the other.
    """
    return isinstance(value, str) and value.isprintable() and "{" not in value and "}" not in value


class ExpressionDocument:
    """Rules in order; each is tried with each identity."""

    def __init__(self, document: Mapping[str, Any], *, place: str, source: str) -> None:
        rules = document.get("mappings")
        if not isinstance(rules, list):
            raise _invalid(source, f"{place}.mappings", "a list of rules", rules)
        self._rules = [_rule(r, place=f"{place}.mappings[{i}]", source=source) for i, r in enumerate(rules)]
        self.warnings = [w for i, r in enumerate(rules) for w in _warnings(r, f"{place}.mappings[{i}]")]

    def lookup(self, identities: Sequence[Identity]) -> Match | None:
        for rule in self._rules:
            for identity in identities:
                if match := rule.lookup(identity):
                    return match
        return None


def _rule(rule: object, *, place: str, source: str) -> _Rule:
    if not isinstance(rule, dict):
        raise _invalid(source, place, "an object with source, match and output", rule)
    for key in ("source", "match", "output"):
        if not isinstance(rule.get(key), str):
            raise _invalid(source, f"{place}.{key}", "a text", rule.get(key))
    for key in ("ignore_case", "literal"):
        if not isinstance(rule.get(key, False), bool):
            raise _invalid(source, f"{place}.{key}", "true or false", rule.get(key))
    settled: Any = {k: rule[k] for k in ("source", "match", "output", "ignore_case", "literal") if k in rule}
    try:
        matcher = ExpressionIdentityMapping([settled])
        if "|" in rule["match"] and not rule.get("literal", False):
            # The library anchors with "^" + match + "$", which binds tighter than "|": without this group only
            # the last branch would be anchored at the end, and "a@site.org|..." would match "a@site.org.evil".
            matcher = ExpressionIdentityMapping([settled | {"match": f"(?:{rule['match']})"}])
        groups = matcher.mappings[0]["compiled_match"].groups
        _try_out(matcher)
    except (InvalidMappingError, re.error) as error:
        raise InputError(Code.CONFIG_INVALID, f"{source}: {place}.match: {error}.") from None
    fields = set(_REFERENCE.findall(rule["source"])) | set(_REFERENCE.findall(rule["output"]))
    for number in (int(f) for f in fields if f.isdecimal()):
        if number >= groups:
            raise InputError(
                Code.CONFIG_INVALID,
                f"{source}: {place}.output refers to {{{number}}}; match has {groups} group(s), counted from 0.",
            )
    text = f"{rule['source']} ~ {rule['match']} -> {rule['output']}"
    return _Rule(place, text, frozenset(f for f in fields if not f.isdecimal()), matcher)


def _try_out(matcher: ExpressionIdentityMapping) -> None:
    """Let the library compile its own patterns now, in the process that forks: no child has to."""
    try:
        matcher.map_identity({})
    except IdentityMappingError:
        pass


def _warnings(rule: dict[str, Any], place: str) -> list[str]:
    found = [f"{place}: the key {key!r} is not known and has no effect." for key in rule if key not in _RULE_KEYS]
    if not rule.get("literal", False) and re.search(r"(?<!\\)\.(?![*?])", rule["match"]):
        found.append(f"{place}.match: an unescaped '.' matches any character; write '\\\\.' for a dot.")
    if rule["match"] in ("(.*)", ".*") and "{0}" in rule["output"]:
        found.append(f"{place}.match: matches every identity provider's names; anybody may become anybody.")
    return found


# ---- external programs ----------------------------------------------------------------------------------


class ExternalDocument:
    """A program that maps; called as Globus Connect Server and the stock endpoint call it."""

    def __init__(
        self, document: Mapping[str, Any], *, place: str, source: str, endpoint_id: str, run: ProgramRunner
    ) -> None:
        command = document.get("command")
        if isinstance(command, str):
            command = [command]
        if (
            not isinstance(command, list)
            or not command
            or not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in command)
        ):
            raise _invalid(source, f"{place}.command", "a list: the program and its arguments", command)
        self._command = [str(part) for part in command]
        if not self._command[0].startswith("/"):
            raise _invalid(source, f"{place}.command[0]", "the program's absolute path", self._command[0])
        self._argv = [*self._command, "-c", CONNECTOR_ID, "-s", endpoint_id, "-a"]
        self._place = place
        self._run = run
        self.warnings: list[str] = []

    @property
    def command(self) -> tuple[str, ...]:
        """The program's path and its own arguments, for those who check that only root may change them."""
        return tuple(self._command)

    def lookup(self, identities: Sequence[Identity]) -> Match | None:
        question = {"DATA_TYPE": _INPUT, "identities": [dict(i) for i in identities]}
        answer = self._run(self._argv, json.dumps(question).encode())
        if not answer.strip():
            return None
        known = {str(identity["id"]) for identity in identities}
        for item in self._items(answer):
            if item["id"] not in known:
                raise self._failed(f"answered for {item['id'][:60]!r}, an identity it was not asked about")
            if item["output"]:
                return Match(item["output"], item["id"], f"{self._place} ({' '.join(self._command)})")
        return None

    def _items(self, answer: bytes) -> list[dict[str, str]]:
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise self._failed(f"did not answer with JSON ({error}): {answer[:200]!r}") from None
        if not isinstance(document, dict) or document.get("DATA_TYPE", _OUTPUT) != _OUTPUT:
            raise self._failed(f"did not answer with a document of type {_OUTPUT}: {answer[:200]!r}")
        items = document.get("result") or []
        if not isinstance(items, list) or not all(
            isinstance(i, dict) and isinstance(i.get("id"), str) and isinstance(i.get("output"), str)
            for i in items
        ):
            raise self._failed(f"did not answer with a list `result` of {{id, output}}: {answer[:200]!r}")
        return items

    def _failed(self, what: str) -> RefusedError:
        return RefusedError(
            Code.MAPPING_FAILED,
            "This endpoint could not look up your account.",
            admin_text=f"{self._place}: {self._command[0]} {what}.",
        )


def _invalid(source: str, place: str, wanted: str, found: object) -> InputError:
    shown = "nothing" if found is None else json.dumps(found, default=str)[:80]
    return InputError(Code.CONFIG_INVALID, f"{source}: {place}: wanted {wanted}, found {shown}.")
