"""Sizes in the words that administrators write."""

from __future__ import annotations

import pytest

from mep.base.sizes import killed_by_memory, size_text
from mep.config.kinds import parse_size


@pytest.mark.parametrize(
    ("size", "text"),
    [(2 << 30, "2 GiB"), (300 << 20, "300 MiB"), (1536 << 20, "1.5 GiB"), (4096, "4 KiB"), (10, "10 bytes")],
)
def test_a_size_reads_as_it_was_written(size: int, text: str) -> None:
    assert size_text(size) == text
    assert text.endswith("bytes") or parse_size(text) == size


def test_the_limit_is_named_where_it_was_the_limit() -> None:
    assert killed_by_memory(2 << 30) == "killed: memory limit 2 GiB"
    assert "limit" not in killed_by_memory(None)
