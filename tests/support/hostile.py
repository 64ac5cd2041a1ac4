"""What a hostile user's functions do. Each runs in a user endpoint, sent by its source, and tells what worked.

tests/system/test_hostile_helpers.py lets each of them loose where nothing protects.
"""

from __future__ import annotations

from collections.abc import Callable


def pry(pids: list[int]) -> list[str]:
    """Try to look into the processes of others; return what worked."""
    import contextlib
    import ctypes
    import errno
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    done = []

    def read(path: str) -> None:
        with open(path, "rb", 0) as file:
            file.read(64)

    class Span(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    def peek(pid: int) -> None:
        room = ctypes.create_string_buffer(8)
        ours, theirs = Span(ctypes.addressof(room), 8), Span(0x400000, 8)
        got = libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
        if got < 0 and ctypes.get_errno() != errno.EFAULT:  # nothing is mapped there: it may look
            raise OSError

    ways: dict[str, Callable[..., object]] = {
        "environ": lambda pid: read(f"/proc/{pid}/environ"),
        "mem": lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR),
        "maps": lambda pid: read(f"/proc/{pid}/maps"),
        "auxv": lambda pid: read(f"/proc/{pid}/auxv"),
        "syscall": lambda pid: read(f"/proc/{pid}/syscall"),
        "fds": lambda pid: os.listdir(f"/proc/{pid}/fd"),
        "fd 0": lambda pid: os.open(f"/proc/{pid}/fd/0", os.O_RDONLY),
        "map_files": lambda pid: os.listdir(f"/proc/{pid}/map_files"),
        "cwd": lambda pid: os.readlink(f"/proc/{pid}/cwd"),
        "root": lambda pid: os.listdir(f"/proc/{pid}/root"),
        "namespace": lambda pid: os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY),
        "process_vm_readv": peek,
    }
    for pid in pids:
        for name, way in ways.items():
            with contextlib.suppress(OSError):
                way(pid)
                done.append(f"{name} of {pid}")
    return done


def meddle(pids: list[int]) -> list[str]:
    """Try to trace, signal or change the processes of others; return what worked."""
    import contextlib
    import ctypes
    import os
    import resource
    import signal

    libc = ctypes.CDLL(None, use_errno=True)
    done = []

    def trace(pid: int) -> None:
        if libc.ptrace(0x4206, pid, 0, 0) < 0:  # PTRACE_SEIZE stops nobody
            raise OSError

    def by_pidfd(act: Callable[[int], object], pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            act(pidfd)
        finally:
            os.close(pidfd)

    def steal_fd(pidfd: int) -> None:
        if libc.syscall(438, pidfd, 0, 0) < 0:
            raise OSError

    ways: dict[str, Callable[..., object]] = {
        "ptrace": trace,
        "pidfd_getfd": lambda pid: by_pidfd(steal_fd, pid),
        "pidfd_send_signal": lambda pid: by_pidfd(lambda fd: signal.pidfd_send_signal(fd, 0), pid),
        "kill 0": lambda pid: os.kill(pid, 0),
        "oom_score_adj": lambda pid: os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY),
        "nice": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "affinity": lambda pid: os.sched_setaffinity(pid, {0}),
        "prlimit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8)),
        "SIGSTOP": lambda pid: os.kill(pid, signal.SIGSTOP),
        "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),  # last: nothing else works on what is gone
    }
    for pid in pids:
        for name, way in ways.items():
            with contextlib.suppress(OSError):
                way(pid)
                done.append(f"{name} of {pid}")
    return done


def break_in(paths: list[str]) -> list[str]:
    """Try to open, list, change, replace or connect to the files of others; return what worked."""
    import contextlib
    import os
    import socket

    def connect(path: str) -> None:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as sock, contextlib.suppress(OSError):
                sock.connect(path)
                return
        raise OSError

    def replace(path: str) -> None:
        os.rename(path, path + ".old")
        os.rename(path + ".old", path)

    def link(path: str) -> None:
        stolen = os.path.expanduser("~/stolen")
        os.link(path, stolen)
        os.unlink(stolen)

    def look(path: str) -> None:
        os.listdir(path) if os.path.isdir(path) else os.close(os.open(path, os.O_RDONLY))

    ways: dict[str, Callable[..., object]] = {
        "read": look,
        "write": lambda path: os.close(os.open(path, os.O_WRONLY)),
        "append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
        "replace": replace,
        "link": link,
        "add beside": lambda path: os.close(os.open(path + ".new", os.O_WRONLY | os.O_CREAT)),
        "chmod": lambda path: os.chmod(path, 0o777),
        "connect": connect,
        "watch": lambda path: os.stat(path),
        "remove": os.unlink,  # last: nothing else works on what is gone
    }
    done = []
    for path in paths:
        for name, way in ways.items():
            with contextlib.suppress(OSError):
                way(path)
                done.append(f"{name} {path}")
    return done


def leave_cgroup(others: list[str]) -> list[str]:
    """Try to leave the cgroup, to change it, or to kill those in others; return what worked."""
    import contextlib
    import os
    from pathlib import Path

    own = Path("/proc/self/cgroup").read_text()
    path = next(line[3:] for line in own.splitlines() if line.startswith("0::"))
    mounts = [
        line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"
    ]
    base = mounts[0] + path
    places = [base, *others]
    while os.path.dirname(base).startswith(mounts[0]):
        base = os.path.dirname(base)
        places.append(base)
    done = []
    for place in places:
        for name, text in (
            ("cgroup.kill", "1"),
            ("cgroup.freeze", "0"),
            ("cgroup.max.depth", "max"),
            ("pids.max", "max"),
            ("cgroup.procs", "0"),
        ):
            with contextlib.suppress(OSError), open(f"{place}/{name}", "w") as file:
                file.write(text)
                file.flush()
                done.append(f"{name} in {place}")
        with contextlib.suppress(OSError):
            os.mkdir(f"{place}/own")
            done.append(f"mkdir in {place}")
    if Path("/proc/self/cgroup").read_text() != own:
        done.append("another cgroup")
    return done


def leave_namespaces() -> list[str]:
    """Try to have namespaces of one's own, or those of process 1; return what worked."""
    import contextlib
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    done = []
    for kind, flag in (("mount", 0x20000), ("cgroup", 0x2000000), ("pid", 0x20000000), ("network", 0x40000000)):
        if libc.unshare(flag) == 0:
            done.append(f"a {kind} namespace")
    for name in os.listdir("/proc/self/ns"):
        with contextlib.suppress(OSError):
            fd = os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
            if libc.setns(fd, 0) == 0:
                done.append(f"the {name} namespace of process 1")
            os.close(fd)
    return done


def use_user_namespace() -> list[str]:
    """Try it as root of a user namespace, if one may be made; return what worked, by the host's measure."""
    import contextlib
    import ctypes
    import json
    import os
    from pathlib import Path

    libc = ctypes.CDLL(None, use_errno=True)
    own, uid, (readable, writable) = Path("/proc/self/cgroup").read_text(), os.getuid(), os.pipe()
    child = os.fork()
    if child == 0:
        done = []
        with contextlib.suppress(OSError):
            if libc.unshare(0x10000000 | 0x20000 | 0x2000000) == 0:  # user, mount and cgroup
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
                done.append("user namespace")
                folder = Path.home() / "cg"
                folder.mkdir(exist_ok=True)
                libc.mount(b"none", os.fsencode(folder), b"cgroup2", 0, None)
                for path in (*folder.glob("*.procs"), *folder.glob("*.kill"), Path("/proc/1/mem")):
                    with contextlib.suppress(OSError):
                        path.write_text("0")
                        done.append(f"write {path}")
                for path in (Path("/etc/shadow"), Path("/proc/1/environ")):
                    with contextlib.suppress(OSError):
                        path.read_bytes()
                        done.append(f"read {path}")
        os.write(writable, json.dumps(done).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told: list[str] = json.loads(os.read(readable, 10_000))
    if Path("/proc/self/cgroup").read_text() != own:
        told.append("another cgroup")
    return told


def regain_root() -> list[str]:
    """Try every way to more rights that a process has by itself; return what worked."""
    import contextlib
    import ctypes
    import os
    import subprocess
    import time
    from pathlib import Path

    libc = ctypes.CDLL(None, use_errno=True)
    done = []
    ways: dict[str, Callable[..., object]] = {
        "setuid": lambda: os.setuid(0),
        "setreuid": lambda: os.setreuid(0, 0),
        "setresuid": lambda: os.setresuid(-1, -1, 0),
        "setgid": lambda: os.setgid(0),
        "setgroups": lambda: os.setgroups([0]),
        "shadow": lambda: os.open("/etc/shadow", os.O_RDONLY),
        "chroot": lambda: os.chroot("/"),
        "device": lambda: os.mknod(os.path.expanduser("~/null"), 0o20666, os.makedev(1, 3)),
        "priority": lambda: os.nice(-1),
        "kernel log": lambda: os.open("/dev/kmsg", os.O_WRONLY),
        "hostname": lambda: os.open("/proc/sys/kernel/hostname", os.O_WRONLY),
        "core pattern": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
    }
    for name, way in ways.items():
        with contextlib.suppress(OSError):
            way()
            done.append(name)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    data[2], data[5] = data[1], data[4]  # whatever is permitted is to be inherited
    libc.capset(header, data)
    if libc.prctl(47, 2, 21, 0, 0) == 0:
        done.append("ambient capability")
    for bit in range(32):
        one = (ctypes.c_uint32 * 6)(1 << bit, 1 << bit)
        if libc.capset(header, one) == 0:
            done.append("capset")
            break
    program = next((p for p in ("/usr/bin/su", "/bin/su") if os.path.exists(p)), "")
    if program and os.stat(program).st_mode & 0o4000:
        with subprocess.Popen(["su"], stdin=subprocess.PIPE, stdout=-3, stderr=-3, executable=program) as child:
            time.sleep(0.3)
            with contextlib.suppress(OSError):
                ids = Path(f"/proc/{child.pid}/status").read_text().partition("\nUid:")[2].split("\n")[0]
                if "0" in ids.split():
                    done.append("setuid program")
            child.kill()
    return done


def find_key(description: str) -> str:
    """Return the content of a key that is in reach by the session keyring, or ""."""
    import ctypes
    import platform

    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 250, "ppc64le": 271, "s390x": 280}.get(platform.machine(), 219)
    for keyring in (-1, -2, -3, -4, -5):
        found = libc.syscall(number, 10, keyring, b"user", description.encode(), 0)
        if found > 0:
            room = ctypes.create_string_buffer(200)
            libc.syscall(number, 11, found, room, 200)
            return room.value.decode() or "(found)"
    return ""


def use_broker(others: list[str], queues: list[str], forged: dict[str, str]) -> list[str]:
    """Try what the broker lets one do with this user endpoint's own account; return what worked.

    `others`: endpoints to speak for; `queues`: to read, empty, delete; `forged`: task id to result, in own name,
    under the own seal.
    """
    import contextlib
    import gc

    import pika

    from mep.wire import envelope

    creds = next(one._creds for one in gc.get_objects() if type(one).__name__ == "Links")
    outbox = next(one for one in gc.get_objects() if type(one).__name__ == "Outbox")
    route = creds.result_queue_info
    done = []
    connection = pika.BlockingConnection(pika.URLParameters(route.connection_url.reveal()))

    def attempt(name: str, act: Callable[..., object]) -> None:
        with contextlib.suppress(pika.exceptions.AMQPError):
            channel = connection.channel()
            channel.confirm_delivery()
            act(channel)
            done.append(name)

    for other in others:
        for exchange in ("commands", "tasks", "results", "heartbeats"):
            key = f"{other}.{exchange}"
            attempt(f"publish {key}", lambda c, e=exchange, k=key: c.basic_publish(e, k, b"{}", mandatory=True))
    for queue in queues:
        attempt(f"get {queue}", lambda c, q=queue: c.basic_get(q))
        attempt(f"consume {queue}", lambda c, q=queue: c.basic_consume(q, print))
        attempt(f"purge {queue}", lambda c, q=queue: c.queue_purge(q))
        attempt(f"delete {queue}", lambda c, q=queue: c.queue_delete(q))
        attempt(f"publish to {queue}", lambda c, q=queue: c.basic_publish("", q, b"{}", mandatory=True))
    attempt("declare", lambda c: c.queue_declare("own", durable=True))
    own = dict(route.queue_publish_kwargs)
    for task, result in forged.items():
        body = outbox.sealer.seal(envelope.encode(envelope.Result(task_id=task, data=result)))
        connection.channel().basic_publish(own["exchange"], own["routing_key"], body)
    connection.close()
    return done


def use_interchange(ports: list[int], trap: str) -> list[str]:
    """Try to talk to these ports as a batch worker, a client or an interchange does; return which were answered.

    What is sent makes a file beside `trap`, as whoever unpickles it.
    """
    import io
    import pickle

    import zmq

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return io.open, (f"{trap}-{port}-{kind}", "w")

    done = []
    context = zmq.Context()
    sockets = {}
    server, own = zmq.curve_keypair(), zmq.curve_keypair()
    for port in ports:
        for kind in ("plain", "client", "server", "command"):
            sock = context.socket(zmq.REP if kind == "command" else zmq.DEALER)
            sock.linger = 0
            if kind in ("client", "server"):
                sock.curve_publickey, sock.curve_secretkey = own
            if kind == "client":
                sock.curve_serverkey = server[0]
            if kind == "server":
                sock.curve_server = True
            sock.connect(f"tcp://127.0.0.1:{port}")
            if kind != "command":
                sock.send(pickle.dumps({"type": "connection_probe"}))
                sock.send(pickle.dumps({"type": "result", "task_id": 1, "exception": Trap()}))
            sockets[sock] = f"{kind} at {port}"
    poller = zmq.Poller()
    for sock in sockets:
        poller.register(sock, zmq.POLLIN)
    while ready := poller.poll(1500):
        for sock, _ in ready:
            done.append(sockets[sock])
            poller.unregister(sock)
    context.destroy(linger=0)
    return done
