"""Fixtures of this tier's own."""

from __future__ import annotations

from support.sdkrig import executor, small, small_client

__all__ = ["executor", "small", "small_client"]
