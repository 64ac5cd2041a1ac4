"""Fakes for the tests of people who use mep: `from mep.testing import FakeExecutor`."""

from mep.testing.executor import FakeExecutor, Submitted

__all__ = ["FakeExecutor", "Submitted"]
