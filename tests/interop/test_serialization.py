"""What one package serializes the other reads; where no pickled code is involved, byte for byte the same."""

from __future__ import annotations

import pytest

from interop.support.corner import Corner
from interop.support.sdk import SdkProcess, start_sdk

DATA = [
    *((sample, "DillDataBase64") for sample in ("nothing", "numbers", "texts", "bytes", "nested", "long", "json")),
    ("json", "JSONData"),
    ("json", "AllDataStrategies"),
]
SOURCES = [("add", "PureSourceTextInspect"), ("add", "PureSourceDill")]
CODE = [*SOURCES, ("add", "DillCode"), ("add", "CombinedCode"), ("add", "AllCodeStrategies")]
CODE += [("add", "DillCodeSource"), ("add", "DillCodeTextInspect")]


@pytest.fixture(scope="module")
def both(corner: Corner) -> dict[str, SdkProcess]:
    """A driver of each package; serialization needs no relay. The corner stops them."""
    return {which: start_sdk(corner, which, {}, name="-serialize") for which in ("stock", "mep")}


@pytest.mark.parametrize(("sample", "strategy"), [*DATA, *SOURCES])
def test_both_packages_make_the_same_bytes(both: dict[str, SdkProcess], sample: str, strategy: str) -> None:
    buffers = {which: sdk.ask("serialize", sample=sample, strategy=strategy) for which, sdk in both.items()}
    assert buffers["mep"] == buffers["stock"]


@pytest.mark.parametrize(("sample", "strategy"), DATA)
def test_each_reads_the_others_data(both: dict[str, SdkProcess], sample: str, strategy: str) -> None:
    for writer, reader in (("stock", "mep"), ("mep", "stock")):
        buffer = both[writer].ask("serialize", sample=sample, strategy=strategy)
        found = [both[side].ask("deserialize", buffer=buffer) for side in (reader, writer)]
        assert found[0] == found[1]


@pytest.mark.parametrize(("sample", "strategy"), CODE)
def test_each_runs_the_others_functions(both: dict[str, SdkProcess], sample: str, strategy: str) -> None:
    for writer, reader in (("stock", "mep"), ("mep", "stock")):
        buffer = both[writer].ask("serialize", sample=sample, strategy=strategy)
        assert both[reader].ask("deserialize", buffer=buffer) == 42
