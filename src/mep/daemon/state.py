"""What a daemon remembers over its restarts: its id, the relay's pinned keys, replays, where its cgroups were."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mep.admit.replay import ReplayCache, Span
from mep.base.codes import Code
from mep.base.errors import HostError, RefusedError
from mep.base.ids import is_uuid
from mep.config.paths import EndpointPaths
from mep.host.trusted import check_directory, read_own, read_trusted
from mep.wire import signing
from mep.wire.decoding import INVALID
from mep.wire.keys import PublicKey

log = logging.getLogger(__name__)

_REPLAYS = "replays"
_MOST_LINES = 10_000  # of commands that were obeyed, until those are left out that are too old by now
_MAX_BYTES = 1024 * 1024 * 1024  # a line for each start since the daemon began


class State:
    """The files of the state directory, which belongs to the daemon's user and is closed to all others (0700)."""

    def __init__(self, paths: EndpointPaths, *, privileged: bool = False) -> None:
        """Make the directory, read what is there. HostError(CONFIG_UNTRUSTED | CONFIG_UNREADABLE).

        `privileged`: what it remembers steers root, so nobody else may have written it. Privilege: the owner of
        the directory.
        """
        self._directory = paths.state_dir
        self._privileged = privileged
        make_private_directory(self._directory, privileged=privileged)
        own = self._directory / "endpoint.json"
        self.endpoint_id = self._read_id(own) or self._read_id(paths.endpoint_json)
        self.keys: dict[str, PublicKey] = self._read_keys()
        self._lines_since = 0  # the file was written anew
        self.replays = self._read_replays()

    # ---- the endpoint's id ----

    def accept_id(self, endpoint_id: str) -> None:
        """Remember the id the relay gave; RefusedError(RELAY_REFUSED) if it is another than before."""
        if not is_uuid(endpoint_id):
            raise RefusedError(
                Code.RELAY_REFUSED, f"The relay answered with the id {endpoint_id[:60]!r}: no UUID."
            )
        if self.endpoint_id and endpoint_id != self.endpoint_id:
            raise RefusedError(
                Code.RELAY_REFUSED,
                f"The relay answered with another endpoint's id: {endpoint_id}; this endpoint is "
                f"{self.endpoint_id}.",
            )
        if not self.endpoint_id:
            self.endpoint_id = endpoint_id
            self._write("endpoint.json", json.dumps({"endpoint_id": endpoint_id}))

    def _read_id(self, path: Path) -> str:
        """Return the id in our file or a stock folder's, or ""."""
        try:
            document = json.loads(self._read(path))
        except (ValueError, RecursionError):
            return ""
        found = document.get("endpoint_id") if isinstance(document, dict) else None
        return found if isinstance(found, str) and is_uuid(found) else ""

    # ---- the relay's keys: trust on first use ----

    def accept_keys(self, announced: Sequence[PublicKey]) -> None:
        """Pin the relay's keys: all at first, later such as a pinned one vouches for.

        RefusedError(RELAY_REFUSED) for others, and where no pinned key is among them: who brings the announcement
        is not believed.
        """
        wanted = {key.kid: key for key in announced}
        if wanted == self.keys:
            return
        known = {kid for kid, key in wanted.items() if kid in self.keys and self.keys[kid].x == key.x}
        if self.keys and not known:
            raise self._refused_keys("none of the signing keys that this endpoint knows", wanted)
        for kid in wanted.keys() - known if self.keys else ():
            if not any(signing.is_vouched_for(wanted[kid], by=pinned) for pinned in self.keys.values()):
                raise self._refused_keys(
                    f"the signing key {kid[:40]}, for which none that is known vouches", wanted
                )
        for kid in wanted.keys() - self.keys.keys():
            log.warning("the relay's signing key %s is trusted from now on", kid)
        for kid in self.keys.keys() - wanted.keys():
            log.warning("the relay's signing key %s is no longer trusted: the relay has retired it", kid)
        self.keys = wanted
        self._write("relay_keys.json", msgspec.json.encode(list(wanted.values())).decode())

    def _refused_keys(self, what: str, wanted: Mapping[str, PublicKey]) -> RefusedError:
        announced = ", ".join(wanted) or "none"
        return RefusedError(
            Code.RELAY_REFUSED,
            f"The relay announced {what} (pinned: {', '.join(self.keys)}; announced: {announced}). "
            f"If its keys were replaced on purpose, remove {self._directory / 'relay_keys.json'} and start again.",
        )

    def _read_keys(self) -> dict[str, PublicKey]:
        text = self._read(self._directory / "relay_keys.json")
        if not text:
            return {}
        try:
            return {key.kid: key for key in msgspec.json.decode(text.encode(), type=list[PublicKey])}
        except INVALID as error:
            # Forgetting the pins would be trusting whoever comes next.
            raise HostError(
                Code.CONFIG_INVALID, f"{self._directory / 'relay_keys.json'} is damaged: {error}.", step=""
            ) from None

    # ---- replays ----

    def remember_command(self, token_id: str, issued: float) -> None:
        """Write down a command that was obeyed, so that a restarted daemon does not obey it again.

        Not synced to the disk: it outlives any process, and after a power cut the commands are too old anyway.
        HostError(SPAWN_FAILED) if it cannot be written.
        """
        path = self._directory / _REPLAYS
        try:
            with open(path, "a") as file:
                file.write(f"\n{json.dumps([issued, token_id])}\n")  # its own line, whatever a full disk left
        except OSError as error:
            raise HostError(
                Code.SPAWN_FAILED,
                "The endpoint could not start your process.",
                admin_text=f"Cannot write {path}: {error.strerror}; what cannot be remembered is not obeyed.",
            ) from None
        self._lines_since += 1
        if self._lines_since >= _MOST_LINES:
            self._lines_since = 0
            try:
                self._read_replays()
            except (OSError, HostError) as error:  # it is longer than it need be, and complete
                log.error("%s cannot be made shorter: %s", path, error)

    def _read_replays(self) -> ReplayCache:
        """Read the file, and write it anew without what is old: a line each, [issued, number] or a span."""
        remembered: dict[str, float] = {}
        spans: list[Span] = []
        for line in filter(None, self._read(self._directory / _REPLAYS).splitlines()):
            try:
                at, what = msgspec.json.decode(line, type=tuple[float, str | float])
            except INVALID:
                log.error("%s holds a damaged line, which is skipped", self._directory / _REPLAYS)
                continue
            if isinstance(what, str):
                remembered[what] = max(at, remembered.get(what, at))
            else:
                spans.append((at, what))
        cache = ReplayCache(remembered, spans)
        cache.forget(time.time())
        lines = [*cache.spans, *((at, token_id) for token_id, at in cache.issued.items())]
        self._write(_REPLAYS, "".join(f"{json.dumps(line)}\n" for line in lines))
        return cache

    # ---- cgroups of a predecessor ----

    def previous_cgroup(self) -> Path | None:
        """Return where the last daemon kept its user endpoints."""
        text = self._read(self._directory / "cgroup").strip()
        path = Path(text)
        return path if text and path.is_absolute() and path.name.startswith("mep-") else None

    def remember_cgroup(self, path: Path | None) -> None:
        """Write it down before the first user endpoint is in it."""
        self._write("cgroup", str(path) if path else "")

    # ---- files ----

    def _read(self, path: Path) -> str:
        """Return the text of `path`, or "" if there is no such file."""
        if not os.path.lexists(path):
            return ""
        if self._privileged:
            return read_trusted(path, max_bytes=_MAX_BYTES)
        return read_own(path, max_bytes=_MAX_BYTES)

    def _write(self, name: str, text: str) -> None:
        write_private(self._directory / name, text)


def make_private_directory(path: Path, *, privileged: bool = False) -> None:
    """Make `path`, closed to others; HostError(CONFIG_UNTRUSTED) if it is somebody else's.

    `privileged`: also if others could change it until now, or can change a folder above it. Privilege: write
    access to its parent.
    """
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(mode=0o755)  # whatever the umask lets others do
        path.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            Code.CONFIG_UNREADABLE, f"Cannot make or open {path}: {error.strerror}.", step=""
        ) from None
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise HostError(
                Code.CONFIG_UNTRUSTED, f"{path} belongs to uid {found.st_uid}; wanted {os.geteuid()}.", step=""
            )
        if privileged:
            check_directory(path, shared=False)
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def write_private(path: Path, text: str) -> None:
    """Replace the file at once (0600): after a power cut the old or the new one is there. Privilege: write."""
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return it without what is the endpoint's own: its credentials and its settings."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(
            ("MEP_", "GLOBUS_COMPUTE_CLIENT", "FUNCX_SDK_CLIENT", "NOTIFY_SOCKET", "JOURNAL_STREAM")
        )
    }
