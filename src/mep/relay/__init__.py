"""The web service and its broker."""
