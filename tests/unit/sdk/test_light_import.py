"""`import mep` is cheap: the client's own libraries load when they are used, the server's never."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mep

HEAVY = ("pika", "jinja2", "fastapi", "pydantic", "cryptography", "globus_sdk", "sqlalchemy", "yaml", "parsl")


def _loaded_by(code: str) -> set[str]:
    program = (
        f"import sys\n{code}\nprint(*(m for m in {HEAVY!r} + ('dill', 'urllib3', 'msgspec') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_mep_loads_nothing_else() -> None:
    assert _loaded_by("import mep; dir(mep)") == set()


def test_a_client_loads_nothing_of_the_server_nor_of_the_broker() -> None:
    made = "from mep import *; Client(relay_url='http://localhost:1', token='t', do_version_check=False)"
    assert _loaded_by(made) & set(HEAVY) == set()


@pytest.mark.parametrize("name", mep.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(mep, name) is not None


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = mep.Nonsense
