"""pyproject.toml asks for what the source imports, and for nothing else."""

from __future__ import annotations

import re
import sys
import tomllib

from support.source import ROOT, imports, modules

#: distribution -> the module it brings, where the names differ
MODULES = {
    "globus-identity-mapping": "globus_identity_mapping",
    "globus-sdk": "globus_sdk",
    "inotify-simple": "inotify_simple",
    "prometheus-client": "prometheus_client",
    "pyjwt": "jwt",
    "python-daemon": "daemon",
    "pyyaml": "yaml",
    "systemd-python": "systemd",
}

#: used, but not by an import of ours
NOT_IMPORTED: dict[str, str] = {}

#: imported, and brought by another
BROUGHT_ALONG = {
    "cryptography": "pyjwt[crypto]",
    "markupsafe": "jinja2",
    "pydantic_core": "pydantic",
    "requests": "globus-sdk",
    "starlette": "fastapi",
    "zmq": "parsl",
    "typing_extensions": "pydantic",
    "referencing": "jsonschema",
}


def _listed(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for e in extras for line in project["optional-dependencies"][e])]
    return {re.split(r"[\[<>=!~ ]", line)[0] for line in lines if not line.startswith("mep[")}


def _imported(folder: str = "src") -> set[str]:
    names = {name.split(".")[0] for module in modules(folder) for name, _ in imports(module)}
    return names - set(sys.stdlib_module_names) - {"mep", "None"}


def test_every_dependency_is_imported() -> None:
    unused = {d for d in _listed("endpoint", "relay") - set(NOT_IMPORTED) if MODULES.get(d, d) not in _imported()}
    assert not unused


def test_every_import_is_a_dependency() -> None:
    known = {MODULES.get(d, d) for d in _listed("endpoint", "relay")} | set(BROUGHT_ALONG)
    assert not _imported() - known


def test_every_import_of_a_test_is_a_dependency() -> None:
    ours = {path.stem for folder in ("tools", "tests") for path in (ROOT / folder).iterdir()}
    stock = {
        name for name in _imported("tests") if name.startswith("globus_compute")
    }  # in an environment of its own
    known = {MODULES.get(d, d) for d in _listed("endpoint", "relay", "dev")} | set(BROUGHT_ALONG)
    assert not _imported("tests") - known - ours - stock - {"_pytest"}


def test_the_sdk_needs_only_the_core_dependencies() -> None:
    rooms = {"base", "broker", "sdk", "serialize", "wire"}
    names = {
        name.split(".")[0]
        for module in modules("src")
        if module.room in rooms and module.name != "src/mep/wire/signing.py"  # the relay's and the daemon's
        for name, _ in imports(module)
    }
    third = names - set(sys.stdlib_module_names) - {"mep", "None"}
    assert not third - {MODULES.get(d, d) for d in _listed()}
