"""The few system calls that Python has no function for. Each wrapper keeps the call's name."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

# PyDLL keeps the interpreter lock: nothing else may run between a clone and its return.
libc: Final = ctypes.PyDLL(None, use_errno=True)

_SYS_CLONE3: Final = 435  # the same number on every architecture
CLONE_PIDFD: Final = 0x1000
CLONE_CHILD_CLEARTID: Final = 0x00200000
CLONE_CHILD_SETTID: Final = 0x01000000
CLONE_INTO_CGROUP: Final = 0x2_0000_0000
_SYS_KEYCTL: Final = {"x86_64": 250, "ppc64le": 271, "s390x": 280}.get(platform.machine(), 219)
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_GET_TID_ADDRESS: Final = 40
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4


_CLONE_FIELDS: Final = (
    *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
    *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
)


class _CloneArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _CLONE_FIELDS]


def clone3(*, flags: int, exit_signal: int, cgroup_fd: int) -> tuple[int, int]:
    """Return (pid, pidfd) in the parent, (0, -1) in the child. OSError as the kernel says.

    The child's memory is a copy, as after fork(). Privilege: write access to the cgroup.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=exit_signal,
        cgroup=cgroup_fd,
    )
    address = _tid_address()
    if address:
        # libc keeps the thread id in memory; its own fork() has the kernel correct it in the child, so do we
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        args.child_tid = address
    pid = libc.syscall(_SYS_CLONE3, ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))
    if pid < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return pid, pidfd.value


def _tid_address() -> int:
    """Return where libc keeps this thread's id, or 0 if the kernel does not tell. Privilege: none."""
    address = ctypes.c_uint64(0)
    return address.value if libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0 else 0


def before_fork() -> None:
    """What os.fork() does before the system call: take the interpreter's own locks. Privilege: none."""
    ctypes.pythonapi.PyOS_BeforeFork()


def after_fork_parent() -> None:
    """What os.fork() does after it in the parent. Privilege: none."""
    ctypes.pythonapi.PyOS_AfterFork_Parent()


def after_fork_child() -> None:
    """What os.fork() does after it in the child. Privilege: none."""
    ctypes.pythonapi.PyOS_AfterFork_Child()


def drop_bounding_capability(number: int) -> bool:
    """Take one capability out of the bounding set; False if the kernel has none of that number.

    Privilege: CAP_SETPCAP.
    """
    if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        return True
    errno = ctypes.get_errno()
    if errno == 22:  # EINVAL: past the last capability
        return False
    raise OSError(errno, os.strerror(errno))


def clear_ambient_capabilities() -> None:
    """Empty the ambient set. Privilege: none."""
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def join_new_session_keyring() -> None:
    """Leave the session keyring that was inherited, with whatever keys are in it, for a new and empty one.

    OSError as the kernel says, but not where there are no keyrings, or a filter forbids them: that filter is
    inherited as well. Privilege: none.
    """
    if libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None) < 0:
        errno = ctypes.get_errno()
        if errno not in (1, 38):  # EPERM, ENOSYS
            raise OSError(errno, os.strerror(errno))
