"""Start, already running, or refuse(code): pure decisions."""
