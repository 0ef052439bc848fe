"""What the lab asks of the machine it runs on, and how it starts programs there."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import LabError

# program -> Debian package that brings it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "sysctl": "procps",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A base tree is 0.4 GB; a finished node adds about as much, its package cache included.
DISK_NEEDED = 2 * 1024**3


def name() -> str:
    """This lab's name: OKOME_LAB, so that a test run and a demo can stand side by side."""
    given = os.environ.get("OKOME_LAB", "lab")
    if not re.fullmatch(r"[a-z0-9]{1,8}", given):
        raise LabError(f"OKOME_LAB is {given!r}: use one to eight of a-z and 0-9.")
    return given


def state_dir() -> Path:
    """Everything this lab keeps while it is up; `down` removes it."""
    return Path("/var/lib/okome-lab") / name()


def cache_dir() -> Path:
    """What is slow to fetch and outlives the lab: base trees and downloaded packages."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "okome"


def namespace() -> str:
    """The network namespace that is the LAN."""
    return f"okome-{name()}"


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 60,
    stdin: str | None = None,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> str:
    """Run a program of the machine and return its output; a failure is a LabError with its last lines."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{command[0]}` did not finish within {timeout:.0f} s.") from error
    if check and done.returncode != 0:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise LabError(f"`{' '.join(map(str, command))}` failed: {said or f'exit {done.returncode}'}.")
    return done.stdout


def in_lan(*command: str | Path) -> list[str]:
    """The command, moved into the LAN (nsenter: `ip netns exec` would hide the cgroups)."""
    return ["nsenter", f"--net=/run/netns/{namespace()}", *map(str, command)]


def missing_packages() -> list[str]:
    """The Debian packages that bring what the lab needs and this machine lacks."""
    packages = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    return sorted(packages | (set() if KEYRING.exists() else {"debian-archive-keyring"}))


def missing() -> list[str]:
    """Why the lab cannot run here: one clause for each thing that is missing; empty if it can."""
    reasons = []
    if os.uname().sysname != "Linux":
        return [f"it needs Linux, and this is {os.uname().sysname}"]
    if os.geteuid() != 0:
        reasons.append("it needs root (namespaces, mounts)")
    if packages := missing_packages():
        reasons.append(f"programs are missing: apt-get install {' '.join(packages)}")
    if "overlay" not in Path("/proc/filesystems").read_text() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "overlay"], check=False, capture_output=True, timeout=30)
    if "overlay" not in Path("/proc/filesystems").read_text():
        reasons.append("the kernel has no overlayfs")
    if not Path("/proc/self/ns/net").exists():
        reasons.append("the kernel has no network namespaces")
    if not _cgroup_roots():
        reasons.append("no cgroup2 hierarchy is mounted (it may be beside the v1 ones)")
    return reasons


@contextlib.contextmanager
def alone(what: str, seconds: float = 1800) -> Iterator[None]:
    """One change of a lab, or of what labs share, at a time. The lock is an abstract socket's name: it goes with the
    process that holds it, no file is left behind, and all see it whose network it is, whatever their mounts. A
    LabError if another command holds it for that long."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                lock.bind(f"\0{what}")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise LabError(f"another command has been changing {what} for {seconds:.0f} s.") from None
            time.sleep(0.1)
        yield


def require() -> None:
    """Stop with one sentence if the lab cannot run here, before anything is made."""
    if reasons := missing():
        raise LabError(f"the lab cannot run here: {'; '.join(reasons)}.")
    for directory in (state_dir(), cache_dir()):
        free = shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free
        if free < DISK_NEEDED:
            raise LabError(
                f"the disk under {directory} has {free / 1024**3:.1f} GB free;"
                f" the lab needs {DISK_NEEDED / 1024**3:.0f} GB."
            )


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for somebody to take note. While threads of it still end, what it
    had open is open: the first of them is a zombie before the others are."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def systemd_booted() -> bool:
    """Whether this machine itself runs systemd."""
    return Path("/run/systemd/system").is_dir()


def _cgroup_roots() -> list[Path]:
    """The hierarchies systemd-nspawn works in: cgroup2, and on hybrid machines v1's name=systemd."""
    roots = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(before.split(" ")[4]))
    return roots


def cgroups(label: str) -> list[Path]:
    """The cgroup directories of one node (`okome-LAB-NODE`), whether they exist or not."""
    return [root / label for root in _cgroup_roots()]


def remove_cgroups(label: str) -> None:
    """Remove a node's cgroups, innermost first; they are empty once its processes are gone."""
    for top in cgroups(label):
        if top.is_dir():
            for directory in sorted(top.rglob("*/"), key=lambda path: -len(path.parts)):
                directory.rmdir()
            top.rmdir()
