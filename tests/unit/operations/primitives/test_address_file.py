"""What a file says for an address; no node."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.interface import DHCPCD, NETPLAN, NETWORKD, NETWORKMANAGER, Interface
from operations.primitives.address_file import (
    BEGIN,
    END,
    AddressError,
    Change,
    Wanted,
    change,
    dhcpcd_file,
    netplan_file,
    networkd_file,
    networkmanager_file,
    wanted,
    without_block,
)
from operations.primitives.managed import MANAGED

WANT = wanted("192.168.86.19/24", "192.168.86.1", ["192.168.86.1", "9.9.9.9"])


def interface(**differs: Any) -> Interface:
    """A node on its lease, as LanInterface finds it."""
    found: Interface = {
        "interface": "host0",
        "interfaces": ["host0", "lo"],
        "kind": "veth",
        "master": None,
        "mac": "02:00:00:00:00:01",
        "wireless": False,
        "manager": "NetworkManager",
        "claimants": ["NetworkManager"],
        "failed": [],
        "netplan": None,
        "profile": "",
        "rivals": [],
        "network": "",
        "networks": [],
        "drop_ins": [],
        "connection": {"uuid": "0c0c0675", "name": "Wired connection 1", "file": "/run/NetworkManager/x"},
        "addresses": [{"address": "192.168.86.132/24", "dynamic": True}],
        "gateway": "192.168.86.1",
        "files": {DHCPCD: {"mode": "644", "owner": "root", "sha256": "5c0e"}},
        "guard_enabled": False,
        "dhcpcd_conf": "",
        "definitions": {},
        "pending": None,
        "others": [],
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


TARGET = change(interface(), WANT)


def keyfile(*lines: str) -> str:
    return "\n".join(lines)


def test_networkmanager_keeps_what_is_not_about_the_address() -> None:
    before = keyfile(
        "[connection]",
        "id=mine",
        "uuid=0c0c",
        "type=ethernet",
        "autoconnect-priority=200",
        "mdns=0",
        "timestamp=1795660642",
        "[ethernet]",
        "mtu=1400",
        "[ipv4]",
        "address1=192.168.86.40/24,192.168.86.1",
        "address2=192.168.86.41/24",
        "address3=192.168.86.19/24",
        "dns=9.9.9.9;",
        "dns-search=lan.example;",
        "dhcp-hostname=pi",
        "link-local=2",
        "method=manual",
        "never-default=true",
        "route1=10.0.0.0/8,192.168.86.254",
        "route2=0.0.0.0/0,192.168.86.254",
        "[ipv6]",
        "addr-gen-mode=default",
        "method=disabled",
        "[proxy]",
        "[.nmmeta]",
        "nm-generated=true",
    )
    text = networkmanager_file(WANT, "host0", before)
    assert text == keyfile(
        MANAGED,
        "[connection]",
        "id=okome-lan",
        "type=ethernet",
        "interface-name=host0",
        "autoconnect-priority=999",
        "mdns=0",
        "",
        "[ethernet]",
        "mtu=1400",
        "",
        "[ipv4]",
        "method=manual",
        "address1=192.168.86.19/24,192.168.86.1",
        "dns=192.168.86.1;9.9.9.9;",
        "address2=192.168.86.41/24",
        "dns-search=lan.example;",
        "link-local=2",
        "route1=10.0.0.0/8,192.168.86.254",
        "",
        "[ipv6]",
        "addr-gen-mode=default",
        "method=disabled",
        "",
    )
    assert networkmanager_file(WANT, "host0", text) == text


def test_networkd_keeps_what_is_not_about_the_address() -> None:
    before = keyfile(
        "# /etc/systemd/network/10-lan.network",
        "[Match]",
        "Name=host*",
        "[Link]",
        "MTUBytes=1400",
        "[Network]",
        "DHCP=yes",
        "KeepConfiguration=dhcp",
        "LinkLocalAddressing=no",
        "Domains=lan.example",
        "DNS=9.9.9.9",
        "DNS=2620:fe::fe",
        "Address=192.168.86.40/24",
        "Address=192.168.86.41/24",
        "Address=fd00::40/64",
        "Gateway=192.168.86.254",
        "[DHCP]",
        "UseDNS=no",
        "[Route]",
        "Destination=10.0.0.0/8",
        "Gateway=192.168.86.254",
        "[Route]",
        "Gateway=192.168.86.253",
        "# /etc/systemd/network/10-lan.network.d/ipv6.conf",
        "[Network]",
        "IPv6AcceptRA=no",
    )
    text = networkd_file(WANT, "host0", before)
    assert text == keyfile(
        MANAGED,
        "[Match]",
        "Name=host0",
        "",
        "[Network]",
        "Address=192.168.86.19/24",
        "Gateway=192.168.86.1",
        "DNS=192.168.86.1",
        "DNS=9.9.9.9",
        "DHCP=ipv6",
        "LinkLocalAddressing=no",
        "Domains=lan.example",
        "DNS=2620:fe::fe",
        "Address=192.168.86.41/24",
        "Address=fd00::40/64",
        "IPv6AcceptRA=no",
        "",
        "[Link]",
        "MTUBytes=1400",
        "",
        "[Route]",
        "Destination=10.0.0.0/8",
        "Gateway=192.168.86.254",
        "",
    )
    assert networkd_file(WANT, "host0", text) == text
    section = keyfile("[Address]", "Address=192.168.86.40/24", "[Address]", "Address=192.168.86.41/24")
    assert networkd_file(WANT, "host0", section).count("192.168.86.41/24") == 1
    assert "192.168.86.40" not in networkd_file(WANT, "host0", section)


def test_a_node_that_had_ipv6_alone_keeps_it_beside_the_address() -> None:
    six = keyfile(
        "[ipv4]", "method=disabled", "[ipv6]", "address1=fd00::40/64,fd00::1", "dns=fd00::1;", "method=manual"
    )
    text = networkmanager_file(WANT, "host0", six)
    ipv4, _, ipv6 = text.partition("[ipv6]\n")
    assert "method=manual\naddress1=192.168.86.19/24" in ipv4.partition("[ipv4]\n")[2]
    assert ipv6.split() == ["address1=fd00::40/64,fd00::1", "dns=fd00::1;", "method=manual"]
    six = keyfile("[Network]", "Address=fd00::40/64", "Gateway=fd00::1", "DNS=fd00::1", "DHCP=ipv6")
    text = networkd_file(WANT, "host0", six)
    for line in ("Address=192.168.86.19/24", "Gateway=192.168.86.1", *six.splitlines()):
        assert line in text.splitlines()
    there = {"addresses": ["fd00::40/64"], "routes": [{"to": "default", "via": "fd00::1"}]}
    text = netplan_file(WANT, "wired", {"/etc/netplan/50.yaml": there}, "systemd-networkd")
    assert text == netplan_file(WANT, "wired", {}, "systemd-networkd")


def test_netplan_gets_what_its_other_files_lack() -> None:
    everything = netplan_file(WANT, "wired", {"/etc/netplan/50.yaml": {"dhcp4": True}}, "systemd-networkd")
    assert everything == keyfile(
        MANAGED,
        "network:",
        "  version: 2",
        "  ethernets:",
        '    "wired":',
        "      renderer: networkd",
        "      dhcp4: false",
        '      addresses: ["192.168.86.19/24"]',
        "      routes: [{to: default, via: 192.168.86.1}]",
        "      nameservers: {addresses: [192.168.86.1, 9.9.9.9]}",
        "",
    )
    there = {
        "addresses": ["192.168.86.19/24", {"fd00::19/64": {"lifetime": 0}}],
        "routes": [{"to": "10.0.0.0/8", "via": "192.168.86.254"}, {"to": "0.0.0.0/0", "via": "192.168.86.1"}],
        "nameservers": {"addresses": ["9.9.9.9"]},
    }
    rest = netplan_file(WANT, "wired", {"/etc/netplan/50.yaml": there}, "NetworkManager")
    assert rest.splitlines()[5:] == [
        "      renderer: NetworkManager",
        "      dhcp4: false",
        "      nameservers: {addresses: [192.168.86.1]}",
        '      networkmanager: {passthrough: {connection.autoconnect-priority: "999"}}',
    ]
    # What /run gives is gone after a boot.
    passing = interface(netplan="wired", definitions={"/run/netplan/50.yaml": there})
    assert change(passing, WANT).content == change(interface(netplan="wired"), WANT).content


# Of what a profile may hold: our own keys in odd places included.
keyfiles = st.lists(
    st.sampled_from(
        [
            "[connection]",
            "[ipv4]",
            "[ipv6]",
            "[ethernet]",
            "[Network]",
            "[Address]",
            "[Route]",
            "[Match]",
            "# a note",
            "method=auto",
            "address1=192.168.86.40/24",
            "address2=192.168.86.19/24",
            "address2=10.0.0.2/8",
            "route1=0.0.0.0/0,192.168.86.2",
            "route2=10.0.0.0/8,192.168.86.2",
            "mtu=1400",
            "id=mine",
            "Address=192.168.86.40/24",
            "Address=192.168.86.41/24",
            "Address=192.168.86.19/24",
            "Gateway=192.168.86.2",
            "Destination=10.0.0.0/8",
            "DHCP=yes",
            "DHCP=ipv4",
            "DNS=9.9.9.9",
            "LinkLocalAddressing=no",
        ]
    ),
    max_size=14,
).map("\n".join)


@given(keyfiles)
def test_rendering_our_own_file_again_yields_it(before: str) -> None:
    for render in (networkmanager_file, networkd_file):
        once = render(WANT, "host0", before)
        assert render(WANT, "host0", once) == once


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
