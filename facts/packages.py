"""What dpkg has installed, and what apt would upgrade."""

import shlex
from dataclasses import dataclass

from pyinfra.api import FactBase

# Its modification time is when operations/packages.py last fetched the package lists. apt keeps no such
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


class Packages(FactBase[PackageState]):
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

    def process(self, output: list[str]) -> PackageState:
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


def parse_upgrade(output: list[str]) -> UpgradeState:
    """`Inst NAME …` lines of apt-get's simulation, `age SECONDS`, `reboot WHY`."""
    said = {
        key: value for key, _, value in (line.partition(" ") for line in output) if key in ("age", "reboot")
    }
    return UpgradeState(
        tuple(line.split()[1] for line in output if line.startswith("Inst ")),
        int(said["age"]) if "age" in said else None,
        said.get("reboot"),
    )


class Upgrade(FactBase[UpgradeState]):
    """What an upgrade would do; packages that are held or phased are not in it, since apt leaves them."""

    def command(self) -> str:
        # Debian's kernels leave no file that asks for a reboot; that a newer one is there is enough.
        return rf"""
            apt-get -qq -s --with-new-pkgs upgrade | grep '^Inst '
            ! test -e {FETCHED} || echo "age $(($(date +%s) - $(stat -c %Y {FETCHED})))"
            running=$(uname -r)
            newest=$(ls -d "/lib/modules/"*"-${{running##*-}}" 2>/dev/null | sort -V | tail -n 1)
            newest=${{newest##*/}}
            if test -e /run/reboot-required; then
                echo "reboot /run/reboot-required exists"
            elif ! systemd-detect-virt -q --container && test "${{newest:-$running}}" != "$running"; then
                echo "reboot the newest kernel, $newest, is not the running one"
            fi
        """

    def process(self, output: list[str]) -> UpgradeState:
        return parse_upgrade(output)

    @staticmethod
    def default() -> UpgradeState:
        return UpgradeState((), None, None)
