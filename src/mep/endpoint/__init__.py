"""The user endpoint process, from after the drop to its end."""
