"""Base trees: a minimal Debian with what a new Raspberry Pi has, one for each suite, cached."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import LabError, machine

SUITES = ("bookworm", "trixie")
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "polkitd",
    "libpam-systemd",
    "openssh-server",
    "sudo",
    "python3",
    "network-manager",
    "dhcpcd",
    "netplan.io",
    "avahi-daemon",
    "bluez",
    "iproute2",
    "iputils-ping",
    "systemd-timesyncd",
    "systemd-resolved",
    "logrotate",
    "ca-certificates",
    "procps",
    "kmod",
    "less",
    "nano",
)


def base(suite: str, more: str = "") -> Path:
    """The base tree of a suite, with one package more if need be; built when the cache has none. Never written to:
    nodes are overlays on it."""
    packages, label = [*PACKAGES, *more.split()], f"{more}-{suite}" if more else suite
    version = machine.run(["mmdebstrap", "--version"]).strip()
    key = hashlib.sha256("\n".join([suite, version, *packages]).encode()).hexdigest()[:12]
    tree = machine.cache_dir() / "trees" / f"{label}-{key}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with (tree.parent / f"{label}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.is_dir():
            _build(suite, packages, tree, label)
    return tree


def _build(suite: str, packages: Sequence[str], tree: Path, label: str) -> None:
    partial = tree.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    print(f"lab: building the {label} base tree (a minute or two, once)", file=sys.stderr, flush=True)
    try:
        bootstrap(suite, packages, partial, tree.with_suffix(".log"))
        for stale in tree.parent.glob(f"{label}-*"):
            if stale.is_dir() and stale != partial and not _in_use(stale):
                shutil.rmtree(stale)
        partial.rename(tree)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def bootstrap(suite: str, packages: Sequence[str], tree: Path, log: Path) -> None:
    """A minimal Debian with these packages, in a new folder. LabError with mmdebstrap's last words, all in `log`."""
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"),
        *('--aptopt=Acquire::Retries "3"', suite, str(tree)),
    ]
    with log.open("w") as output:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=1200, check=False
        )
    if done.returncode != 0:
        tail = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise LabError(f"mmdebstrap could not build a {suite} tree: {tail} (all of it: {log})")


def _in_use(tree: Path) -> bool:
    """Whether a node of any lab is mounted on this tree: they note their tree beside their overlay."""
    return any(note.read_text() == str(tree) for note in machine.state_dir().parent.glob("*/nodes/*/tree"))


def packages(suite: str) -> Path:
    """Where downloaded .deb files of a suite are kept between nodes and runs."""
    directory = machine.cache_dir() / "apt" / suite
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def lend_packages(suite: str, archives: Path) -> None:
    """Hard-link the cached .deb files into a node's own apt cache: no shared lock, no proxy, no time."""
    archives.mkdir(parents=True, exist_ok=True)
    for deb in packages(suite).glob("*.deb"):
        try:
            os.link(deb, archives / deb.name)
        except OSError:  # another file system
            shutil.copy2(deb, archives / deb.name)


def keep_packages(suite: str, archives: Path) -> None:
    """Take over what a node has downloaded."""
    cache = packages(suite)
    for deb in archives.glob("*.deb"):
        kept = cache / deb.name
        if not kept.exists():
            partial = kept.with_suffix(f".{os.getpid()}")  # another lab may be keeping it just now
            shutil.copy2(deb, partial)
            partial.rename(kept)
