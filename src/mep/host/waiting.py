"""What a process waits for, as the kernel tells without asking the process or touching its files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_UNINTERRUPTIBLE: Final = "D"
_FOR_FUSE: Final = "request_wait_answer"  # interruptible at first, so its state does not tell


def waits_for_files(pid: int) -> bool:
    """Tell whether `pid` (its first thread) waits for a disk or a file system's server at this moment."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return state == _UNINTERRUPTIBLE or Path(f"/proc/{pid}/wchan").read_text() == _FOR_FUSE
    except (OSError, IndexError):
        return False
