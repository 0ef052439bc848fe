"""Who owns the interface to the LAN, and what it is configured with."""

from facts.answer import Answer
from facts.interface import Interface, parse
from facts.interface_question import command


class LanInterface(Answer[Interface]):
    """
    The interface that carries this session, who is in charge of it, and what it is configured with.

    + interface: its name, where another one than the session's is meant

    Decided by who answers for the interface, in the order NetworkManager, systemd-networkd, dhcpcd, ifupdown;
    not by which services run or which files exist. Needs root: the files are not world-readable.
    """

    def command(self, interface: str = "") -> str:
        return command(interface)

    def read(self, output: list[str]) -> Interface:
        return parse(output)
