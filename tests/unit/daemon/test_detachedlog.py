"""The log of a detached daemon is bounded, and its newest lines are in the file of the plain name."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from mep.base.log import setup_logging
from mep.daemon.detachedlog import DetachedLog
from mep.priv import clone


def test_the_log_of_a_detached_daemon_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.log"

    def be_detached() -> int:
        log_file = DetachedLog(path, max_bytes=10_000, keep=2)
        fd = log_file.open()
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)  # not the test runner's
        setup_logging(role="monitor")
        log_file.attach()
        for number in range(1000):
            logging.warning("line %d of a flood", number)
        return 0

    child = clone.spawn(be_detached)
    ended = clone.reap(child.pidfd, block=True)
    os.close(child.pidfd)
    assert ended is not None
    assert ended.clean
    found = {each.name: each for each in tmp_path.iterdir()}
    assert set(found) == {"endpoint.log", "endpoint.log.1", "endpoint.log.2"}
    assert all(each.stat().st_size < 10_200 for each in found.values())
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in found.values())
    kept = "".join(found[name].read_text() for name in ("endpoint.log.2", "endpoint.log.1", "endpoint.log"))
    assert "line 999 of a flood" in kept
    numbers = [int(line.split("line ")[1].split()[0]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 1000))
