"""What decoders raise for bytes that are no message."""

from __future__ import annotations

from typing import Final

import msgspec

#: Caught together, always: text that is no UTF-8 and nesting without end are not DecodeErrors.
INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
