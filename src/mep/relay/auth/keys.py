"""The relay's own keys, in files only it can read: Ed25519 for start commands, RSA for `id_token`s, one secret.

`DIR/keys/start-N.pem`: each vouches for the next. An endpoint is told two of them when it registers, and its start
commands are signed by the newer of these until it registers again, however often the key was rotated meanwhile.
"""

from __future__ import annotations

import os
import secrets
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.secrets import Secret
from mep.wire.keys import PublicKey
from mep.wire.signing import StartClaims, public_key, sign, vouch_for


class Keys:
    """Reads the keys, making those that are missing."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir / "keys"
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._start = [_load_ed25519(path) for path in _start_files(self._dir)]
        if not self._start:
            self._start = [_load_ed25519(add_start_key(data_dir))]
        self._kids = [public_key(key).kid for key in self._start]

    def announced(self, kid: str = "") -> list[PublicKey]:
        """Return the keys an endpoint is to pin, the newest first, vouched for by the one before it.

        `kid`: the newest that it was told before. It believes only the one after that, so one that missed
        rotations catches up by one key each time it registers.
        """
        newest = min(self._kids.index(kid) + 1 if kid in self._kids else len(self._kids), len(self._kids) - 1)
        key = public_key(self._start[newest])
        if newest == 0:
            return [key]
        older = self._start[newest - 1]
        return [vouch_for(key, by=older), public_key(older)]

    def before(self, kid: str, steps: int) -> str | None:
        """Return the key that many rotations before `kid` (where that is unknown, before the newest), if any."""
        at = (self._kids.index(kid) if kid in self._kids else len(self._kids) - 1) - steps
        return self._kids[at] if at >= 0 else None

    def sign(self, claims: StartClaims, kid: str = "") -> str:
        """Return the JWT of `claims`, signed by that key; by the newest where there is none of that name."""
        return sign(claims, self._start[self._kids.index(kid) if kid in self._kids else -1])

    @cached_property
    def rsa(self) -> rsa.RSAPrivateKey:
        """Signs `id_token`s; stock clients know no other family. Made at the first login (0.1 s)."""
        path = self._dir / "id-token.pem"
        if not path.exists():
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            _write_once(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise HostError(Code.CONFIG_INVALID, f"{path} holds no RSA key.")
        return key

    @cached_property
    def broker_secret(self) -> Secret:
        """What the broker passwords of clients are derived from."""
        path = self._dir / "broker-secret"
        if not path.exists():
            _write_once(path, secrets.token_hex(32).encode())
        return Secret(path.read_text().strip())


def add_start_key(data_dir: Path) -> Path:
    """Make the next key for start commands; a relay that runs uses it after its next start."""
    directory = data_dir / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _start_files(directory)
    number = int(known[-1].stem.partition("-")[2]) + 1 if known else 1
    path = directory / f"start-{number}.pem"
    made = Ed25519PrivateKey.generate()
    _write_once(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def _start_files(directory: Path) -> list[Path]:
    found = [p for p in directory.glob("start-*.pem") if p.stem.partition("-")[2].isdigit()]
    return sorted(found, key=lambda p: int(p.stem.partition("-")[2]))


def _load_ed25519(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise HostError(Code.CONFIG_INVALID, f"The relay's key {path} cannot be read: {error}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise HostError(Code.CONFIG_INVALID, f"{path} holds no Ed25519 key.")
    return key


def _write_once(path: Path, content: bytes) -> None:
    """Write a new private file, whole or not at all; if another process was first, its file stands."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
    finally:
        temporary.unlink(missing_ok=True)
