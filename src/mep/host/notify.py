"""Telling systemd how we are. Without systemd, or without its Python module, nothing happens."""

from __future__ import annotations

from collections.abc import Callable


def _find() -> Callable[[str], object] | None:
    try:
        from systemd.daemon import notify
    except ImportError:
        return None
    return notify  # type: ignore[no-any-return] # no type information published


_notify = _find()


def tell_systemd(**facts: str) -> None:
    """Send the facts of sd_notify(3), as READY="1", STATUS="...": each is one line, whatever it holds.

    Privilege: none.
    """
    if _notify is not None:
        _notify("\n".join(f"{name}={' '.join(value.split())}" for name, value in facts.items()))
