"""Endpoints that come, change and go."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

import mep
from mep.base.errors import InputError
from mep.base.ids import new_id
from mep.relay.auth.keys import Keys
from mep.relay.clocks import iso
from mep.relay.credentials import Credentials
from mep.relay.directory import Directory, checked_id
from mep.relay.errors import HttpError, endpoint_forbidden, malformed
from mep.relay.fleet import Fleet
from mep.relay.liveness import Liveness
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.store import Store, accounts, endpoints
from mep.relay.store.accounts import Identity
from mep.relay.store.endpoints import Endpoint
from mep.template.options import check_schema
from mep.wire.command import encode_secret
from mep.wire.rest import RelayAnnouncement

log = logging.getLogger(__name__)

_UUID = Meta(extra_json_schema={"format": "uuid"})  # for the document; `checked_id` is who checks


class RegistrationBody(Struct):
    """What endpoints of all releases send (protocol: registration body, version range)."""

    endpoint_name: Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": 128})]
    metadata: dict[str, Any] = field(default_factory=dict)
    endpoint_uuid: Annotated[str, _UUID] | None = None  # before 3: made by the client
    multi_user: bool | None = None
    public: bool | None = None
    high_assurance: bool | None = None
    display_name: str | None = None
    allowed_functions: list[Annotated[str, _UUID]] | None = None
    authentication_policy: str | None = None
    subscription_uuid: str | None = None
    admins: list[str] | None = None


_decoder = msgspec.json.Decoder(RegistrationBody)
_encoder = msgspec.json.Encoder(enc_hook=encode_secret)


def decode(body: bytes) -> RegistrationBody:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise HttpError(422, "SEMANTICALLY_INVALID", f"The registration is not valid: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"The registration is not JSON: {error}.") from None


class Registration:
    """POST and PUT of endpoints, lock and delete."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        credentials: Credentials,
        fleet: Fleet,
        liveness: Liveness,
        keys: Keys,
        seals: Seals,
        settings: Settings,
    ) -> None:
        self._store, self._directory, self._credentials = store, directory, credentials
        self._fleet, self._liveness, self._keys = fleet, liveness, keys
        self._seals, self._settings = seals, settings

    async def register(
        self, identity: Identity, body: RegistrationBody, endpoint_id: str | None, *, can_seal: bool = False
    ) -> bytes:
        """Make or change an endpoint; return the answer's JSON, with all four kinds of queue."""
        wanted_id = checked_id(endpoint_id or body.endpoint_uuid or new_id())
        before = await self._store.read(lambda c: endpoints.find(c, wanted_id))
        if before is not None:
            if not before.may_manage(identity.id, identity.username):
                raise endpoint_forbidden(wanted_id)
            if before.locked_until > time.time():
                raise HttpError(
                    423, "ENDPOINT_LOCKED", f"Endpoint {wanted_id} is locked until {iso(before.locked_until)}."
                )
        endpoint, warnings = _described(wanted_id, identity, body, before)
        if can_seal and endpoint.uses_commands:
            endpoint = msgspec.structs.replace(endpoint, seals=1 + endpoint.generation)
        keys = self._keys.announced(before.start_key if before is not None else "")
        endpoint = msgspec.structs.replace(endpoint, start_key=keys[0].kid)
        await self._store.write(lambda c: endpoints.save(c, endpoint))
        self._directory.forget(wanted_id)
        queues = await self._credentials.of_endpoint(endpoint)
        core = self._fleet.core(endpoint)
        if before is not None and before.seals != endpoint.seals:
            await self._liveness.rekey(core)
        announcement = RelayAnnouncement(version=mep.__version__, keys=keys)
        if endpoint.seals:
            key = self._seals.endpoint_key(endpoint.id, endpoint.seals)
            announcement = msgspec.structs.replace(announcement, seal_key=key)
        if core.online:
            self._liveness.core_back(core)
        log.info("endpoint %s (%s) registered by %s", wanted_id, endpoint.name, identity.username)
        return _encoder.encode(
            {
                "endpoint_id": wanted_id,
                **queues,
                "warnings": warnings,
                "mep": announcement,
            }
        )

    async def lock(self, identity: Identity, endpoint_id: str) -> float:
        """Make the running agent go away and keep it away for a while; return until when."""
        endpoint = await self._directory.managed(endpoint_id, identity)
        until = time.time() + self._settings.lock_s
        await self._store.write(lambda c: endpoints.lock(c, endpoint.id, until))
        self._directory.forget(endpoint.id)
        await self._credentials.revoke(f"ep.{endpoint.id}")
        log.info("endpoint %s locked by %s until %s", endpoint.id, identity.username, iso(until))
        return until

    async def delete(self, identity: Identity, endpoint_id: str) -> None:
        """Remove an endpoint for good: its tasks fail, its accounts and queues go."""
        endpoint = await self._directory.managed(endpoint_id, identity)
        await self._liveness.remove(endpoint.id)
        await self._credentials.remove_endpoint(endpoint.id)
        await self._store.write(lambda c: endpoints.remove(c, endpoint.id))
        self._directory.forget(endpoint.id)
        log.info("endpoint %s deleted by %s", endpoint.id, identity.username)

    async def owner_name(self, endpoint: Endpoint) -> str:
        found = await self._store.read(lambda c: accounts.find_identity(c, endpoint.owner_id))
        return found.username if found is not None else ""


def _described(
    endpoint_id: str, identity: Identity, body: RegistrationBody, before: Endpoint | None
) -> tuple[Endpoint, list[str]]:
    if not 0 < len(body.endpoint_name) <= 128:
        raise HttpError(422, "SEMANTICALLY_INVALID", "endpoint_name must have 1 to 128 characters.")
    metadata = dict(body.metadata)
    version = str(metadata.get("endpoint_version") or "")
    schema, warnings = _checked_schema(metadata.pop("user_config_schema", None))
    now = time.time()
    endpoint = Endpoint(
        id=endpoint_id,
        owner_id=before.owner_id if before is not None else identity.id,
        name=body.endpoint_name,
        display_name=body.display_name,
        multi_user=bool(body.multi_user),
        uses_commands=bool(body.multi_user) or _major(version) >= 4 or bool(metadata.get("user_config_template")),
        public=bool(body.public),
        high_assurance=bool(body.high_assurance),
        version=version,
        metadata=metadata,
        schema=schema,
        allowed_functions=None
        if body.allowed_functions is None
        else tuple(map(checked_id, body.allowed_functions)),
        admins=tuple(body.admins or ()),
        authentication_policy=body.authentication_policy,
        subscription=body.subscription_uuid,
        created=before.created if before is not None else now,
        registered=now,
        generation=before.generation if before is not None else 0,
    )
    return endpoint, warnings


def _checked_schema(schema: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the schema to check options against; a broken one is not used, and the endpoint is told."""
    if not schema:
        return {}, []
    try:
        if not isinstance(schema, dict):
            return {}, ["user_config_schema is no JSON object: this relay does not check options against it."]
        check_schema(schema)
    except InputError as error:
        return {}, [f"This relay does not check options: {error.admin_text}"]
    return schema, []


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
