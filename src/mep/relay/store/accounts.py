"""Identities, tokens, clients: functions of a connection."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    Connection,
    Row,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from mep.base.ids import new_id
from mep.relay.store.schema import clients, identities, tokens

CLIENT_DOMAIN = "clients.auth.globus.org"  # as in Globus Auth, so that mapping rules carry over


class Identity(Struct, frozen=True, kw_only=True):
    """A person or a program."""

    id: str
    username: str
    name: str = ""
    email: str = ""
    disabled: bool = False
    created: float = 0.0


class Grant(Struct, frozen=True, kw_only=True):
    """What a token gives, and to whom."""

    identity: Identity
    kind: str
    scope: str
    client_id: str
    expires: float
    detail: str = ""


def hash_secret(text: str) -> str:
    """Return what is stored of a token or client secret. They are random and long: a fast hash suffices."""
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(row: Row[Any]) -> Identity:
    return Identity(
        id=row.id,
        username=row.username,
        name=row.name,
        email=row.email,
        disabled=bool(row.disabled),
        created=row.created,
    )


_by_hash = (
    select(tokens, identities)
    .join(identities, identities.c.id == tokens.c.identity_id)
    .where(tokens.c.hash == bindparam("hash"))
    .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
)


def find_grant(connection: Connection, token_hash: str) -> Grant | None:
    """Return what the token with this hash gives, whether or not it is still in force."""
    row = connection.execute(_by_hash, {"hash": token_hash}).first()
    if row is None:
        return None
    m = row._mapping
    return Grant(
        identity=Identity(
            id=m["identities_id"],
            username=m["identities_username"],
            name=m["identities_name"],
            email=m["identities_email"],
            disabled=bool(m["identities_disabled"]),
            created=m["identities_created"],
        ),
        kind=m["tokens_kind"],
        scope=m["tokens_scope"],
        client_id=m["tokens_client_id"],
        expires=m["tokens_expires"],
        detail=m["tokens_detail"],
    )


def find_identity(connection: Connection, identity_id: str) -> Identity | None:
    row = connection.execute(select(identities).where(identities.c.id == identity_id)).first()
    return _identity(row) if row is not None else None


def find_identities(
    connection: Connection, *, ids: Iterable[str] = (), usernames: Iterable[str] = ()
) -> list[Identity]:
    rows = connection.execute(
        select(identities).where(identities.c.id.in_(list(ids)) | identities.c.username.in_(list(usernames)))
    )
    return [_identity(row) for row in rows]


def list_identities(connection: Connection) -> list[Identity]:
    return [_identity(row) for row in connection.execute(select(identities).order_by(identities.c.username))]


def ensure_identity(connection: Connection, username: str, *, identity_id: str = "", name: str = "") -> Identity:
    """Return the identity of that username, made if need be."""
    row = connection.execute(select(identities).where(identities.c.username == username)).first()
    if row is not None:
        return _identity(row)
    made = Identity(
        id=identity_id or new_id(),
        username=username,
        name=name or username.partition("@")[0],
        email=username if "@" in username and not username.endswith(f"@{CLIENT_DOMAIN}") else "",
        created=time.time(),
    )
    connection.execute(
        insert(identities),
        {
            "id": made.id,
            "username": made.username,
            "name": made.name,
            "email": made.email,
            "created": made.created,
            "disabled": 0,
        },
    )
    return made


def set_disabled(connection: Connection, identity_id: str, *, disabled: bool) -> None:
    connection.execute(
        update(identities).where(identities.c.id == identity_id).values(disabled=1 if disabled else 0)
    )


def add_token(
    connection: Connection,
    token: str,
    *,
    identity_id: str,
    kind: str,
    scope: str,
    lifetime_s: float,
    client_id: str = "",
    detail: str = "",
) -> None:
    """Remember a token by its hash."""
    now = time.time()
    connection.execute(
        insert(tokens),
        {
            "hash": hash_secret(token),
            "identity_id": identity_id,
            "kind": kind,
            "scope": scope,
            "client_id": client_id,
            "created": now,
            "expires": now + lifetime_s,
            "detail": detail,
        },
    )


def drop_token(connection: Connection, token_hash: str) -> bool:
    """Forget one token; True if it was known."""
    return connection.execute(delete(tokens).where(tokens.c.hash == token_hash)).rowcount > 0


def drop_tokens(connection: Connection, identity_id: str) -> int:
    """Forget all tokens of an identity; return how many."""
    return connection.execute(delete(tokens).where(tokens.c.identity_id == identity_id)).rowcount


def drop_expired_tokens(connection: Connection, before: float) -> int:
    return connection.execute(delete(tokens).where(tokens.c.expires < before)).rowcount


def add_client(connection: Connection, name: str, secret: str) -> str:
    """Make a client and its identity; return its id."""
    client_id = new_id()
    connection.execute(
        insert(clients),
        {"id": client_id, "name": name, "secret_hash": hash_secret(secret), "created": time.time()},
    )
    ensure_identity(connection, f"{client_id}@{CLIENT_DOMAIN}", identity_id=client_id, name=name)
    return client_id


def client_secret_hash(connection: Connection, client_id: str) -> str | None:
    """Return the hash that the client's secret must have, or None for an unknown client."""
    found: str | None = connection.execute(
        select(clients.c.secret_hash).where(clients.c.id == client_id)
    ).scalar_one_or_none()
    return found
