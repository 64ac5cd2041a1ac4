"""Local accounts, as the name service tells them. A lookup may take as long as LDAP does: never in the monitor."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence

from mep.admit.account import Account, Ids
from mep.base.codes import Code
from mep.base.errors import RefusedError


def find_account(name: str) -> Account:
    """Return the account `name` with all its groups; RefusedError(IDENTITY_NO_ACCOUNT). Privilege: none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise RefusedError(
            Code.IDENTITY_NO_ACCOUNT,
            "Your identity maps to an account that does not exist on this endpoint's host.",
            admin_text=f"The mapping names the account {name[:64]!r}, which does not exist here.",
        ) from None
    return _account(entry)


def find_ids(account: Account, users: Sequence[str], groups: Sequence[str]) -> Ids:
    """Return the numbers of those accounts and groups that exist, and of the usual name of `account`'s own uid.

    A number stands for itself. Patterns have none: they are for names. Privilege: none.
    """
    uids = {name: uid for name in users if (uid := _uid_of(name)) is not None}
    try:
        uids.setdefault(pwd.getpwuid(account.uid).pw_name, account.uid)
    except KeyError:
        pass
    return Ids(uids, {name: gid for name in groups if (gid := _gid_of(name)) is not None})


def _uid_of(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid_of(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def own_account() -> Account:
    """Return the account of this process; one made up from its ids where there is none. Privilege: none."""
    try:
        return _account(pwd.getpwuid(os.geteuid()))
    except KeyError:
        uid, gid = os.geteuid(), os.getegid()
        gids = tuple(sorted({gid, *os.getgroups()}))
        return Account(  # noqa: S604 - `shell` is a field of an account here
            name=str(uid),
            uid=uid,
            gid=gid,
            gids=gids,
            group_names=_group_names(gids),
            home=os.environ.get("HOME", "/"),
            shell="/bin/sh",
        )


def _account(entry: pwd.struct_passwd) -> Account:
    gids = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        gids=gids,
        group_names=_group_names(gids),
        home=entry.pw_dir or "/",
        shell=entry.pw_shell or "/bin/sh",
        gecos=entry.pw_gecos,
    )


def _group_names(gids: tuple[int, ...]) -> tuple[str, ...]:
    """A group without a name counts by its number, as in `allowed_groups: ["2001"]`."""
    names = []
    for gid in gids:
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            names.append(str(gid))
    return tuple(names)
