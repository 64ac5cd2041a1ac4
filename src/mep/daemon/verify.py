"""From the gate's `Start` to claims that root may act on: signature, audience, age, replay, in this order."""

from __future__ import annotations

import time
from typing import Final

import msgspec
from msgspec import structs

from mep.base.codes import Code
from mep.base.errors import InputError, RefusedError
from mep.base.ids import is_uuid
from mep.daemon.state import State
from mep.wire import signing
from mep.wire.privsep import Start, cap_text
from mep.wire.signing import StartClaims

_MOST_ID_CHARS: Final = 200  # each is remembered
_MOST_NAME_CHARS: Final = 320  # an address

_decode = msgspec.json.Decoder(StartClaims).decode


class Verifier:
    """Decides whether a start command comes from the relay. `required`: the setting; None = if there are keys."""

    def __init__(self, state: State, *, required: bool | None) -> None:
        self._state = state
        self._required = required

    def claims_of(self, start: Start) -> StartClaims:
        """Return what the relay states; MepError: COMMAND_UNSIGNED, _BAD_SIGNATURE, _STALE, _MALFORMED.

        A command that was seen before is the caller's to judge, by `seen_before`. Privilege: none.
        """
        state = self._state
        if not state.endpoint_id:
            raise RefusedError(Code.COMMAND_MALFORMED, "The endpoint is not registered yet.")
        if self._wants_signature():
            if not start.token:
                raise RefusedError(
                    Code.COMMAND_UNSIGNED,
                    "The endpoint obeys only signed start commands, and this one is not signed.",
                )
            claims = signing.verify(start.token, state.keys, audience=state.endpoint_id, now=time.time())
        else:
            claims = self._unsigned(start.claims)
        if not is_uuid(claims.uep):
            raise InputError(Code.COMMAND_MALFORMED, f"The user endpoint's id {claims.uep[:60]!r} is no UUID.")
        if max(len(claims.jti), len(claims.sub)) > _MOST_ID_CHARS or not claims.sub.isprintable():
            raise InputError(Code.COMMAND_MALFORMED, "The command's number or its identity is no id.")
        # Only shown from here on, in logs and in `mep status`: the mapping looks at `ids`.
        return structs.replace(claims, username=cap_text(claims.username).replace("\n", " ")[:_MOST_NAME_CHARS])

    def _wants_signature(self) -> bool:
        return bool(self._state.keys) if self._required is None else self._required

    def _unsigned(self, claims: bytes) -> StartClaims:
        """The gate has read the command; it is not believed more than the broker is."""
        try:
            found = _decode(claims)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(Code.COMMAND_MALFORMED, f"Not a valid start request: {error}.") from None
        if found.aud != self._state.endpoint_id:
            raise RefusedError(Code.COMMAND_MALFORMED, "The start command is for another endpoint.")
        signing.check_times(found.iat, found.exp, now=time.time())
        return found

    def seen_before(self, claims: StartClaims) -> bool:
        """Tell whether this very command was here before, and remember it from now on.

        RefusedError if that cannot be known, or not be remembered.
        """
        return self._state.replays.seen(claims.jti, claims.iat, time.time())
