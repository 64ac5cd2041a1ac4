"""Monitor and gate: the processes of an endpoint."""
