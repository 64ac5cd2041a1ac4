from __future__ import annotations

import pytest

from mep.relay.errors import HttpError
from mep.relay.ratelimit import RateLimit


class Now:
    s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_burst_is_allowed_then_the_average_holds() -> None:
    now = Now()
    limit = RateLimit(10, burst_s=2, now=now)
    for _ in range(20):
        limit.check("alice")
    with pytest.raises(HttpError) as refused:
        limit.check("alice")
    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "1"
    limit.check("bob")
    now.s += 0.5
    for _ in range(5):
        limit.check("alice")
    with pytest.raises(HttpError):
        limit.check("alice")


def test_zero_means_no_limit() -> None:
    limit = RateLimit(0)
    for _ in range(10_000):
        limit.check("alice")
