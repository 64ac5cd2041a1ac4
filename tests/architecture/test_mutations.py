"""The list of what can be taken away from the product fits the product: its entries do not rot."""

from __future__ import annotations

import mutationlist
from support.source import ROOT


def test_every_mutation_fits_the_tree() -> None:
    entries = mutationlist.read(ROOT)
    assert entries
    assert mutationlist.faults(ROOT, entries) == []
