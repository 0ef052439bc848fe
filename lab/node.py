"""Nodes of the lab: booted Debian systems (systemd-nspawn) as bare as a new Raspberry Pi."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from group_data.all import ssh_user
from lab import LabError, machine, tree
from lab.pi import BARE, CARD, CONFIG_TXT, IMAGER, STAND_IN

BOOT_SECONDS = 300  # of a machine that is busy with something else; two or three on a quiet one
# What runs inside a node as root gets this environment and nothing of the operator's.
ENVIRONMENT = [
    "env",
    "-i",
    "--chdir=/root",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=xterm",
]

# Runs in a mount namespace of its own, so that no mount is left when it ends. The tmpfs on /run is what
# systemd-nspawn insists on for its runtime folders. nspawn exits with 133 to be started again: a reboot.
SUPERVISOR = """
# shellcheck disable=SC2086 # the kernel's command line is words of their own
overlay=$1 name=$2 cmdline=$3; shift 3
for group; do mkdir -p "$group" && echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=755 okome /run &&
mount -t overlay okome -o "$overlay" root || exit 1
while :; do
  systemd-nspawn --quiet --register=no --keep-unit --boot --directory=root --machine="$name" \
    --network-veth --network-bridge=br0 --resolv-conf=off --link-journal=no --console=pipe \
    ${cmdline:+"$cmdline"} </dev/null
  status=$?
  [ "$status" = 133 ] || exit "$status"
done
"""


@dataclass(frozen=True)
class Node:
    """One node by name; everything about it is read from its folder and from the kernel."""

    name: str

    @property
    def home(self) -> Path:
        return machine.state_dir() / "nodes" / self.name

    @classmethod
    def all(cls) -> list[Self]:
        """The nodes that exist, running or not."""
        return [cls(note.parent.name) for note in sorted(machine.state_dir().glob("nodes/*/node.json"))]

    @property
    def exists(self) -> bool:
        return (self.home / "node.json").exists()

    @property
    def made_as(self) -> dict[str, str]:
        """The suite and the manager it was made with."""
        made: dict[str, str] = json.loads((self.home / "node.json").read_text())
        return made

    @property
    def sources(self) -> Path:
        """Its base tree's sources.list."""
        return Path((self.home / "tree").read_text(), "etc/apt/sources.list")

    @property
    def cmdline(self) -> str:
        """What its boot loader hands on."""
        return (self.home / "cmdline").read_text()

    @property
    def label(self) -> str:
        return f"okome-{machine.name()}-{self.name}"

    # -- its processes

    @property
    def supervisor(self) -> int | None:
        """The process that keeps the node running, or None."""
        try:
            pid, started = (self.home / "supervisor").read_text().split()
            return int(pid) if _started(int(pid)) == started and not machine.ended(int(pid)) else None
        except (FileNotFoundError, ProcessLookupError):
            return None

    @property
    def leader(self) -> int | None:
        """The node's process 1, as the machine numbers it; None while it is off or between two boots."""
        if (supervisor := self.supervisor) is None:
            return None
        for nspawn in _children(supervisor):
            for child in _children(nspawn):
                if _innermost_pid(child) == 1:
                    return child
        return None

    def create(self, suite: str, manager: str, public_key: str) -> None:
        """A new bare node: an overlay on the suite's base tree. Whatever was there before is gone."""
        imager = manager == "imager"
        if imager and suite != "trixie":
            raise LabError("Raspberry Pi Imager leaves a node like that on trixie: --suite trixie.")
        base = tree.base(suite, "cloud-init" if imager else "")
        self.destroy()
        for directory in ("upper", "work", "root"):
            (self.home / directory).mkdir(parents=True)
        (self.home / "tree").write_text(str(base))
        instance = f"rpi-imager-{time.time_ns() // 10**6}"
        (self.home / "cmdline").write_text(f"ds=nocloud;i={instance}" if imager else "")
        tree.lend_packages(suite, self.home / "upper/var/cache/apt/archives")
        script = 'mount -t overlay okome -o "$1" root && shift && exec chroot root sh -c "$@"'
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            self._overlay,
            CARD + (IMAGER if imager else BARE),
            "sh",
            manager,
            public_key,
            ssh_user,
            instance,
            *(CONFIG_TXT, STAND_IN),
        ]
        done = subprocess.run(
            command,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(self.home)
            raise LabError(f"{self.name} could not be made: {done.stderr.strip()}")
        (self.home / "node.json").write_text(json.dumps({"suite": suite, "manager": manager}))

    @property
    def _overlay(self) -> str:
        lower = (self.home / "tree").read_text()
        return f"lowerdir={lower},upperdir={self.home}/upper,workdir={self.home}/work"

    def start(self) -> None:
        """Power on. Returns at once; `wait_for_ssh` waits for the boot."""
        if self.supervisor is not None:
            return
        machine.remove_cgroups(self.label)
        # The kernel takes a dead node's link away in its own time, and the next one wants the name.
        machine.run(["ip", "-n", machine.namespace(), "link", "del", f"vb-{self.name}"], check=False)
        scope, groups = [], machine.cgroups(self.label)
        if machine.systemd_booted():
            scope = [
                "systemd-run",
                "--scope",
                "--quiet",
                "--collect",
                "--property=Delegate=yes",
                f"--unit={self.label}",
            ]
            groups = []
        command = [
            *scope,
            *machine.in_lan("unshare", "--mount", "sh", "-c", SUPERVISOR, "sh", self._overlay, self.name),
            self.cmdline,
            *map(str, groups),
        ]
        with (self.home / "console.log").open("a") as console:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        (self.home / "supervisor").write_text(f"{process.pid} {_started(process.pid)}")
        process.returncode = 0  # it outlives us on purpose; no warning that it still runs

    def cut(self) -> None:
        """A power loss: every process of the node is gone at once, nothing is told.

        What a node wrote without fsync survives here, since the machine's page cache does; on a real
        card it may not.
        """
        supervisor = self.supervisor
        for pid in (supervisor, self.leader):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._wait_for_end(supervisor, 60)

    def off(self) -> None:
        """A clean shutdown; after three minutes without an end, a power cut."""
        supervisor = self.supervisor
        if supervisor is None:
            return
        if (leader := self.leader) is not None:
            os.kill(leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        try:
            self._wait_for_end(supervisor, 180)
        except LabError:
            self.cut()

    def reboot(self) -> None:
        """A clean reboot, until SSH answers again."""
        before = self.leader
        if before is None:
            raise LabError(f"{self.name} is off.")
        os.kill(before, signal.SIGRTMIN + 5)  # systemd(1): start reboot.target
        deadline = time.monotonic() + BOOT_SECONDS
        while self.leader in (None, before):
            if time.monotonic() > deadline or self.supervisor is None:
                raise LabError(f"{self.name} did not reboot; its console: {self.home / 'console.log'}")
            time.sleep(0.05)

    def _wait_for_end(self, supervisor: int | None, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        groups = machine.cgroups(self.label)
        while (supervisor and not machine.ended(supervisor)) or any(map(_members, groups)):
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} did not stop within {seconds:.0f} s.")
            time.sleep(0.02)
        (self.home / "supervisor").unlink(missing_ok=True)
        machine.remove_cgroups(self.label)

    def destroy(self) -> None:
        """Power cut, keep its downloads for the next node, remove its disk."""
        for group in machine.cgroups(self.label):  # also what a lost supervisor left running
            for pid in _members(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.cut()
        if self.exists:
            tree.keep_packages(self.made_as["suite"], self.home / "upper/var/cache/apt/archives")
        shutil.rmtree(self.home, ignore_errors=True)

    # -- what can be asked of it

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` as root inside the node: its root, who may do less than the machine's.
        There is one clock, say, and the node has no say in it."""
        if (leader := self.leader) is None:
            raise LabError(f"{self.name} is off: python -m lab power {self.name} on")
        dropped = ",".join(
            f"-cap_{number}" for number in _lacking(Path(f"/proc/{leader}/status").read_text())
        )
        as_root = [f"--bounding-set={dropped}", f"--inh-caps={dropped}"] if dropped else []
        return ["nsenter", f"--target={leader}", "--all", "setpriv", *as_root, *ENVIRONMENT, *command]

    def addresses(self) -> list[str]:
        """Its IPv4 addresses on the LAN, as `a.b.c.d`, in the kernel's order."""
        if (leader := self.leader) is None:
            return []
        try:
            links = json.loads(
                machine.run(
                    [
                        "nsenter",
                        f"--target={leader}",
                        "--net",
                        "ip",
                        "-json",
                        "-4",
                        "addr",
                        "show",
                        "scope",
                        "global",
                    ]
                )
            )
        except LabError:  # it went down while we asked
            return []
        # iproute2 says {} of an address that it was not asked for
        return [entry["local"] for link in links for entry in link.get("addr_info", []) if entry]

    def ssh_address(self) -> str | None:
        """Where SSH answers now, or None."""
        for address in self.addresses():
            scan = machine.in_lan("ssh-keyscan", "-T", "2", "-t", "ed25519", address)
            if machine.run(scan, check=False).strip():
                return address
        return None

    def wait_for_ssh(self, seconds: float = BOOT_SECONDS) -> str:
        """Wait until SSH answers, and say where."""
        deadline = time.monotonic() + seconds
        while (address := self.ssh_address()) is None:
            if self.supervisor is None:
                raise LabError(f"{self.name} stopped while booting; its console: {self.home / 'console.log'}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: SSH does not answer after {seconds:.0f} s.")
            time.sleep(0.1)
        return address

    def status(self) -> dict[str, object]:
        """What `python -m lab status` says of it."""
        running = self.leader is not None
        return {
            "state": "running" if running else "off",
            "address": self.ssh_address() if running else None,
            "addresses": self.addresses(),
            **self.made_as,
        }


def run_in(node: Node, command: Sequence[str]) -> int:
    """Run a command as root in a node, on this terminal; its exit status."""
    return subprocess.run(node.command(*command), check=False).returncode


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _lacking(status: str) -> list[int]:
    """The numbers of the capabilities that /proc/PID/status does not list as bounds, of those the kernel knows."""
    bounds = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return [number for number in range(last + 1) if not bounds >> number & 1]


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot: with its number, its identity."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _innermost_pid(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:") and len(line.split()) > 2:
                return int(line.split()[-1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _members(group: Path) -> list[int]:
    """Every process in a cgroup and below it."""
    pids: list[int] = []
    for procs in group.rglob("cgroup.procs"):
        with contextlib.suppress(FileNotFoundError, OSError):
            pids += [int(pid) for pid in procs.read_text().split()]
    return pids
