"""What systemd says of a set of units, and with which configuration each of them was last told to run."""

import shlex
from dataclasses import dataclass, field

from facts.answer import Answer
from facts.ours import STATE

APPLIED = f"{STATE}/applied"
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,Job,NRestarts"
SETTLE_SECONDS = 90
# Shows units ($@) once none of them is on its way, as all are while a node boots; $1 seconds are waited for that.
# What has been tried again ten times is not on its way: Restart= does that for ever with what can't start.
SHOW = f"""
seconds=$1; shift
read -r up rest </proc/uptime; until=$((${{up%.*}} + seconds))
while shown=$(systemctl show --no-pager -p {PROPERTIES} -- "$@") || exit; do
    printf '%s\\n' "$shown" | awk 'BEGIN {{ RS = "" }}
        /NRestarts=[0-9][0-9]/ {{ next }}
        /(^|\\n)(Job=[0-9]|ActiveState=(activating|reloading|deactivating))/ {{ moving = 1 }}
        END {{ exit !moving }}' || break
    read -r up rest </proc/uptime; [ "${{up%.*}}" -lt "$until" ] || break
    sleep 0.5
done
printf '%s\\n' "$shown"
"""


@dataclass(frozen=True)
class UnitState:
    """One unit. `stamps`: action ("restart", "reload") → digest of the configuration it was last done for."""

    id: str  # canonical: asked for redis.service, systemd answers redis-server.service
    load: str  # loaded, not-found, masked, error …
    active: str  # active, inactive, failed, activating …
    file: str  # enabled, disabled, masked, static …; "" if there is no such unit
    need_daemon_reload: bool
    stamps: dict[str, str] = field(default_factory=dict)


def parse(names: tuple[str, ...], output: list[str]) -> dict[str, UnitState]:
    """Blocks of `systemctl show` in the order asked for, one empty line between two; then `FILE:DIGEST`
    lines of the stamps."""
    blocks: list[dict[str, str]] = [{}]
    stamps: dict[str, dict[str, str]] = {}
    for line in output:
        if line.startswith(f"{APPLIED}/"):
            file, _, digest = line.removeprefix(f"{APPLIED}/").rpartition(":")
            unit, _, action = file.rpartition(".")
            stamps.setdefault(unit, {})[action] = digest
        elif line:
            key, _, value = line.partition("=")
            blocks[-1][key] = value
        elif blocks[-1]:
            blocks.append({})
    return {
        name: UnitState(
            id=block["Id"],
            load=block["LoadState"],
            active=block["ActiveState"],
            file=block["UnitFileState"],
            need_daemon_reload=block["NeedDaemonReload"] == "yes",
            stamps=stamps.get(block["Id"], {}),
        )
        for name, block in zip(names, (block for block in blocks if block), strict=True)
    }


class UnitStates(Answer[dict[str, UnitState]]):
    """Name as asked → its state, for all units in one command, once none of them is on its way to another state.

    **Example:**

    .. code:: python

        host.get_fact(UnitStates, units=("redis-server.service", "avahi-daemon.socket"))
    """

    units: tuple[str, ...] = ()

    def command(self, units: tuple[str, ...]) -> str:
        self.units = units  # the same instance processes the answer
        quoted = " ".join(shlex.quote(unit) for unit in units)
        return f"set -- {SETTLE_SECONDS} {quoted}\n{SHOW}\n{{ grep -s -H -m 1 '' {APPLIED}/*; true; }}"

    @staticmethod
    def default() -> dict[str, UnitState]:
        return {}

    def read(self, output: list[str]) -> dict[str, UnitState]:
        return parse(self.units, output)


class FailedUnits(Answer[list[str]]):
    """The names of the units that have failed, once the boot is through (60 s are waited for that)."""

    def command(self) -> str:
        return (
            "timeout 60 systemctl is-system-running --wait >/dev/null;"
            " systemctl list-units --failed --plain --no-legend --no-pager"
        )

    def read(self, output: list[str]) -> list[str]:
        return [line.split()[0] for line in output if line]

    @staticmethod
    def default() -> list[str]:
        return []
