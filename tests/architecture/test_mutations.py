"""The list of what can be taken away from the product fits the product: its entries do not rot."""

from __future__ import annotations

import re

import mutationlist
from support.source import ROOT

#: Tests of defences that no entry of the list takes away: why none could, or need.
WITHOUT = {
    "test_a_folder_that_root_starts_the_endpoint_in_brings_no_code": "Python itself keeps it out",
    "test_bytes_that_are_no_http_end_one_connection_only": "the HTTP library reads them, before any line of ours",
    "test_no_text_in_any_parameter_or_form_field_breaks_a_route": "each route judges its own",
    "test_nothing_costs_more_than_it_weighs": "the caps of each decoder, and each has tests of its own",
    "test_a_fork_bomb_ends_at_the_limit_and_others_are_served": "unlimited, it takes the machine",
}


def test_every_mutation_fits_the_tree() -> None:
    entries = mutationlist.read(ROOT)
    assert entries
    assert mutationlist.faults(ROOT, entries) == []


def test_each_defence_has_been_taken_away() -> None:
    """The tests that the page on security names were all seen red, but for a few that say why not."""
    page = (ROOT / "docs/admin/security.md").read_text()
    defended = page.partition("## What is defended")[2].partition("## What is not defended")[0]
    named = set(re.findall(r"`(test_\w+)`", defended))
    tests = (test for entry in mutationlist.read(ROOT) for test in entry.tests)
    noticed = {test.partition("[")[0].rpartition("::")[2] for test in tests}
    assert len(named) > 100
    assert named - noticed == WITHOUT.keys(), (
        "an entry is missing in tests/mutations, or in WITHOUT is one too many"
    )
