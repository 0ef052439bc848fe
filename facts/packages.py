"""What dpkg has installed, and what apt would upgrade."""

import re
import shlex
from dataclasses import dataclass

from facts.answer import Answer

# Its modification time is when operations/primitives/packages.py last fetched the package lists. apt keeps no such
# mark: lists that have not changed keep their old dates.
FETCHED = "/var/lib/okome/lists-fetched"


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

    **Example:**

    .. code:: python

        host.get_fact(Packages, names=("redis-server",))
    """

    def command(self, names: tuple[str, ...]) -> str:
        quoted = " ".join(map(shlex.quote, names))
        return (
            f"dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\\n' {quoted} 2>/dev/null;"
            ' test -z "$(dpkg --audit)" && test -z "$(ls /var/lib/dpkg/updates)" || echo broken'
        )

    def read(self, output: list[str]) -> PackageState:
        return parse(output)

    @staticmethod
    def default() -> PackageState:
        return PackageState(frozenset(), False)


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
