"""The address of a node, as the inventory gives it, and what of its network stands in the way of that."""

from collections.abc import Mapping
from typing import Any

from facts.network import DefaultInterface, Interface
from facts.several import Question
from operations.primitives.address_file import AddressError, change, wanted
from operations.primitives.preflight import Look


def look(data: Mapping[str, Any]) -> Look:
    """`data` is the host's."""
    return Look((Question(DefaultInterface),), lambda now: findings(now, data))


def findings(now: Interface, data: Mapping[str, Any]) -> list[str]:
    """What stands in the way, one sentence each."""
    try:
        change(
            now,
            wanted(f"{data['address']}/{data['lan_prefix_length']}", data["lan_gateway"], data["lan_dns"]),
        )
    except AddressError as error:
        return [str(error)]
    return []
