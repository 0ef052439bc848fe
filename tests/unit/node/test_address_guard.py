"""What the guard of the address does with frames; no node, no root."""

import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.interface import ADDRESS_GUARD, GUARD_UNIT, PENDING
from node import address_guard as guard

OWN, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("ee1a605a601b")
ADDRESS = "192.168.86.19"


def reply(mac: bytes, sender: str, target: str) -> bytes:
    """An ARP answer as it comes off the wire, padded to Ethernet's least frame."""
    frame = guard.arp_request(mac, sender, target)
    return frame[:20] + b"\x00\x02" + frame[22:] + b"\0" * 18


def test_a_probe_is_the_frame_of_rfc_5227() -> None:
    frame = guard.arp_request(OWN, "0.0.0.0", ADDRESS)  # noqa: S104 - a probe's sender
    assert frame.hex() == (
        "ffffffffffff" + "020000000001" + "0806"  # to everybody, ARP
        "0001" + "0800" + "06" + "04" + "0001"  # Ethernet, IPv4, a request
        "020000000001" + "00000000" + "000000000000" + "c0a85613"
    )  # fmt: skip


def test_who_answers_for_the_address_holds_it() -> None:
    assert guard.arp_holder(reply(OTHER, ADDRESS, "192.168.86.132"), OWN, ADDRESS) == "ee:1a:60:5a:60:1b"


def test_who_announces_or_probes_the_address_holds_it() -> None:
    assert guard.arp_holder(guard.arp_request(OTHER, ADDRESS, ADDRESS), OWN, ADDRESS)
    assert guard.arp_holder(guard.arp_request(OTHER, "0.0.0.0", ADDRESS), OWN, ADDRESS)  # noqa: S104


def test_who_only_asks_for_the_address_does_not_hold_it() -> None:
    assert guard.arp_holder(guard.arp_request(OTHER, "192.168.86.1", ADDRESS), OWN, ADDRESS) is None
    assert guard.arp_holder(reply(OTHER, "192.168.86.25", "192.168.86.132"), OWN, ADDRESS) is None


def test_our_own_frames_are_nobody_elses() -> None:
    assert guard.arp_holder(reply(OWN, ADDRESS, ADDRESS), OWN, ADDRESS) is None


@given(st.binary(max_size=64))
def test_no_frame_is_too_strange(frame: bytes) -> None:
    holder = guard.arp_holder(frame, OWN, ADDRESS)
    assert holder is None or socket.inet_aton(ADDRESS) in frame


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], None),
        (
            ["<info>  [1795660642.1234] device (eth0): Activation: successful"],
            "device (eth0): Activation: successful",
        ),
        (
            [
                "<warn>  [1795660642.1234] device (eth0): Activation: failed for connection 'okome-lan'",
                "<info>  [1795660643.1234] device (eth0): state change: failed -> disconnected",
                "<info>  [1795660644.1234] manager: NetworkManager state is now CONNECTED_LOCAL",
            ],
            "device (eth0): state change: failed -> disconnected",
        ),
        (
            ["eth0: Could not set address: Invalid argument", "eth0: Link UP"],
            "eth0: Could not set address: Invalid argument",
        ),
    ],
)
def test_the_last_words_of_a_network_manager(lines: list[str], words: str | None) -> None:
    assert guard.last_words(lines) == words


def test_guard_fact_and_unit_name_the_same_places() -> None:
    unit = (Path(__file__).parents[3] / "templates" / GUARD_UNIT.lstrip("/")).read_text()
    assert f"ConditionPathExists={PENDING}\n" in unit
    assert f"ExecStart={ADDRESS_GUARD} revert --boot\n" in unit
    assert str(guard.Address("address", ADDRESS_GUARD).mark) == PENDING
    # It has to come before everything that configures an interface.
    before = set(" ".join(re.findall(r"^Before=(.*)$", unit, re.MULTILINE)).split())
    assert {"network-pre.target", "NetworkManager.service", "systemd-networkd.service"} <= before
    assert {"dhcpcd.service", "networking.service"} <= before
