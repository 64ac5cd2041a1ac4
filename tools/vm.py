"""The disk of a virtual machine whose kernel has every cgroup controller: a small Debian, our Python environment.

Many machines of developers and of CI are containers, where the memory and pids controllers are not to be had. An
emulated machine has them. The disk is made once for each set of inputs and kept beside the environment; mep itself
is not on it (tests/support/machine.py gives each machine the checkout's). Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import devenv

APT_PACKAGES = ("qemu-system-x86", "mmdebstrap", "e2fsprogs")
#: What boots, and what the venv's modules are linked with.
_GUEST_PACKAGES = (
    "linux-image-cloud-amd64", "initramfs-tools", "systemd", "systemd-sysv", "dbus", "libpam-systemd", "python3",
    "iproute2", "procps",
)  # fmt: skip
_GUEST_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_USERS = {"mep": 871, "alice": 20001, "bob": 20002}
#: Tools of development that no test needs inside, by the beginnings of their names.
_LEFT_OUT = (
    "mep-", "mep.", "mypy", "6ec57f84c680d3a3778b", "ruff", "atheris", "asan_", "ubsan_", "libclang", "pip",
    "hypothesis", "schemathesis", "jsonschema_rs", "pygments", "uvicorn", "sqlalchemy", "fastapi", "pytest",
)  # fmt: skip
#: What only takes time on an emulated machine that lives for minutes.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
    "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-random-seed.service", "e2scrub_reap.service",
    "systemd-update-utmp.service", "systemd-pstore.service", "systemd-journal-flush.service",
    "systemd-binfmt.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount",
)  # fmt: skip
_DISK_SIZE = "2G"  # sparse
CHECKOUT = "/opt/checkout"  # where the machine's second disk, the checkout, is mounted

_AGENT_UNIT = f"""\
[Unit]
Description=Does what the test outside says
RequiresMountsFor={CHECKOUT}

[Service]
ExecStartPre=/sbin/modprobe virtio_net
ExecStartPre=/bin/sh -c 'for i in lo $$(ls /sys/class/net); do ip link set $$i up; done; \
  ip addr add 10.0.2.15/24 dev $$(ls /sys/class/net | grep -v lo); ip route add default via 10.0.2.2'
ExecStart=/usr/bin/python3 {CHECKOUT}/agent.py
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""


def why_not() -> str:
    """Return why this machine cannot have the virtual machine, or ""."""
    if shutil.which("dpkg") is None or _output("dpkg", "--print-architecture").strip() != "amd64":
        return "the virtual machine is for Debian on amd64"
    if not _mirrors():
        return "apt knows no mirror of this Debian release, from which a virtual machine could be made"
    return ""


def trouble(environment: devenv.Environment) -> str:
    """Make the disk if it is not there; return why that cannot be, or "". Privilege: root."""
    if reason := why_not():
        return reason
    try:
        prepare(environment)
    except devenv.CannotError as error:
        return str(error)
    return ""


def folder_below(base: Path) -> Path:
    """Return where the finished disk and kernel are, or will be."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(_release().encode())
    digest.update((base / "venv" / "dependencies").read_bytes())
    return base / "vm" / digest.hexdigest()[:16]


def prepare(environment: devenv.Environment) -> Path:
    """Return the folder with `disk.img`, `vmlinuz` and `initrd`; takes a minute or two the first time.

    CannotError says why there is none. Privilege: root.
    """
    devenv.install_packages(APT_PACKAGES)
    folder = folder_below(environment.base)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.iterdir():
        shutil.rmtree(old)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    devenv.say(f"making a virtual machine's disk in {folder}")
    try:
        _make_root(work / "root")
        _furnish(work / "root", environment)
        shutil.copyfile(next((work / "root" / "boot").glob("vmlinuz-*")), work / "vmlinuz")
        shutil.copyfile(next((work / "root" / "boot").glob("initrd.img-*")), work / "initrd")
        make_disk(work / "root", work / "disk.img", _DISK_SIZE)
        shutil.rmtree(work / "root")
        work.chmod(0o755)
        work.rename(folder)
    except subprocess.CalledProcessError as error:
        raise devenv.CannotError(f"no virtual machine: {error.cmd[0]} failed: {error.stderr[-2000:]}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def make_disk(root: Path, image: Path, size: str) -> None:
    """Make a disk with what is in `root`. Privilege: whatever it takes to read it."""
    _output("/sbin/mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-d", str(root), str(image), size)


# ---- inside -------------------------------------------------------------------------------------------------


def _make_root(root: Path) -> None:
    """Install Debian from where apt has it from; the release is this machine's, so that its venv fits."""
    setup = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d"; echo MODULES=list >"$1/etc/initramfs-tools/conf.d/small"; '
        f'printf "%s\\n" {" ".join(_GUEST_MODULES)} >"$1/etc/initramfs-tools/modules"'
    )
    options = ["--variant=minbase", "--format=directory", f"--include={','.join(_GUEST_PACKAGES)}", "--quiet"]
    options += [f"--setup-hook={setup}", f"--customize-hook={_users_script()}"]
    options += [f"--aptopt={line}" for line in _proxies()]
    _output("mmdebstrap", *options, _release(), str(root), *_mirrors())


def _users_script() -> str:
    return "; ".join(f'chroot "$1" useradd -m -u {uid} -s /bin/sh {name}' for name, uid in _USERS.items())


def _furnish(root: Path, environment: devenv.Environment) -> None:
    """Add the virtual environment, and the one unit that a test speaks to."""
    venv = environment.base / "venv"
    shutil.copytree(venv, root / str(venv).lstrip("/"), symlinks=True, ignore=_left_out)
    (site,) = (root / str(venv).lstrip("/")).glob("lib/python3*/site-packages")
    (site / "checkout.pth").write_text(f"{CHECKOUT}\n")
    (root / CHECKOUT.lstrip("/")).mkdir()
    (root / "etc/fstab").write_text(f"/dev/vdb {CHECKOUT} ext4 ro,noatime 0 0\n")
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost machine\n10.0.2.2 host\n")
    (root / "usr/bin/mep").symlink_to(venv / "bin" / "mep")
    units = root / "etc/systemd/system"
    (units / "agent.service").write_text(_AGENT_UNIT)
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    _output("systemctl", f"--root={root}", "enable", "agent.service")


def _left_out(folder: str, names: list[str]) -> set[str]:
    ours = {"mep"} if folder.endswith("site-packages") else set()
    return ours | {name for name in names if name.lower().startswith(_LEFT_OUT)}


def _release() -> str:
    lines = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return lines.get("VERSION_CODENAME", "").strip('"')


def _mirrors() -> list[str]:
    """Return the lines of sources.list by which this machine's apt knows its own release."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN) $(CODENAME) $(COMPONENT)"
    lines = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines()
    pairs = [line.partition("|") for line in lines]
    return [source for source, _, known_as in pairs if known_as == f"Debian {_release()} main"][:1]


def _proxies() -> list[str]:
    """Return how this machine's apt reaches its mirrors."""
    lines = _output("apt-config", "dump").splitlines()
    return [line.rstrip(";") for line in lines if line.startswith("Acquire::http") and "roxy" in line]


def _output(*command: str) -> str:
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
