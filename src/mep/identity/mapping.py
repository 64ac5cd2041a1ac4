"""Identity set -> local account name, with the rule that said so. First match wins.

The file is that of Globus Connect Server and the stock endpoint: a list of mapping documents, JSON. The order is:
document, rule in it, identity in the set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mep.base.codes import Code
from mep.base.errors import InputError, RefusedError
from mep.identity.documents import (
    EXPRESSION,
    EXTERNAL,
    Document,
    ExpressionDocument,
    ExternalDocument,
    Identity,
    Match,
    ProgramRunner,
)

__all__ = ["Mapping", "Match", "ProgramRunner", "not_mapped", "usable"]

_USABLE_STATUS = ("used", "private")


class Mapping:
    """A parsed mapping file. `commands`: the external programs it may run; `warnings`: what looks unintended."""

    def __init__(
        self, documents: Sequence[Document], *, commands: Sequence[tuple[str, ...]], warnings: Sequence[str]
    ) -> None:
        self._documents = tuple(documents)
        self.commands = tuple(commands)
        self.warnings = tuple(warnings)

    @classmethod
    def parse(cls, text: str, *, source: str, endpoint_id: str, run: ProgramRunner) -> Mapping:
        """Return the mapping in `text`; `source` names the file in messages, `run` runs external programs.

        InputError(CONFIG_INVALID) names file, place, what was found and what was wanted.
        """
        try:
            listed = json.loads(text, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise InputError(Code.CONFIG_INVALID, f"{source} is not valid JSON: {error}.") from None
        if isinstance(listed, dict):
            listed = [listed]
        if not isinstance(listed, list):
            raise InputError(Code.CONFIG_INVALID, f"{source}: wanted a list of mapping documents.")
        documents: list[ExpressionDocument | ExternalDocument] = []
        for index, document in enumerate(listed):
            place = f"[{index}]"
            kind = document.get("DATA_TYPE") if isinstance(document, dict) else None
            if kind == EXPRESSION:
                documents.append(ExpressionDocument(document, place=place, source=source))
            elif kind == EXTERNAL:
                documents.append(
                    ExternalDocument(document, place=place, source=source, endpoint_id=endpoint_id, run=run)
                )
            else:
                raise InputError(
                    Code.CONFIG_INVALID,
                    f"{source}: {place}.DATA_TYPE: wanted {EXPRESSION!r} or {EXTERNAL!r}, "
                    f"found {str(kind)[:80]!r}.",
                )
        return cls(
            documents,
            commands=[d.command for d in documents if isinstance(d, ExternalDocument)],
            warnings=[f"{source}: {w}" for d in documents for w in d.warnings]
            + ([] if documents else [f"{source}: holds no mapping document; nobody can use this endpoint."]),
        )

    def lookup(self, identity_set: Sequence[Identity]) -> Match | None:
        """Return the first match, or None. Identities that are not in use (see `usable`) are passed over.

        RefusedError(MAPPING_TIMEOUT | MAPPING_FAILED) from an external program ends the search: what a broken
        program would have said is not known, so no later document may decide instead.
        """
        identities = usable(identity_set)
        if not identities:
            return None
        for document in self._documents:
            if match := document.lookup(identities):
                return match
        return None


def usable(identity_set: Sequence[Identity]) -> list[Identity]:
    """Return the identities that may be mapped: those with an id and the status `used` or `private`."""
    return [i for i in identity_set if isinstance(i.get("id"), str) and i.get("status") in _USABLE_STATUS]


def not_mapped(identity_set: Sequence[Identity]) -> RefusedError:
    """Return the refusal for a set that matched nothing, with what was looked at in the administrator's text."""
    looked_at = "; ".join(_describe(i) for i in identity_set[:10]) or "an empty identity set"
    return RefusedError(
        Code.IDENTITY_NOT_MAPPED,
        "Your identity is not mapped to an account on this endpoint.",
        admin_text=f"No rule matches {looked_at}.",
    )


def _describe(identity: Identity) -> str:
    name = str(identity.get("username") or identity.get("id") or "an identity without a name")[:200]
    status = identity.get("status")
    if not isinstance(identity.get("id"), str):
        return f"{name!r} (passed over: it has no id)"
    if status not in _USABLE_STATUS:
        return f"{name!r} (passed over: its status is {status!r}, and only 'used' and 'private' are mapped)"
    return repr(name)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice in one object")
        found[key] = value
    return found
