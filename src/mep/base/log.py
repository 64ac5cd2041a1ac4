"""Where log lines go: the journal under systemd, stderr otherwise. One line per event, lazy arguments."""

from __future__ import annotations

import logging
import os
import sys

#: Other people's loggers, which tell us less than we tell ourselves.
NOISY = ("pika", "urllib3", "asyncio", "parsl")

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode()


class LineFormatter(logging.Formatter):
    """One event, one line: line breaks inside a message are made visible, never a new (forged) line.

    So is whatever else is not printable: somebody reads this in a terminal, which would obey it.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if text.isprintable() else "".join(c if c.isprintable() else _visible(c) for c in text)


class _JournalFormatter(LineFormatter):
    """Prefixes the syslog priority, which systemd reads from a service's stderr (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


class _PipeHandler(logging.Handler):
    """Writes each line at once and as a whole to stderr, a pipe to another process, or not at all."""

    _MOST_BYTES = 4000  # what is written at once to a pipe: less than PIPE_BUF

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace")
            os.write(2, line[: self._MOST_BYTES] + b"\n")
        except OSError:
            pass  # it is full, or nobody reads: a log line is nothing to wait for
        except Exception:  # noqa: BLE001 - as every handler
            self.handleError(record)


def stderr_is_journal() -> bool:
    """Tell whether stderr is the journal's socket (systemd sets JOURNAL_STREAM to its device and inode)."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def log_only_to(handler: logging.Handler, level: int) -> None:
    """Make `handler` the only one, in a forked process: those it inherited are the other process's to close."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(root, level)


def set_level(logger: logging.Logger, level: int) -> None:
    """Set a level if it is another one: setting one makes every logger of the process forget what it knows."""
    if logger.level != level:
        logger.setLevel(level)


def setup_logging(*, role: str, level: int = logging.INFO) -> None:
    """Send the log of this process to stderr, marked with `role` (monitor, relay, ...), or a record's own."""
    handler = logging.StreamHandler()
    if stderr_is_journal():
        handler.setFormatter(_JournalFormatter("%(role)s: %(message)s", defaults={"role": role}))
    else:
        format_ = "%(asctime)s %(levelname)s %(role)s: %(message)s"
        handler.setFormatter(LineFormatter(format_, defaults={"role": role}))
    _only(handler, level)


def setup_logging_to_pipe(*, level: int) -> None:
    """Send the log of this process to stderr, which another process reads and marks; it never waits for that."""
    handler = _PipeHandler()
    handler.setFormatter(_JournalFormatter("%(message)s"))
    _only(handler, level)


def _only(handler: logging.Handler, level: int) -> None:
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for noisy in NOISY:
        set_level(logging.getLogger(noisy), logging.WARNING)
