"""The user endpoint process, from after the drop to its end; runs programs (the template's set-up commands)."""
