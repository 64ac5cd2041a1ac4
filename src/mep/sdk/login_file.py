"""The file that `mep login` writes: which relay, and the token for it. Readable by its owner only."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.secrets import Secret


@dataclass(frozen=True)
class Login:
    """Where and as whom a person is logged in. `username` is for display."""

    relay: str
    token: Secret
    username: str = ""


def login_path() -> Path:
    """Return `credentials.json` in the user's configuration directory of mep."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "mep" / "credentials.json"


def read_login(path: Path | None = None) -> Login | None:
    """Return the stored login, None if there is none; HostError(CONFIG_UNREADABLE) if the file is broken."""
    path = path or login_path()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from None
    try:
        data = json.loads(content)
        return Login(str(data["relay"]), Secret(str(data["token"])), str(data.get("username", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _broken(path, "is not what `mep login` writes") from None


def write_login(login: Login, path: Path | None = None) -> Path:
    """Store the login, replacing the file in one step; mode 0600 from its first moment.

    No lock is needed: nobody changes a part of it, so of several writers one wins, and a reader finds one whole
    login. HostError(HOME_NOT_WRITABLE): the old one is still there.
    """
    path = path or login_path()
    text = json.dumps({"relay": login.relay, "token": login.token.reveal(), "username": login.username}) + "\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # a random name: other hosts on the same home have processes with our id
        fd, new = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(fd)  # a full or remote disk may say so only now
            os.replace(new, path)
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def remove_login(path: Path | None = None) -> bool:
    """Forget the stored login; tell whether there was one."""
    path = path or login_path()
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unwritable(path, error) from None
    return True


def _unwritable(path: Path, error: OSError) -> HostError:
    step = (
        "Free some space, or set XDG_CONFIG_HOME to a folder of yours; MEP_RELAY_URL and MEP_TOKEN need no file."
    )
    return HostError(Code.HOME_NOT_WRITABLE, f"{path} cannot be written ({error.strerror}).", step=step)


def _broken(path: Path, what: str) -> HostError:
    return HostError(Code.CONFIG_UNREADABLE, f"{path} {what}.", step="Run `mep login` again.")
