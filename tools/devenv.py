"""The environment of development: Debian packages, a virtual environment, mep installed into it.

Each step runs only when its input changed (a fingerprint beside the result), under one lock, so that two ./dev
may run at once. Progress goes to stderr: stdout belongs to the command.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = "/usr/bin/python3"  # the distribution's own: other users can read it, unlike one below root's home
STOCK = ("globus-compute-sdk==4.19.0", "globus-compute-endpoint==4.19.0")
APT_PACKAGES = (
    "rabbitmq-server",
    "python3-venv",
    "python3-dev",
    "gcc",
    "pkg-config",
    "libsystemd-dev",
    "iproute2",
    "util-linux",
    "nftables",
    "strace",
    "shellcheck",
    "libpam-modules",
    "at",
    "systemd-container",  # with the next two: a container with a real systemd and logind
    "libpam-systemd",
    "dbus",
)
_SHARED = Path("/var/cache/mep-dev")
_POLICY = Path("/usr/sbin/policy-rc.d")


class CannotError(Exception):
    """Something that the person at the terminal has to do; its text is all they see."""


@dataclass(frozen=True)
class Environment:
    """A ready environment: `base` holds it, `root` is the checkout, `cache` is the caller's to write."""

    root: Path
    base: Path
    cache: Path

    @property
    def bin(self) -> Path:
        return self.base / "venv" / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def stock_bin(self) -> Path:
        return self.base / "stock" / "bin"

    def variables(self) -> dict[str, str]:
        """Return the environment of child processes: what is installed is used, the checkout stays clean."""
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"))
        }
        return env | {
            "PATH": f"{self.bin}{os.pathsep}{_system_path(env.get('PATH', ''))}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MYPY_CACHE_DIR": str(self.cache / "mypy"),
            "RUFF_CACHE_DIR": str(self.cache / "ruff"),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.cache / "hypothesis"),
            "MEP_STOCK_BIN": str(self.stock_bin),
        }

    def run_in_sandbox(self, argv: list[str]) -> int:
        """Run `argv` in tools/sandbox.py and return its exit status; needs root."""
        command = [PYTHON, str(self.root / "tools" / "sandbox.py"), "--", *argv]
        with subprocess.Popen(command, env=self.variables(), cwd=self.root) as child:
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:  # the terminal sent it to the child too, which cleans up
                    continue


def prepare(root: Path, *, apt: bool) -> Environment:
    """Return a ready environment for the checkout at `root`; with `apt`, Debian packages are seen to as well."""
    if apt:
        install_packages()
    base = _base()
    environment = Environment(root, base, base / "cache")
    candidates = [environment]
    if "MEP_DEV_DIR" not in os.environ:
        candidates.append(Environment(root, _SHARED, environment.cache))  # root's, if it fits, serves everybody
    for candidate in candidates:
        if _is_current(candidate):
            return candidate
    with _locked(environment.base):
        _make_venv(environment.base / "venv", requirements(root), "dependencies")
        _install_mep(environment)
    return environment


def prepare_stock(environment: Environment) -> Path:
    """Return the folder of programs of a second environment that holds the stock packages."""
    with _locked(environment.base):
        _make_venv(environment.base / "stock", list(STOCK), "the stock packages")
    return environment.stock_bin


def requirements(root: Path) -> list[str]:
    """Return what pyproject.toml asks for, all extras included."""
    document = tomllib.loads((root / "pyproject.toml").read_text())
    project = document["project"]
    lists = [
        project["dependencies"],
        document["build-system"]["requires"],
        *project["optional-dependencies"].values(),
    ]
    return sorted({line for lines in lists for line in lines if not line.startswith("mep[")})


def install_packages(wanted: Sequence[str] = APT_PACKAGES) -> None:
    """Install those Debian packages that are missing; CannotError where that needs root, or there is no apt."""
    missing = missing_packages(wanted)
    if not missing:
        return
    if os.geteuid() != 0:
        raise CannotError(f"missing packages: {' '.join(missing)}. Run once: sudo ./dev env")
    say(f"installing {' '.join(missing)}")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    with _no_service_starts():
        _run([*apt, "update"], env=env)
        _run([*apt, "install", "-y", "--no-install-recommends", *missing], env=env)
    if "rabbitmq-server" in missing and Path("/run/systemd/system").is_dir():
        # mep runs a node of its own; the system's would start at the next boot and take port 5672
        units = ["rabbitmq-server.service", "epmd.service", "epmd.socket"]
        subprocess.run(
            ["systemctl", "--quiet", "disable", "--now", *units], stderr=subprocess.DEVNULL, check=False
        )


def missing_packages(wanted: Sequence[str] = APT_PACKAGES) -> list[str]:
    """Return those that are not installed."""
    if shutil.which("dpkg-query") is None:
        raise CannotError("this is not Debian or Ubuntu: install RabbitMQ, gcc and the libsystemd headers by hand")
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *wanted]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return [name for name in wanted if f"{name} installed" not in answer.splitlines()]


# ---- inside -------------------------------------------------------------------------------------------------


def _base() -> Path:
    chosen = os.environ.get("MEP_DEV_DIR")
    if chosen:
        return Path(chosen).resolve()
    return _SHARED if os.geteuid() == 0 else Path.home() / ".cache" / "mep-dev"


def _system_path(path: str) -> str:
    """Return PATH with the administrator's folders, which sudo and su may have left out."""
    folders = [folder for folder in path.split(os.pathsep) if folder]
    return os.pathsep.join(
        [*folders, *(f for f in ("/usr/sbin", "/sbin", "/usr/bin", "/bin") if f not in folders)]
    )


def _is_current(environment: Environment) -> bool:
    venv = environment.base / "venv"
    return (
        environment.python.exists()
        and _read(venv / "dependencies") == _fingerprint_of(requirements(environment.root))
        and _read(venv / "source") == _fingerprint_of_source(environment.root)
    )


def _make_venv(venv: Path, wanted: list[str], what: str) -> None:
    stamp = venv / "dependencies"
    if not _can_build_systemd():
        # only the daemon's journal output needs it; the unit tier runs without a compiler
        wanted = [line for line in wanted if not line.startswith("systemd-python")]
    fingerprint = _fingerprint_of(wanted)
    if (venv / "bin" / "python").exists() and _read(stamp) == fingerprint:
        return
    say(f"installing {what} into {venv}")
    if not (venv / "bin" / "pip").exists():
        made = subprocess.run(
            [PYTHON, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise CannotError(f"{PYTHON} cannot make a virtual environment (package python3-venv?): {made.stdout}")
    _run([*_pip(venv), "install", "-q", "--use-pep517", *wanted])
    stamp.write_text(fingerprint)


def _install_mep(environment: Environment) -> None:
    stamp = environment.base / "venv" / "source"
    fingerprint = _fingerprint_of_source(environment.root)
    if _read(stamp) == fingerprint:
        return
    say("installing mep")
    stamp.unlink(missing_ok=True)
    options = ["-q", "--no-deps", "--no-build-isolation", "--force-reinstall", "--no-cache-dir"]
    _run([*_pip(environment.base / "venv"), "install", *options, str(environment.root)])
    stamp.write_text(fingerprint)


def _pip(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def _can_build_systemd() -> bool:
    if shutil.which("gcc") is None or shutil.which("pkg-config") is None:
        return False
    return subprocess.run(["pkg-config", "--exists", "libsystemd"], check=False).returncode == 0


def _fingerprint_of(lines: list[str]) -> str:
    if not _can_build_systemd():
        lines = [line for line in lines if not line.startswith("systemd-python")]
    return hashlib.sha256("\n".join([sys.version, PYTHON, *lines]).encode()).hexdigest()


def _fingerprint_of_source(root: Path) -> str:
    digest = hashlib.sha256()
    files = [root / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    files += sorted(p for p in (root / "src").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for path in files:
        if path.exists():
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Hold the environment's lock; also makes its folder, open to all readers."""
    base.mkdir(parents=True, exist_ok=True)
    with open(base / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another ./dev that is installing")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep package scripts from starting what they install, unless the machine has a policy of its own."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run it with its output on stderr; CannotError with the command if it fails."""
    if subprocess.run(command, env=env, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False).returncode:
        raise CannotError(f"this failed: {' '.join(command)}")


def say(text: str) -> None:
    """Tell the person at the terminal what takes its time."""
    print(f"dev: {text}", file=sys.stderr, flush=True)
