"""May this account, and may one more? Pure decisions; every refusal has a code.

The user's texts name no local account, group or number of other users: who asks may be anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from mep.admit.account import Account, Ids
from mep.base.codes import Code
from mep.base.errors import RefusedError

#: What useradd(8) allows, plus dots and a domain (SSSD: `alice@site.example`); a trailing `$` is for machines.
_ACCOUNT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}(@[A-Za-z0-9.-]{1,190})?")


class AccountRules(Protocol):
    """The settings `check_account` reads (`EndpointConfig` has them). Names may hold `*`, `?` and `[...]`."""

    @property
    def min_uid(self) -> int: ...
    @property
    def denied_users(self) -> Sequence[str]: ...
    @property
    def denied_groups(self) -> Sequence[str]: ...
    @property
    def allowed_users(self) -> Sequence[str] | None: ...
    @property
    def allowed_groups(self) -> Sequence[str] | None: ...


class LoadRules(Protocol):
    """The settings `check_load` reads. None: no limit."""

    @property
    def max_user_endpoints(self) -> int | None: ...
    @property
    def max_user_endpoints_per_user(self) -> int | None: ...
    @property
    def start_rate_per_user(self) -> int | None: ...


@dataclass(frozen=True)
class Running:
    """A user endpoint that lives or is being started."""

    uep_id: str
    user: str


def check_name(user: str) -> str:
    """Return `user` if it can be an account's name; RefusedError(IDENTITY_NO_ACCOUNT) otherwise.

    Ask before the name service is asked: a mapping's output may come from a text that the user chose.
    """
    if not _ACCOUNT_NAME.fullmatch(user):
        raise RefusedError(
            Code.IDENTITY_NO_ACCOUNT,
            "Your identity is mapped to an account that does not exist here.",
            admin_text=f"The mapping gave {user[:100]!r}, which cannot be an account's name.",
        )
    return user


def check_account(
    account: Account, config: AccountRules, *, gate_uid: int | None = None, ids: Ids | None = None
) -> None:
    """Raise RefusedError(IDENTITY_*) unless user endpoints may run as `account`.

    `gate_uid`: the gate's own account, which holds the endpoint's credentials. `ids`: of the accounts and groups
    that are denied, so that another name for one of them is denied as well. The order is fixed: the rules that no
    setting can lift come first.
    """
    check_name(account.name)
    if account.uid == 0:
        raise _refused(Code.IDENTITY_MAPPED_TO_ROOT, f"{account.name!r} has uid 0")
    if gate_uid is not None and account.uid == gate_uid:
        raise _refused(Code.IDENTITY_ACCOUNT_RESERVED, f"{account.name!r} is the endpoint's own account")
    if account.uid < config.min_uid:
        raise _refused(
            Code.IDENTITY_UID_TOO_LOW, f"{account.name!r} has uid {account.uid}, below min_uid {config.min_uid}"
        )
    _check_lists(account, config, ids or Ids())


def _check_lists(account: Account, config: AccountRules, ids: Ids) -> None:
    names = [account.name, *(name for name, uid in ids.uids.items() if uid == account.uid)]
    rule = _first_match(names, config.denied_users)
    if rule is not None:
        raise _refused(Code.IDENTITY_DENIED, f"{account.name!r} matches {rule!r} of denied_users")
    groups = [*account.group_names, *(name for name, gid in ids.gids.items() if gid in account.gids)]
    rule = _first_match(groups, config.denied_groups)
    if rule is not None:
        raise _refused(Code.IDENTITY_DENIED, f"{account.name!r} is in a group matching {rule!r} of denied_groups")
    if config.allowed_users is None and config.allowed_groups is None:
        return
    if _first_match([account.name], config.allowed_users or ()) is not None:
        return
    if _first_match(account.group_names, config.allowed_groups or ()) is not None:
        return
    raise _refused(Code.IDENTITY_DENIED, f"{account.name!r} is neither in allowed_users nor in allowed_groups")


def rehearse(config: AccountRules) -> None:
    """Compile the patterns now, in the process that forks, so that no child has to."""
    lists = (config.denied_users, config.denied_groups, config.allowed_users or (), config.allowed_groups or ())
    for pattern in (pattern for patterns in lists for pattern in patterns):
        fnmatchcase("", pattern)


def _first_match(names: Sequence[str], patterns: Sequence[str]) -> str | None:
    return next((p for p in patterns if any(fnmatchcase(name, p) for name in names)), None)


_USER_TEXT = {
    Code.IDENTITY_MAPPED_TO_ROOT: "Your identity is mapped to an account that this endpoint does not serve.",
    Code.IDENTITY_ACCOUNT_RESERVED: "Your identity is mapped to an account that this endpoint does not serve.",
    Code.IDENTITY_UID_TOO_LOW: "Your identity is mapped to an account that this endpoint does not serve.",
    Code.IDENTITY_DENIED: "The administrator of this endpoint does not admit your account.",
}


def _refused(code: Code, admin_text: str) -> RefusedError:
    return RefusedError(code, _USER_TEXT[code], admin_text=f"{admin_text}.")


def check_load(
    running: Sequence[Running],
    user: str,
    config: LoadRules,
    *,
    draining: bool = False,
    recent_starts: Sequence[float] = (),
    now: float = 0.0,
) -> None:
    """Raise RefusedError unless one more user endpoint may be started for `user`.

    `running` holds those that live or are being started; `recent_starts` are the times (monotonic seconds, like
    `now`) of this user's starts in the last minute or more.
    """
    if draining:
        raise RefusedError(Code.ENDPOINT_DRAINING, "This endpoint takes no new work.")
    if config.max_user_endpoints is not None and len(running) >= config.max_user_endpoints:
        raise RefusedError(
            Code.ENDPOINT_FULL,
            "This endpoint serves as many users as it may.",
            admin_text=f"{len(running)} user endpoints run; max_user_endpoints is {config.max_user_endpoints}.",
            step="Submit again later, or to another endpoint.",
        )
    mine = sum(1 for one in running if one.user == user)
    per_user = config.max_user_endpoints_per_user
    if per_user is not None and mine >= per_user:
        raise RefusedError(
            Code.USER_LIMIT_REACHED,
            f"You have {mine} user endpoints here; {per_user} are allowed at once.",
            admin_text=f"{user!r} has {mine} user endpoints; max_user_endpoints_per_user is {per_user}.",
            step="Use the same user_endpoint_config for more of your tasks, or wait until one has gone idle.",
        )
    rate = config.start_rate_per_user
    in_last_minute = sum(1 for at in recent_starts if now - at < 60.0)
    if rate is not None and in_last_minute >= rate:
        raise RefusedError(
            Code.START_RATE_EXCEEDED,
            f"{in_last_minute} user endpoints were started for you within a minute; {rate} are allowed.",
            admin_text=f"{user!r}: {in_last_minute} starts within a minute; start_rate_per_user is {rate}.",
        )
