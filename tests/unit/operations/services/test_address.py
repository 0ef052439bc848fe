"""What the preflight says of a node's network; no node."""

from typing import Any

from operations.services.address import findings, look
from tests.unit.operations.primitives.test_address_file import interface

DATA = {
    "address": "192.168.86.19",
    "lan_prefix_length": 24,
    "lan_gateway": "192.168.86.1",
    "lan_dns": ["192.168.86.1"],
    "lan_interface": "",
}


def of(found: Any, **differs: Any) -> list[str]:
    return findings(found, DATA | differs)


def test_what_stands_in_the_way_of_the_inventorys_address() -> None:
    assert of(interface()) == []
    assert of(interface(), lan_gateway="192.168.87.1") == [
        "the gateway 192.168.87.1 is not in 192.168.86.0/24, the network of 192.168.86.19/24."
    ]
    two = of(interface(claimants=["NetworkManager", "dhcpcd"], profile="[802-1x]"))
    assert ["both configure host0" in sentence for sentence in two] == [True, False]
    assert of(interface(interface="eth7"), lan_interface="eth7") == [
        "lan_interface is 'eth7', and the node has host0, lo."
    ]


def test_the_interface_that_the_inventory_names_is_asked_for() -> None:
    (question,) = look(DATA | {"lan_interface": "eth7"}).questions
    assert question.arguments == {"interface": "eth7"}
