"""What dpkg has installed, and what apt would upgrade."""

import re
import shlex
from dataclasses import dataclass

from facts.answer import Answer
from facts.ours import STATE

# Its modification time is when operations/primitives/packages.py last fetched the package lists. apt keeps no such
# mark: lists that have not changed keep their old dates.
FETCHED = f"{STATE}/lists-fetched"
# What dpkg's front ends hold as long as they are at work. DPkg::Lock::Timeout is apt's patience with it; dpkg itself
# has none.
FRONTEND = "/var/lib/dpkg/lock-frontend"
# Until nobody holds these locks: fcntl locks, which util-linux's flock does not see. Arguments: seconds, paths.
WAIT = """
import fcntl, sys, time
seconds, *paths = sys.argv[1:]
deadline = time.monotonic() + float(seconds)
for path in paths:
    with open(path, "a") as lock:
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit(f"another apt or dpkg has held {path} for {seconds} s")
            time.sleep(0.5)
"""


@dataclass(frozen=True)
class PackageState:
    """`installed`: of the packages asked for, those that are. `broken`: dpkg was interrupted half way."""

    installed: frozenset[str]
    broken: bool


def parse(output: list[str]) -> PackageState:
    """`installed NAME` and `broken` lines."""
    return PackageState(
        frozenset(line.removeprefix("installed ") for line in output if line.startswith("installed ")),
        "broken" in output,
    )


class Packages(Answer[PackageState]):
    """Which of these packages are installed, and whether dpkg's own state is whole.

    A dpkg at work looks as if it had been interrupted: so where it does, it is waited for, `seconds` at most.

    **Example:**

    .. code:: python

        host.get_fact(Packages, names=("redis-server",), seconds=300)
    """

    def command(self, names: tuple[str, ...], seconds: int) -> str:
        quoted = " ".join(map(shlex.quote, names))
        return rf"""
            whole() {{ test -z "$(dpkg --audit)" && test -z "$(ls /var/lib/dpkg/updates)"; }}
            whole || {{ python3 -c {shlex.quote(WAIT)} {seconds} {FRONTEND} 2>/dev/null; whole; }} || echo broken
            dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\n' {quoted} 2>/dev/null || true
        """

    def read(self, output: list[str]) -> PackageState:
        return parse(output)

    @staticmethod
    def default() -> PackageState:
        return PackageState(frozenset(), False)


class SourceErrors(Answer[list[str]]):
    """Why apt can install nothing: what it can't read of its sources. Not asked where all these packages are there.

    **Example:**

    .. code:: python

        host.get_fact(SourceErrors, names=("redis-server",))
    """

    def command(self, names: tuple[str, ...]) -> str:
        quoted = " ".join(map(shlex.quote, names))
        return rf"""
            there=$(dpkg-query -W -f '${{db:Status-Status}}\n' {quoted} 2>/dev/null | grep -cx installed)
            test "$there" -ge {len(names)} || apt-get -qq indextargets 2>&1 >/dev/null | grep '^E: '
            true
        """

    def read(self, output: list[str]) -> list[str]:
        """apt-get's lines with an E."""
        errors = [line.removeprefix("E: ").rstrip(".") for line in output]
        return [one for one in dict.fromkeys(errors) if one != "The list of sources could not be read"]

    @staticmethod
    def default() -> list[str]:
        return []


@dataclass(frozen=True)
class UpgradeState:
    """`upgradable`: packages apt would upgrade now. `age`: of the package lists, in seconds; None if never
    fetched. `reboot`: why the node has to be rebooted, or None."""

    upgradable: tuple[str, ...]
    age: int | None
    reboot: str | None


def kernel(release: str) -> tuple[tuple[int, ...], str] | None:
    """A kernel's version and its flavour, which is one of a line of kernels that replace each other:
    "6.1.0-25-cloud-amd64" is ((6, 1, 0, 25), "cloud-amd64"), "6.12.25+rpt-rpi-v8" ((6, 12, 25), "rpi-v8")."""
    match = re.fullmatch(r"(\d[\d.]*(?:\+[a-z]+)?(?:-\d+)?)-(\D.*)", release)
    return (tuple(map(int, re.findall(r"\d+", match[1]))), match[2]) if match else None


def newer_kernel(running: str, images: list[str]) -> str | None:
    """The newest of the kernels in /boot that is of the running one's flavour and newer than it."""
    own = kernel(running)
    others = [
        (found[0], image) for image in images if (found := kernel(image)) and own and found[1] == own[1]
    ]
    newest = max(others, default=None)
    return newest[1] if newest and own and newest[0] > own[0] else None


def parse_upgrade(output: list[str]) -> UpgradeState:
    """`Inst NAME …` lines of apt-get's simulation, `age SECONDS`, `required`, `running KERNEL`, `image KERNEL`."""
    said: dict[str, list[str]] = {}
    for line in output:
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    reboot = None
    if "required" in said:
        reboot = "/run/reboot-required exists"
    elif newer := newer_kernel(said.get("running", [""])[0], said.get("image", [])):
        reboot = f"the kernel {newer} is installed and not running"
    return UpgradeState(
        tuple(value.split()[0] for value in said.get("Inst", [])),
        int(said["age"][0]) if "age" in said else None,
        reboot,
    )


class Upgrade(Answer[UpgradeState]):
    """What an upgrade would do; packages that are held or phased are not in it, since apt leaves them."""

    def command(self) -> str:
        # Debian's kernels leave no file that asks for a reboot; that a newer one is there is enough.
        return rf"""
            apt-get -qq -s --with-new-pkgs upgrade | grep '^Inst '
            ! test -e {FETCHED} || echo "age $(($(date +%s) - $(stat -c %Y {FETCHED})))"
            ! test -e /run/reboot-required || echo required
            echo "running $(uname -r)"
            find /boot -maxdepth 1 -name 'vmlinuz-*' -printf 'image %f\n' | sed 's/ vmlinuz-/ /'
        """

    def read(self, output: list[str]) -> UpgradeState:
        return parse_upgrade(output)

    @staticmethod
    def default() -> UpgradeState:
        return UpgradeState((), None, None)
