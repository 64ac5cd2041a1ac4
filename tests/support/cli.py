"""The `mep` command inside this process: what it printed, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mep.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command did. `err` is one line where a command failed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class MepCommand:
    """`run("list")` runs `mep --config-dir DIR list`; `etc` is that folder."""

    def __init__(self, etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.etc = etc
        self._capsys = capsys

    def run(self, *arguments: object) -> Answer:
        return self.bare("--config-dir", self.etc, *arguments)

    def bare(self, *arguments: object) -> Answer:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        code = caught.value.code
        return Answer(code if isinstance(code, int) else 0, out, err)


def write_json(path: Path, value: object) -> Path:
    """Write `value` to `path`; return the path."""
    path.write_text(json.dumps(value))
    return path


def mapping_file(folder: Path, *rules: Sequence[str]) -> Path:
    """Write a mapping with rules (match, output) on user names; by default NAME@example.org -> NAME."""
    listed = rules or ((r"(.*)@example\.org", "{0}"),)
    mappings = [{"source": "{username}", "match": match, "output": output} for match, output in listed]
    document = {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": mappings}
    return write_json(folder / "mapping.json", [document])
