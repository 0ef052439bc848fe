"""What kind of machine a node is: asked once, before anything is done to it."""

import time
from typing import TypedDict

from facts.answer import Answer


class MachineState(TypedDict):
    """What Machine finds."""

    # What sudo says to one who wants to become root: "" if it lets the operator, without a password.
    sudo: str
    # The distribution as /etc/os-release names it: "debian bookworm".
    release: str
    # What systemd-detect-virt says: "none" on a Pi.
    virtualization: str
    cloud_init: bool
    # Whether systemd-resolved runs.
    resolved: bool
    # Seconds by which its clock is ahead of this machine's, and whether it is synchronised.
    ahead: float
    synchronised: bool


def parse(output: list[str], now: float) -> MachineState:
    """`key value` lines; a key that is missing says no. `now`: this machine's seconds since 1970."""
    said = {key: value for key, _, value in (line.partition(" ") for line in output)}
    return MachineState(
        sudo=said["sudo"],
        release=said["release"],
        virtualization=said["virtualization"],
        cloud_init="cloud-init" in said,
        resolved="resolved" in said,
        ahead=int(said["clock"]) - now,
        synchronised=said.get("synchronised") == "yes",
    )


class Machine(Answer[MachineState]):
    """The machine behind the connection. Ask with `_sudo=False`: it tells whether sudo would work."""

    def command(self) -> str:
        return r"""
            . /etc/os-release; echo "release $ID $VERSION_CODENAME"
            echo "virtualization $(systemd-detect-virt)"
            said=$(sudo -n true 2>&1 >/dev/null) && said= ||
                said=$(printf '%s\n' "$said" "exit status $?" | grep . | head -n 1)
            echo "sudo $said"
            echo "synchronised $(timedatectl show --property NTPSynchronized --value 2>/dev/null)"
            echo "clock $(date +%s)"
            ! test -d /etc/cloud/cloud.cfg.d || echo "cloud-init yes"
            ! systemctl -q is-active systemd-resolved || echo "resolved yes"
        """

    def read(self, output: list[str]) -> MachineState:
        return parse(output, time.time())
