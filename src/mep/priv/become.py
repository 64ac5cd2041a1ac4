"""Becoming a user: the one function that gives root up, in one order, and proves it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pyprctl

from mep.base import rlimits
from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv import caps, fds, syscalls

_SIGKILL = 9
_WAYS_BACK: tuple[Callable[[], None], ...] = (
    lambda: os.setresuid(0, 0, 0),
    lambda: os.setresuid(-1, 0, -1),
    lambda: os.setgroups([0]),
)


@dataclass(frozen=True)
class User:
    """Whom to become. `groups` are all of the supplementary ones, `gid` included or not."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How the process is to live as the user.

    `parent_pid`: who must still be the parent, or the process ends. `keep_fds`: what stays open beside 0-2, which
    become /dev/null unless `keep_streams`. `environment` replaces the whole one. `rlimits`: resource.RLIMIT_* to
    the most that soft and hard limit may be. `setuid_programs`: leave the way open for programs such as a
    scheduler's (PAM on).
    """

    parent_pid: int
    environment: Mapping[str, str]
    keep_fds: Collection[int] = ()
    keep_streams: bool = False
    rlimits: Mapping[int, int] = field(default_factory=dict)
    setuid_programs: bool = False
    new_session: bool = True
    dumpable: bool = True
    death_signal: int = _SIGKILL


def become_user(user: User, terms: Terms) -> None:
    """Turn this process into `user` for good; HostError(PRIVILEGE_NOT_DROPPED | SPAWN_FAILED) if anything fails.

    The caller ends the process on any exception: half a drop is worse than none. Privilege: root; none after.
    """
    if user.uid == 0:
        raise _not_dropped("root is not a user to become")
    try:
        for kind, wanted in terms.rlimits.items():
            rlimits.lower(kind, wanted)
        if not terms.setuid_programs:
            caps.drop_bounding_set()
        take_groups(user.gid, user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        caps.drop_all()
        if not terms.setuid_programs:
            pyprctl.set_no_new_privs()
            syscalls.join_new_session_keyring()  # with PAM on, the session process has done so
    except OSError as error:
        raise _not_dropped(f"uid {user.uid}: {error}") from None
    _prove(user, terms)
    settle(user, terms)


def take_groups(gid: int, groups: Collection[int]) -> None:
    """Have exactly these supplementary groups; OSError as the kernel says. Privilege: CAP_SETGID.

    Apart from the drop it is what PAM's modules expect to find in a session process, which stays root.
    """
    os.setgroups(sorted({gid, *groups}))


def settle(user: User, terms: Terms) -> None:
    """Arrange the life of a process that already is `user`: HostError(SPAWN_FAILED) if that fails.

    Also what a process does that never was root. Privilege: none.
    """
    try:
        # A change of ids clears the death signal, so it comes after.
        pyprctl.set_pdeathsig(terms.death_signal)
        if os.getppid() != terms.parent_pid:
            os._exit(1)  # the parent died before it could be watched: nobody is left to report to
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        if terms.new_session:
            os.setsid()
        os.umask(0o077)
        _enter_home(user.home)
        os.environ.clear()
        os.environ.update(terms.environment)
        if not terms.keep_streams:
            fds.null_standard_streams()
        fds.close_all_except([0, 1, 2, *terms.keep_fds])
        # What is in a user process's memory is the user's, and so are its /proc entries; but only now, when
        # nothing of the daemon's is open any more, may the user's other processes look in.
        pyprctl.set_dumpable(terms.dumpable)
    except OSError as error:
        raise HostError(
            Code.SPAWN_FAILED,
            "The endpoint could not start your process.",
            admin_text=f"Becoming {user.name} (uid {user.uid}) failed: {error}.",
        ) from None


def _enter_home(home: str) -> None:
    """Go home, or to / where that cannot be entered. Privilege: the user's, so that root never walks there."""
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")


def _prove(user: User, terms: Terms) -> None:
    """Ask the kernel who we are, and try to get back: both must say `user`. Privilege: none."""
    now = caps.read_credentials()
    if set(now.uids) != {user.uid} or set(now.gids) != {user.gid}:
        raise _not_dropped(f"ids are {now.uids} {now.gids}, wanted {user.uid} {user.gid}")
    if now.groups != {user.gid, *user.groups}:
        raise _not_dropped(f"groups are {sorted(now.groups)}, wanted {sorted({user.gid, *user.groups})}")
    if now.capabilities:
        raise _not_dropped(f"capabilities are {now.capabilities:#x}, wanted none")
    if not terms.setuid_programs and (now.bounding or not now.no_new_privs):
        raise _not_dropped("the bounding set or no_new_privs is not as wanted")
    for way_back in _WAYS_BACK:
        try:
            way_back()
        except PermissionError:
            continue
        raise _not_dropped("there is a way back to root")


def _not_dropped(why: str) -> HostError:
    return HostError(
        Code.PRIVILEGE_NOT_DROPPED,
        "The endpoint could not start your process safely.",
        admin_text=f"Privileges were not dropped: {why}.",
    )
