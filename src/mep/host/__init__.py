"""Accounts, trusted files, readiness: what this machine says."""
