"""Every decoder of what comes from somewhere else: whatever it is given, a value or the promised refusal."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.fuzz import TARGETS, Target, mutated

#: `./dev fuzz` asks for more, and for others each time.
EXAMPLES = int(os.environ.get("MEP_FUZZ_EXAMPLES", "0"))
QUICK = settings(
    max_examples=EXAMPLES * 20 or 60,
    derandomize=not EXAMPLES,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
EACH = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@EACH
def test_what_is_valid_is_taken(target: Target) -> None:
    for seed in target.seeds:
        assert target.feed(seed) or not target.takes_seeds


@EACH
@QUICK
@given(noise=st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(target: Target, noise: bytes) -> None:
    taken = target.feed(noise)
    assert not (taken and target.must_refuse_noise)


@EACH
@pytest.mark.timeout(3600 if EXAMPLES else 60)
def test_whatever_becomes_of_a_valid_message_is_taken_or_refused(target: Target) -> None:
    rng = random.Random(None if EXAMPLES else target.name)
    for _ in range(EXAMPLES * 100 or 300):
        for seed in target.seeds:
            data = mutated(seed, rng)
            try:
                target.feed(data)
            except BaseException:
                print(f"target {target.name!r}, input {data[:2000]!r}")  # pytest shows it with the failure
                raise
