"""What a file says for an address, and what is refused; no node."""

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.network import DHCPCD, NETPLAN, NETWORKD, NETWORKMANAGER, Interface, parse, unescape
from operations.primitives.address_file import (
    BEGIN,
    END,
    AddressError,
    Change,
    Wanted,
    change,
    dhcpcd_file,
    settled,
    wanted,
    without_block,
)

WANT = wanted("192.168.86.19/24", "192.168.86.1", ["192.168.86.1", "9.9.9.9"])


def interface(**differs: Any) -> Interface:
    """A node on its lease, as DefaultInterface finds it."""
    found: Interface = {
        "interface": "host0",
        "wireless": False,
        "manager": "NetworkManager",
        "netplan": None,
        "connection": {"uuid": "0c0c0675", "name": "Wired connection 1", "file": "/run/NetworkManager/x"},
        "addresses": [{"address": "192.168.86.132/24", "dynamic": True}],
        "gateway": "192.168.86.1",
        "files": {DHCPCD: {"mode": "644", "owner": "root", "sha256": "5c0e"}},
        "guard_enabled": False,
        "dhcpcd_conf": "",
        "definitions": {},
        "pending": None,
    }
    found.update(differs)  # type: ignore[typeddict-item]
    return found


def moved(target: Change, **differs: Any) -> Interface:
    """The same node once `target` is in effect."""
    there = {
        "files": {target.path: {"mode": target.mode, "owner": "root", "sha256": target.sha256}},
        "addresses": [{"address": "192.168.86.19/24", "dynamic": False}],
        "connection": {"uuid": "1", "name": "okome-lan", "file": NETWORKMANAGER},
    }
    return interface(**there | differs)


def test_networkmanager_is_not_in_charge_of_what_it_leaves_unmanaged() -> None:
    running = ["::interface", "eth0", "::networkmanager", "10 (unmanaged)", ""]
    networkd = [
        "::networkd",
        '"AdministrativeState":"configured"',
        '"NetworkFile":"/etc/systemd/network/10.network"',
    ]
    assert parse(running)["manager"] is None
    assert parse([*running, *networkd])["manager"] == "systemd-networkd"


def test_a_link_local_address_is_no_address_of_the_node() -> None:
    one = {"local": "169.254.7.7", "prefixlen": 16, "scope": "link"}
    assert parse(["::interface", "eth0", "::address", json.dumps([{"addr_info": [one]}])])["addresses"] == []


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("0c0c:802-3-ethernet:host0", ["0c0c", "802-3-ethernet", "host0"]),
        (r"0c0c:a\:b\\c:d", ["0c0c", r"a:b\c", "d"]),
        ("0c0c::", ["0c0c", "", ""]),
    ],
)
def test_fields_of_nmcli(text: str, fields: list[str]) -> None:
    assert unescape(text)[: len(fields)] == fields


@pytest.mark.parametrize(
    ("address", "gateway", "dns", "says"),
    [
        ("192.168.86.19", "192.168.86.1", [], "'192.168.86.19' has no prefix length"),
        ("192.168.86.300/24", "192.168.86.1", [], "malformed address: .*192.168.86.300"),
        ("192.168.86.19/33", "192.168.86.1", [], "malformed address: .*33"),
        ("fe80::1/64", "192.168.86.1", [], "malformed address: .*fe80::1"),
        ("192.168.86.19/24", "gateway", [], "malformed address: .*gateway"),
        ("192.168.86.19/24", "192.168.86.1", ["one.one"], "malformed address: .*one.one"),
        ("192.168.86.19/24", "192.168.87.1", [], "gateway 192.168.87.1 is not in 192.168.86.0/24"),
        ("192.168.86.19/24", "192.168.86.19", [], "address and the gateway are both 192.168.86.19"),
        ("192.168.86.0/24", "192.168.86.1", [], "192.168.86.0 is the network address"),
        ("192.168.86.255/24", "192.168.86.1", [], "192.168.86.255 is the broadcast address"),
        ("192.168.86.19/24", "192.168.86.255", [], "192.168.86.255 is the broadcast address"),
        ("127.0.0.1/8", "127.0.0.2", [], "127.0.0.1 is not an address"),
        ("224.0.0.5/24", "224.0.0.1", [], "224.0.0.5 is not an address"),
    ],
)
def test_bad_input_is_one_sentence(address: str, gateway: str, dns: list[str], says: str) -> None:
    with pytest.raises(AddressError, match=says) as raised:
        wanted(address, gateway, dns)
    assert "\n" not in str(raised.value)


def test_a_point_to_point_network_has_no_special_addresses() -> None:
    assert wanted("10.0.0.0/31", "10.0.0.1", []).gateway == ipaddress.IPv4Address("10.0.0.1")


@pytest.mark.parametrize(
    ("found", "path", "mode", "connection"),
    [
        (interface(), NETWORKMANAGER, "600", "okome-lan"),
        (interface(netplan="wired"), NETPLAN, "600", "0c0c0675"),
        (
            interface(manager="systemd-networkd", netplan="host0", connection=None),
            NETPLAN,
            "600",
            None,
        ),
        (interface(manager="systemd-networkd", connection=None), NETWORKD, "644", None),
        (interface(manager="dhcpcd", connection=None), DHCPCD, "644", None),
    ],
)
def test_each_manager_has_its_file(found: Interface, path: str, mode: str, connection: str | None) -> None:
    target = change(found, WANT)
    assert (target.path, target.mode, target.connection) == (path, mode, connection)
    text = target.content.decode()
    assert text.startswith("# Managed by the okome repository")
    for value in ("192.168.86.19/24", "192.168.86.1", "9.9.9.9"):
        assert value in text


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (interface(manager="ifupdown", connection=None), "host0 is configured by ifupdown"),
        (interface(manager=None, connection=None), "no known network manager is in charge of host0"),
        (interface(interface=None), "no interface has a default route"),
        (interface(wireless=True), "host0 is wireless"),
        (
            interface(netplan="wired", definitions={"/etc/netplan/50.yaml": ["addresses", "dhcp4"]}),
            "/etc/netplan/50.yaml already sets addresses for wired",
        ),
        (
            interface(netplan="wired", definitions={"/etc/netplan/50.yaml": ["dhcp4", "routes"]}),
            "/etc/netplan/50.yaml already sets routes for wired",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(found: Interface, says: str) -> None:
    with pytest.raises(AddressError, match=says) as raised:
        change(found, WANT)
    assert "\n" not in str(raised.value)


TARGET = change(interface(), WANT)


def test_settled_when_all_of_it_is_there() -> None:
    assert settled(moved(TARGET), WANT, TARGET)
    # The VIP that keepalived adds is no leftover of a lease.
    vip = [*moved(TARGET)["addresses"], {"address": "192.168.86.21/32", "dynamic": False}]
    assert settled(moved(TARGET, addresses=vip), WANT, TARGET)


@pytest.mark.parametrize(
    "differs",
    [
        {"files": {}},
        {"files": {NETWORKMANAGER: {"mode": "600", "owner": "root", "sha256": "else"}}},
        {"files": {NETWORKMANAGER: {"mode": "644", "owner": "root", "sha256": TARGET.sha256}}},
        {"files": {NETWORKMANAGER: {"mode": "600", "owner": "ncadmin", "sha256": TARGET.sha256}}},
        {"addresses": []},
        {"addresses": [{"address": "192.168.86.19/24", "dynamic": True}]},
        {"addresses": [{"address": "192.168.86.19/16", "dynamic": False}]},
        {
            "addresses": [
                {"address": "192.168.86.19/24", "dynamic": False},
                {"address": "192.168.86.132/24", "dynamic": True},
            ]
        },
        {"gateway": "192.168.86.2"},
        {"gateway": None},
        {"pending": {"sha256": TARGET.sha256}},
        {"connection": {"uuid": "0c", "name": "Wired connection 1", "file": "/run/NetworkManager/x"}},
    ],
    ids=json.dumps,
)
def test_not_settled_while_anything_differs(differs: dict[str, Any]) -> None:
    assert not settled(moved(TARGET, **differs), WANT, TARGET)


# What a human may have typed into dhcpcd.conf, our own marks in odd places included.
line = st.one_of(
    st.sampled_from(
        [BEGIN, END, "interface eth0", "static ip_address=10.0.0.2/24", "", "# a note", "nodev\r"]
    ),
    st.text(st.characters(exclude_characters="\n"), max_size=20),
)
conf = st.builds("{}{}".format, st.lists(line, max_size=12).map("\n".join), st.sampled_from(["", "\n"]))


def foreign(text: str) -> str:
    """The lines that are not ours, by a plain reading: from our first mark to our last, line by line."""
    kept, ours = [], False
    for one in text.split("\n"):
        if one == BEGIN:
            ours = True
        elif ours and one == END:
            ours = False
        elif not ours:
            kept.append(one)
    return "\n".join(kept)


@given(conf)
def test_a_second_edit_changes_nothing(text: str) -> None:
    once = dhcpcd_file(WANT, "host0", text)
    assert dhcpcd_file(WANT, "host0", once) == once


@given(conf)
def test_there_is_one_block_and_it_is_the_last(text: str) -> None:
    edited = dhcpcd_file(WANT, "host0", text)
    assert edited.split("\n").count(BEGIN) == 1
    assert edited.endswith(f"static domain_name_servers=192.168.86.1 9.9.9.9\n{END}\n")


@given(conf)
def test_what_others_wrote_stays_byte_for_byte(text: str) -> None:
    edited = dhcpcd_file(WANT, "host0", text)
    assert foreign(edited).rstrip("\n") == foreign(text).rstrip("\n")
    if BEGIN not in text.split("\n"):
        assert edited.startswith(text)


@given(st.lists(line.filter(lambda one: one not in (BEGIN, END)), max_size=12))
def test_another_address_replaces_the_block(lines: list[str]) -> None:
    other = Wanted(ipaddress.IPv4Interface("10.0.0.2/24"), ipaddress.IPv4Address("10.0.0.1"), ())
    text = "".join(f"{one}\n" for one in lines)
    assert dhcpcd_file(other, "host0", dhcpcd_file(WANT, "host0", text)) == dhcpcd_file(other, "host0", text)
    assert without_block(dhcpcd_file(WANT, "host0", text)) == text


def test_bytes_that_are_no_utf8_survive() -> None:
    text = b"# caf\xe9\n".decode(errors="surrogateescape")
    target = change(interface(manager="dhcpcd", connection=None, dhcpcd_conf=text), WANT)
    assert target.content.startswith(b"# caf\xe9\n# Managed by")
