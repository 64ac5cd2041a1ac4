"""Every room says in a line what lives there, and is the room that the guide names."""

from __future__ import annotations

import ast

from support.source import ROOT

ROOMS = sorted(path.parent for path in (ROOT / "src" / "mep").glob("*/__init__.py"))


def test_every_room_says_what_lives_there() -> None:
    silent = [room.name for room in ROOMS if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))]
    assert not silent


def test_the_guide_names_every_room() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert not [room.name for room in ROOMS if f"`{room.name}`" not in guide]


def test_every_room_has_tests() -> None:
    tested = {path.name for path in (ROOT / "tests" / "unit").iterdir()}
    assert not [room.name for room in ROOMS if room.name not in tested]
