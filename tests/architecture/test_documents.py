"""The documents that an administrator is promised exist, and lists in them are the code's own."""

from __future__ import annotations

import re
import tomllib

import pytest

from support.source import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "docs/admin/install.md",
    "docs/admin/configure.md",
    "docs/admin/identities.md",
    "docs/admin/templates.md",
    "docs/admin/processes.md",
    "docs/admin/errors.md",
    "docs/admin/performance.md",
    "docs/admin/security.md",
    "docs/admin/failure-modes.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_page_exists_and_says_something(page: str) -> None:
    path = ROOT / page
    assert path.exists(), f"{page} is missing"
    assert len(path.read_text().split()) > 100


def test_contributing_says_why_each_dependency_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    wanted = {re.split(r"[\[<>=!~ ]", line)[0] for line in lines if not line.startswith("mep[")}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE))
    assert explained == wanted


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
