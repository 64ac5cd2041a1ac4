"""The file that `mep login` writes: which relay, and the token for it. Readable by its owner only."""

from __future__ import annotations

import json
import os
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
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _broken(path, "is not what `mep login` writes") from None


def write_login(login: Login, path: Path | None = None) -> Path:
    """Store the login, replacing the file in one step; mode 0600 from its first moment."""
    path = path or login_path()
    new = path.with_name(f"{path.name}.{os.getpid()}")
    text = json.dumps({"relay": login.relay, "token": login.token.reveal(), "username": login.username}) + "\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise HostError(Code.HOME_NOT_WRITABLE, f"{path} cannot be written ({error.strerror}).") from None
    return path


def remove_login(path: Path | None = None) -> bool:
    """Forget the stored login; tell whether there was one."""
    try:
        (path or login_path()).unlink()
    except FileNotFoundError:
        return False
    return True


def _broken(path: Path, what: str) -> HostError:
    return HostError(Code.CONFIG_UNREADABLE, f"{path} {what}.", step="Run `mep login` again.")
