"""From a launch and its payload to a checked configuration. Everything here was written by others."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.config.user_endpoint import UserEndpointConfig, load_user_endpoint_config
from mep.template import ReservedVariables, render, validate_options
from mep.wire import command
from mep.wire.command import AmqpCreds, StartCommand
from mep.wire.launch import Launch
from mep.wire.limits import MAX_COMMAND_BYTES
from mep.wire.signing import body_digest


@dataclass(frozen=True)
class Plan:
    """What this user endpoint is to be. `config_text` is the rendered template. `seal_key`: None with a service
    that does not seal."""

    config: UserEndpointConfig
    config_text: str
    creds: AmqpCreds
    seal_key: Secret | None = None


@dataclass(frozen=True)
class Renewed:
    """What a later start command brings."""

    creds: AmqpCreds
    seal_key: Secret | None


def prepare(launch: Launch) -> Plan:
    """Return the plan; MepError says what is wrong with payload, options, template or configuration."""
    body = _read(launch.payload_fd)
    if body_digest(body) != launch.payload_sha256:
        raise InputError(
            Code.PAYLOAD_MISMATCH,
            "The start command that arrived is not the one that was checked.",
            admin_text=f"payload of {len(body)} bytes has another SHA-256 than the signed {launch.payload_sha256}",
        )
    start = command.decode(body)
    _check_id(start, launch.uep_id)
    options = start.kwargs.user_opts
    if launch.schema is not None:
        validate_options(options, launch.schema)
    reserved = ReservedVariables(
        parent_config=launch.endpoint_config,
        user_runtime=start.kwargs.user_runtime,
        mapped_identity=_mapped_identity(launch),
        env=dict(os.environ),
    )
    text = render(
        launch.template,
        options=options,
        reserved=reserved,
        source=launch.template_source,
        includes=launch.template_includes,
    )
    config = load_user_endpoint_config(text, source=f"{launch.template_source}, rendered")
    if launch.high_assurance and not getattr(config.engine, "encrypted", True):
        raise InputError(
            Code.CONFIG_INVALID,
            f"{launch.template_source}: engine.encrypted is false; a high-assurance endpoint must encrypt.",
        )
    return Plan(config, text, start.kwargs.amqp_creds, _seal_key(start))


def read_refresh(fd: int, uep_id: str) -> Renewed:
    """Return the newer credentials in the command that `fd` holds; closes it. InputError if it is not for us."""
    start = command.decode(_read(fd))
    _check_id(start, uep_id)
    return Renewed(start.kwargs.amqp_creds, _seal_key(start))


def _read(fd: int) -> bytes:
    """Read a payload to its end, one byte above the cap at most; closes `fd`."""
    chunks, size = [], 0
    try:
        try:
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            pass  # a pipe
        while size <= MAX_COMMAND_BYTES:
            chunk = os.read(fd, min(1 << 16, MAX_COMMAND_BYTES + 1 - size))
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        raise InputError(
            Code.PAYLOAD_MISMATCH,
            "The start command could not be read.",
            admin_text=f"payload fd {fd}: {error.strerror}",
        ) from None
    finally:
        os.close(fd)
    return b"".join(chunks)


def _seal_key(start: StartCommand) -> Secret | None:
    key = start.kwargs.seal_key
    return key if isinstance(key, Secret) else None


def _check_id(start: StartCommand, uep_id: str) -> None:
    told = start.kwargs.amqp_creds.endpoint_id
    if told != uep_id:
        raise InputError(
            Code.PAYLOAD_MISMATCH,
            "The start command names another user endpoint.",
            admin_text=f"payload is for user endpoint {told[:40]!r}, the launch for {uep_id}",
        )


def _mapped_identity(launch: Launch) -> dict[str, object]:
    """What the template sees as `mapped_identity`: who was mapped to whom."""
    if "mapped_identity" not in launch.template:
        return {}  # spares a look into the account database, which may be far away
    try:
        account = pwd.getpwuid(os.getuid())
        gecos, shell = account.pw_gecos, account.pw_shell
    except KeyError:
        gecos = shell = ""
    local = {
        "uname": launch.user_name,
        "uid": launch.uid,
        "gid": launch.gid,
        "groups": os.getgroups(),
        "gecos": gecos,
        "shell": shell,
        "dir": launch.home,
    }
    return {"local": local, "globus": {"id": launch.matched_identity}}
