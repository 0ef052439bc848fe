"""What kind of machine a node is: asked once, before anything is done to it."""

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


def parse(output: list[str]) -> MachineState:
    """`key value` lines; a key that is missing says no."""
    said = {key: value for key, _, value in (line.partition(" ") for line in output)}
    return MachineState(
        sudo=said["sudo"],
        release=said["release"],
        virtualization=said["virtualization"],
        cloud_init="cloud-init" in said,
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
            ! test -d /etc/cloud/cloud.cfg.d || echo "cloud-init yes"
        """

    def read(self, output: list[str]) -> MachineState:
        return parse(output)
