"""Fakes shipped for users' own tests."""
