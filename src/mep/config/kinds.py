"""Value types that several settings share: sizes, ids, addresses, limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from mep.base.ids import is_uuid
from mep.config.parsing import ConfigFault, Settings, setting, shorten

_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_size(value: object) -> object:
    """Return the bytes in 4294967296, "4 GiB", "4G" or "512m"; units are powers of 1024."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigFault(f"found {shorten(value)}, wanted a size such as '4 GiB' or a number of bytes.")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ConfigFault(f"found {shorten(value)}, wanted a size such as '4 GiB' or a number of bytes.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _uuid(value: object) -> object:
    if isinstance(value, str) and is_uuid(value.strip().lower()):
        return value.strip().lower()
    raise ConfigFault(f"found {shorten(value)}, wanted a UUID.")


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigFault(f"found {shorten(value)}, wanted an address such as 'https://relay.site.example:5000'.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigFault(
            "wanted an address without user name, password, '?' or '#'; credentials do not belong here."
        )
    return value.rstrip("/")


def _text_list(value: object) -> object:
    """One name may stand alone."""
    return [value] if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Uuid = Annotated[str, BeforeValidator(_uuid)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_text_list)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Limits(Settings):
    """What one user endpoint and all it starts on this host may use together."""

    memory: Size | None = setting(None, "Memory, for example '4 GiB'. Units are powers of 1024.")
    swap: Size | None = setting(None, "Swap. 0 forbids it.")
    pids: Annotated[int, Field(ge=8)] | None = setting(None, "Processes and threads.")
    cpu: Annotated[float, Field(gt=0)] | None = setting(None, "CPUs' worth of time: 2.5 is two and a half CPUs.")

    def lowered(self, other: Limits | None) -> Limits:
        """Return the lower of each pair: what a template asks for may lower a limit, never raise it."""
        if other is None:
            return self
        pairs: dict[str, tuple[Any, Any]] = {
            n: (getattr(self, n), getattr(other, n)) for n in type(self).model_fields
        }
        return Limits(**{n: min((v for v in pair if v is not None), default=None) for n, pair in pairs.items()})


class Pam(Settings):
    """PAM for user endpoints."""

    enable: bool = setting(
        default=True,
        description="Ask PAM about each account, and hold a session as long as the user endpoint lives.",
    )
    service_name: str = setting(
        "mep", "The file in /etc/pam.d.", min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+$"
    )
