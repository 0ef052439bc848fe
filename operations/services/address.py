"""The address of a node, as the inventory gives it, and what of its network stands in the way of that."""

from collections.abc import Mapping
from typing import Any

from facts.interface import Interface
from facts.network import LanInterface
from facts.several import Question
from operations.primitives.address_file import AddressError, wanted
from operations.primitives.address_findings import findings as of_the_network
from operations.primitives.preflight import Look


def look(data: Mapping[str, Any]) -> Look:
    """`data` is the host's."""
    question = Question(LanInterface, {"interface": data["lan_interface"]})
    return Look((question,), lambda now: findings(now, data))


def findings(now: Interface, data: Mapping[str, Any]) -> list[str]:
    """What stands in the way, one sentence each."""
    try:
        want = wanted(f"{data['address']}/{data['lan_prefix_length']}", data["lan_gateway"], data["lan_dns"])
    except AddressError as error:
        return [str(error)]
    return of_the_network(now, want, data["lan_interface"])
