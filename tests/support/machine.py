"""A virtual machine with every cgroup controller, systemd as its first process, and the checkout's mep inside.

It is emulated, ten to twenty times slower than this one: every wait is long, and a file's tests share one machine.
From inside, the services of this machine's 127.0.0.1 are at 10.0.2.2.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest

import vm
from support import guards
from support.source import ROOT

HOST = "10.0.2.2"
BOOT_WITHIN_S = 240.0
SLOW_S = 300.0


def find_image() -> Path:
    """Return the folder of the machine's disk; where there is none, the test is skipped and says why."""
    if os.environ.get("MEP_SANDBOX") != "1" or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs a virtual machine: sudo ./dev test vm")
    folder = vm.folder_below(Path(os.environ.get("MEP_DEV_DIR", "/var/cache/mep-dev")))
    if not folder.exists():
        pytest.skip("the virtual machine's disk is not made: sudo ./dev test vm")
    return folder


class Machine:
    """One run of the machine. `folder`: where tools/vm.py has put its disk; what is written there is lost."""

    def __init__(self, folder: Path, *, memory_mib: int = 1536, swap_mib: int = 256) -> None:
        self._image = folder
        self._work = Path(tempfile.mkdtemp(prefix="machine-", dir="/var/tmp"))
        self._sizes = memory_mib, swap_mib
        self._qemu: subprocess.Popen[bytes] | None = None
        self._lines: IO[str] | None = None

    @property
    def console(self) -> str:
        """What the kernel and the agent have said."""
        return (self._work / "console").read_text(errors="replace")

    def boot(self) -> Machine:
        """Start it; return when it listens to `run`."""
        self._make_disks()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(BOOT_WITHIN_S)
            with (self._work / "console").open("wb") as console:
                self._qemu = subprocess.Popen(
                    self._command(server.getsockname()[1]),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    env=dict(os.environ) | {"TMPDIR": str(self._work)},
                )
            guards.expected.add(self._qemu.pid)
            try:
                sock, _ = server.accept()
            except TimeoutError:
                raise AssertionError(f"the machine did not come up:\n{self.console[-4000:]}") from None
        sock.settimeout(600)
        self._lines = sock.makefile("rw")
        sock.close()  # the file holds it
        return self

    def close(self) -> None:
        """Switch it off."""
        if self._lines is not None:
            with contextlib.suppress(OSError):
                self._lines.close()
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        shutil.rmtree(self._work, ignore_errors=True)

    # ---- what the test says to it ----

    def run(self, *argv: str, env: dict[str, str] | None = None, check: bool = True) -> str:
        """Run a program as root; return what it printed. AssertionError if it fails, unless `check` is off."""
        answer = self._ask(do="run", argv=argv, env=env or {}, within_s=SLOW_S)
        if check and answer["status"]:
            raise AssertionError(f"{argv} ended with {answer['status']}:\n{answer['stdout']}\n{answer['stderr']}")
        return str(answer["stdout"])

    def read(self, path: str) -> str:
        return str(self._ask(do="read", path=path)["text"])

    def write(self, path: str, text: str) -> None:
        self._ask(do="write", path=path, text=text)

    def evaluate(self, code: str) -> Any:
        """Run Python `code` inside, as root; return its variable `answer`."""
        return self._ask(do="evaluate", code=code)["answer"]

    # ---- inside ----

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._lines is not None
        self._lines.write(json.dumps(order) + "\n")
        self._lines.flush()
        line = self._lines.readline()
        assert line, f"the machine is gone:\n{self.console[-4000:]}"
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def _make_disks(self) -> None:
        """Make the disk with the checkout's mep and the agent, compiled, and an empty one to swap to."""
        inside = self._work / "checkout"
        shutil.copytree(ROOT / "src" / "mep", inside / "mep", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "systemd", inside / "systemd")
        shutil.copyfile(ROOT / "tests" / "support" / "machineagent.py", inside / "agent.py")
        compileall.compile_dir(inside, quiet=2, stripdir=str(inside), prependdir="/opt/checkout")
        vm.make_disk(inside, self._work / "checkout.img", "64M")
        with (self._work / "swap.img").open("wb") as swap:
            swap.truncate(self._sizes[1] * 2**20)

    def _command(self, agent_port: int) -> list[str]:
        words = f"root=/dev/vda rw console=ttyS0 quiet mitigations=off random.trust_cpu=on agent_port={agent_port}"
        words += " systemd.unit=multi-user.target systemd.show_status=0 net.ifnames=0"
        disks = [(self._image / "disk.img", "snapshot=on"), (self._work / "checkout.img", "readonly=on")]
        disks.append((self._work / "swap.img", "cache=unsafe"))
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2"]
        command += ["-m", str(self._sizes[0]), "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]
        command += ["-kernel", str(self._image / "vmlinuz"), "-initrd", str(self._image / "initrd")]
        command += ["-append", words, "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
        for path, options in disks:
            command += ["-drive", f"file={path},format=raw,if=virtio,{options}"]
        return command
