"""What hostile functions do to be in the way: of the monitor, of others, of their own end. Sent by source."""

from __future__ import annotations

#: How many processes `cling` knows by their pids.
CLINGING = 6


def tell_monitor(*packets: bytes, after_s: float = 0.0) -> list[str]:
    """Write these packets into the socket to the monitor, `after_s` from now; return how each went."""
    import os
    import socket
    import time

    fd = next(
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}")
        and os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        and socket.socket(fileno=os.dup(int(name))).type == socket.SOCK_SEQPACKET
    )
    sock = socket.socket(fileno=os.dup(fd))
    sock.setblocking(True)
    sock.settimeout(5.0)
    told = []
    time.sleep(after_s)
    for packet in packets:
        try:
            sock.send(packet)
            told.append("sent")
        except OSError as error:
            told.append(type(error).__name__)
    time.sleep(3)  # whoever is killed for it does not return
    return told


def flood_monitor(seconds: float) -> int:
    """Tell the monitor notes as fast as it takes them; return how many went through."""
    import os
    import socket
    import time

    sock = None
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{name}") and "socket:" in os.readlink(f"/proc/self/fd/{name}"):
            one = socket.socket(fileno=os.dup(int(name)))
            if one.type == socket.SOCK_SEQPACKET:
                sock = one
    assert sock is not None
    note = b"\x84\xa1t\xa4note\xa5state\xa5noise\xaatasks_done\x01\xadtasks_pending\x00"
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            sock.send(note)
            count += 1
        except OSError:
            time.sleep(0.001)
    return count


def hold_connections() -> int:
    """Accept connections and read nothing, as long as this process lives; return the port."""
    import socket
    import threading

    server, held = socket.create_server(("127.0.0.1", 0)), []

    def hold() -> None:
        while True:
            held.append(server.accept())

    threading.Thread(target=hold, daemon=True).start()
    port: int = server.getsockname()[1]
    return port


def send_lingering_socket(port: int) -> str:
    """Give the monitor the last descriptor of a TCP socket whose close takes a minute; return how that went.

    `port`: of an accomplice, who lives on and does not read.
    """
    import contextlib
    import os
    import socket
    import struct

    sender = socket.create_connection(("127.0.0.1", port))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(100_000))
    outcome = "no socket"
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{name}") and "socket:" in os.readlink(f"/proc/self/fd/{name}"):
            one = socket.socket(fileno=os.dup(int(name)))
            if one.type == socket.SOCK_SEQPACKET:
                note = b"\x82\xa1t\xa4note\xa5state\xa0"
                try:
                    for _ in range(60):  # to be heard before: by then the message holds the last one
                        one.send(note)
                    socket.send_fds(one, [note], [sender.fileno()])
                except OSError as error:
                    outcome = type(error).__name__
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    os._exit(0)
    return outcome


def bomb() -> int:
    """Fork as much as is allowed, each child too; return how many this process could."""
    import os
    import time

    count = 0
    while count < 5000:
        try:
            if os.fork() == 0:
                for _ in range(100):
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.2)
                time.sleep(1000)
        except OSError:
            return count
        count += 1
    return count


def cling() -> list[int]:
    """Start processes that mean to outlive everything; return their pids.

    Detached, all signals blocked, no parent-death signal, stopped, traced, in namespaces of their own, under nohup
    and systemd-run where they are; all hold every inherited descriptor.
    """
    import ctypes
    import os
    import shutil
    import signal
    import subprocess
    import time

    libc = ctypes.CDLL(None)
    readable, writable = os.pipe()

    def detached(body: object) -> None:
        middle = os.fork()
        if middle:
            os.waitpid(middle, 0)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        libc.prctl(1, 0, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.write(writable, b"%d\n" % os.getpid())
        body()  # type: ignore[operator]
        while True:
            time.sleep(1000)

    def with_namespaces() -> None:
        libc.unshare(0x10000000 | 0x20000000)
        if os.fork() == 0:
            time.sleep(1000)

    def traced() -> None:
        if (child := os.fork()) == 0:
            libc.ptrace(0, 0, 0, 0)
            time.sleep(1000)
        libc.ptrace(0x4206, child, 0, 0)

    bodies = [
        lambda: None,
        lambda: os.kill(os.getpid(), signal.SIGSTOP),
        lambda: libc.prctl(36, 1, 0, 0, 0),  # adopts the others
        with_namespaces,
        traced,
    ]
    for body in bodies:
        detached(body)
    pids: list[int] = []
    while len(pids) < len(bodies):
        pids += [int(line) for line in os.read(readable, 1000).split()]
    pids.append(subprocess.Popen(["nohup", "sleep", "1000"], stdout=-3, stderr=-3).pid)
    detaching = (["setsid", "--fork", "sleep", "1001"], ["systemd-run", "--user", "sleep", "1002"])
    for command in detaching:
        if shutil.which(command[0]):
            subprocess.run(command, stdin=-3, stdout=-3, stderr=-3, timeout=5, check=False)
    return pids


def leave_a_job(path: str) -> list[str]:
    """Try to leave a job with the host's own services, which would write `path` in an hour; return what worked."""
    import shutil
    import subprocess

    done = []
    for name, command in {"at": ["at", "now + 1 hour"], "cron": ["crontab", "-"]}.items():
        job = f"{'* * * * * ' if name == 'cron' else ''}touch {path}\n"
        if shutil.which(command[0]):
            told = subprocess.run(command, input=job.encode(), capture_output=True, timeout=10, check=False)
            if told.returncode == 0:
                done.append(name)
    return done


def hydra() -> int:
    """Start something that is never there when one looks: each generation forks the next and exits."""
    import os

    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
    return os.getpid()


def stop_self(after_s: float) -> int:
    """Be stopped a moment from now, with all threads, and hear nothing any more."""
    import os
    import signal
    import threading

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Timer(after_s, lambda: os.kill(os.getpid(), signal.SIGSTOP)).start()
    return os.getpid()


def print_much(mebibytes: int) -> int:
    """Print, to the standard streams and to the log."""
    import logging
    import sys

    for number in range(mebibytes * 8):
        stream = sys.stderr if number % 2 else sys.stdout
        stream.write("x" * (128 * 1024 - 1) + "\n")
        logging.getLogger().error("%s", "y" * 1024)
    return mebibytes
