"""What the administrator reads is what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import docs_tables
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.user_endpoint import load_user_endpoint_config
from mep.identity.documents import ExternalDocument
from mep.identity.mapping import Mapping
from mep.template import ReservedVariables, render, validate_options
from support.source import ROOT

ADMIN = ROOT / "docs/admin"


@pytest.mark.parametrize("path", docs_tables.wanted(ROOT), ids=lambda path: path.name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    """`python tools/docs_tables.py` writes them."""
    assert path.read_text() == docs_tables.wanted(ROOT)[path]


def test_every_generated_part_stands_in_a_page() -> None:
    pages = "".join(page.read_text() for page in ADMIN.glob("*.md"))
    for name in docs_tables.PARTS:
        assert f"<!-- generated: {name} -->" in pages


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ADMIN / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_in_configure_are_valid() -> None:
    [example] = blocks("configure.md", "yaml")
    config = load_endpoint_config(example, source="configure.md")
    assert len(config.model_fields_set) == len(example.split("\n")) - 4, "each line is a setting"
    assert config != EndpointConfig()


def test_the_examples_in_templates_work_together() -> None:
    [template], [schema_text] = blocks("templates.md", "jinja"), blocks("templates.md", "json")
    schema = json.loads(schema_text)
    for options in (
        {"account": "abc"},
        {"account": "abc", "partition": "gpu", "walltime": "02:00:00", "workers": 2},
    ):
        validate_options(options, schema)
        text = render(template, options=options, reserved=ReservedVariables(), source="templates.md")
        engine: Any = load_user_endpoint_config(text, source="templates.md").engine
        assert engine.provider["account"] == "abc"
        assert ("gpus_per_node" in engine.provider) == ("partition" in options)
    for engine_example in blocks("templates.md", "yaml"):
        load_user_endpoint_config(engine_example, source="templates.md")


def test_the_examples_in_identities_work_together() -> None:
    identities, expressions, program, question, answer = map(json.loads, blocks("identities.md", "json"))
    asked: list[Any] = []

    def run(argv: Any, stdin: bytes) -> bytes:
        asked.append((argv, json.loads(stdin)))
        return json.dumps(answer).encode()

    def parsed(document: Any) -> Mapping:
        return Mapping.parse(json.dumps(document), source="identities.md", endpoint_id="ENDPOINT_ID", run=run)

    assert parsed(expressions).warnings == ()
    by_rule, by_program = parsed(expressions).lookup(identities), parsed(program).lookup(question["identities"])
    assert by_rule is not None
    assert by_program is not None
    assert by_rule.username == by_program.username == "alice"
    [(argv, sent)] = asked
    assert sent == question
    assert " ".join(argv) in (ADMIN / "identities.md").read_text()
    assert ExternalDocument.__doc__


def test_no_rule_of_the_page_is_dead() -> None:
    rules = json.loads(blocks("identities.md", "json")[1])
    mapping = Mapping.parse(json.dumps(rules), source="p", endpoint_id="", run=lambda argv, stdin: b"")
    for name, account in (("admin@site.example", "alice"), ("bob@site.example", "bob")):
        match = mapping.lookup([{"id": "i", "username": name, "status": "used"}])
        assert match is not None
        assert match.username == account
