"""Endpoint and user-endpoint settings, read from text into frozen types; no side effects."""
