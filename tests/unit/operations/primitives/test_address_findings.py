"""What stands against a static address, and when it is there; no node."""

import json
import re
from typing import Any

import pytest

from facts.interface import NETPLAN, NETPLAN_HIDES, NETWORKD, NETWORKMANAGER, Interface
from operations.primitives.address_findings import findings, settled
from tests.unit.operations.primitives.test_address_file import TARGET, WANT, interface, moved

MINE = "/etc/NetworkManager/system-connections/mine.nmconnection"


def networkd(**differs: Any) -> Interface:
    return interface(
        **{"manager": "systemd-networkd", "claimants": ["systemd-networkd"], "connection": None} | differs
    )


def rival(priority: int) -> Interface:
    return interface(rivals=[{"name": "mine", "file": MINE, "priority": priority}])


def reads(path: str, *match: str) -> Interface:
    return networkd(networks=[{"path": path, "match": ["[Match]", *match]}])


def with_other(renderer: str, identity: str = "another", **differs: Any) -> Interface:
    return interface(
        **{"others": [{"id": identity, "path": "/etc/netplan/60.yaml", "renderer": renderer}]} | differs
    )


def in_netplan(path: str = "/etc/netplan/50.yaml", **settings: Any) -> Interface:
    return interface(netplan="wired", definitions={path: settings})


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (interface(interface=None), "no interface carries this session or a default route"),
        (interface(interface="br0", kind="bridge"), "br0 is a bridge, and .*; if the LAN is on another"),
        (interface(interface="bond0", kind="bond"), "bond0 is a bond"),
        (interface(interface="eth0.7", kind="vlan"), "eth0.7 is a vlan"),
        (interface(interface="wg0", kind="wireguard"), "wg0 is a wireguard"),
        (interface(interface="lo", kind=None), "lo is a loopback"),
        (interface(master="br0"), "host0 is a port of br0"),
        (interface(wireless=True), "host0 is wireless"),
        (
            interface(claimants=["NetworkManager", "dhcpcd"]),
            "NetworkManager and dhcpcd both configure host0, .*disable --now dhcpcd.service`",
        ),
        (
            interface(claimants=["NetworkManager", "dhcpcd@host0.service"]),
            "NetworkManager and dhcpcd@host0.service both configure host0.*disable --now dhcpcd@host0.service`",
        ),
        (
            interface(claimants=["NetworkManager", "dhcpcd", "dhclient (pid 8)"]),
            r"disable --now dhcpcd.service` and ending dhclient \(pid 8\) and what starts it\.",
        ),
        (
            interface(manager="dhcpcd", claimants=["NetworkManager", "dhcpcd"]),
            "NetworkManager and dhcpcd both .*disable --now NetworkManager.service`",
        ),
        (interface(manager="ifupdown", connection=None), "host0 is configured by ifupdown"),
        (interface(manager=None, connection=None), "no known network manager is in charge of host0"),
        (
            interface(manager=None, claimants=[], failed=["NetworkManager"]),
            "nobody manages host0, and NetworkManager has failed",
        ),
        (
            in_netplan(addresses=["192.168.86.40/24"]),
            "/etc/netplan/50.yaml already sets addresses for wired",
        ),
        (in_netplan(gateway4="192.168.86.2"), "/etc/netplan/50.yaml already sets routes for wired"),
        (
            in_netplan(routes=[{"to": "default", "via": "192.168.86.2"}]),
            "/etc/netplan/50.yaml already sets routes for wired",
        ),
        (
            in_netplan(nameservers={"addresses": ["9.9.9.9", "8.8.8.8"]}),
            "/etc/netplan/50.yaml already sets the name server 8.8.8.8 for wired",
        ),
        (
            in_netplan("/etc/netplan/99-x.yaml", dhcp4=True),
            r"reads /etc/netplan/99-x.yaml after ours \(90-okome.yaml\), and it sets dhcp4: true for wired",
        ),
        (in_netplan("/run/netplan/99-x.yaml", dhcp4="y"), "reads /run/netplan/99-x.yaml after ours"),
        (
            in_netplan("/lib/netplan/90-zero.yaml", dhcp4=True, match=None, renderer=None),
            "/lib/netplan/90-zero.yaml after ours .* sets dhcp4: true and match and renderer for wired",
        ),
        (
            with_other("networkd"),
            r"definition another \(/etc/netplan/60.yaml\) is for host0, too, and systemd-networkd takes it",
        ),
        (with_other("networkd", "zother", netplan="wired"), "definition zother .* is for host0, too"),
        (
            with_other(
                "networkd",
                "wired-b",
                netplan="wired",
                manager="systemd-networkd",
                connection=None,
                claimants=["systemd-networkd"],
            ),
            "definition wired-b .* is for host0, too",
        ),
        (
            interface(netplan="wired", drop_ins=[NETPLAN_HIDES]),
            "reads /run/netplan/90-okome.yaml instead of our file of that name",
        ),
        (
            networkd(netplan="wired", drop_ins=[NETPLAN_HIDES]),
            "reads /run/netplan/90-okome.yaml instead of our file of that name",
        ),
        (rival(999), rf"profile mine \({MINE}\) is for host0, too, .* priority 999"),
        (
            interface(profile="[connection]\n[802-1x]\n[ipv4]\nmethod=auto"),
            r"profile Wired connection 1 \(/run/NetworkManager/x\) has \[802-1x\]",
        ),
        (
            interface(profile="[bridge-port]\npriority=3\n[sriov]\ntotal-vfs=2"),
            r"has \[bridge-port\] and \[sriov\], which",
        ),
        (
            reads("/usr/lib/systemd/network/00-a.network", "Name=host*"),
            r"reads /usr/lib/systemd/network/00-a.network before ours \(00-okome-lan.network\)",
        ),
        (
            networkd(netplan="host0", networks=[{"path": "/run/x/10-a.network", "match": ["[Match]"]}]),
            r"reads /run/x/10-a.network before ours \(10-netplan-host0.network\)",
        ),
        (networkd(drop_ins=[f"{NETWORKD}.d/dhcp.conf"]), "00-okome-lan.network.d/dhcp.conf would change"),
    ],
)
def test_each_reason_is_one_sentence(found: Interface, says: str) -> None:
    (sentence,) = findings(found, WANT)
    assert re.search(says, sentence), sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_all_reasons_are_told_at_once() -> None:
    found = rival(999) | {"claimants": ["NetworkManager", "dhcpcd"], "profile": "[802-1x]"}
    assert len(findings(found, WANT)) == 3


@pytest.mark.parametrize(
    "found",
    [
        interface(),
        interface(kind=None),
        rival(998),
        networkd(),
        reads("/etc/systemd/network/00-a.network", "Name=eth*"),
        reads("/etc/systemd/network/10-lan.network", "Name=host0"),
        reads(NETWORKD, "Name=host0"),
        with_other("NetworkManager"),
        with_other("networkd", manager="systemd-networkd", connection=None, claimants=["systemd-networkd"]),
        with_other(
            "networkd",
            "wired.z",
            netplan="wired",
            manager="systemd-networkd",
            connection=None,
            claimants=["systemd-networkd"],
        ),
        in_netplan(dhcp4=True, routes=[{"to": "10.0.0.0/8", "via": "192.168.86.254"}]),
        in_netplan(addresses=["192.168.86.19/24"], routes=[{"to": "default", "via": "192.168.86.1"}]),
        in_netplan(addresses=["fd00::19/64"], nameservers={"addresses": ["9.9.9.9"]}),
        in_netplan("/etc/netplan/99-x.yaml", dhcp4=False, mtu=None, optional=None),
        in_netplan("/etc/netplan/90-NM-0c.yaml", dhcp4=True, match=None, networkmanager=None, renderer=None),
        # A manager that failed and is not in charge is nobody's business here.
        interface(failed=["ifupdown"]),
        # Nothing may be what it seems.
        interface(claimants=["NetworkManager", "dhcpcd"], pending={"sha256": "5c0e"}),
        interface(profile="[connection]\nid=x\n[ethernet]\nmtu=1400\n[match]\n[.nmmeta]\nnm-generated=true"),
    ],
)
def test_no_reason(found: Interface) -> None:
    assert findings(found, WANT) == []


def test_the_operators_word_on_the_interface() -> None:
    assert findings(interface(), WANT, "host0") == []
    assert findings(interface(interface="eth7"), WANT, "eth7") == [
        "lan_interface is 'eth7', and the node has host0, lo."
    ]


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


BY_NETPLAN = "[ipv4]\nmethod=manual\naddress1=192.168.86.19/24\nroute1=0.0.0.0/0,192.168.86.1\n"
BY_NMCLI = "[ipv4]\nmethod=manual\naddress1=192.168.86.19/24,192.168.86.1\ndns=9.9.9.9;192.168.86.1;\n"
BY_NETWORKD = "[Network]\nAddress=192.168.86.19/24\n[Route]\nDestination=0.0.0.0/0\nGateway=192.168.86.1\n"


def by_somebody(**differs: Any) -> Interface:
    """A node whose netplan file, somebody else's, gives it the address."""
    profile = "/run/NetworkManager/system-connections/netplan-NM-0c.nmconnection"
    there = {
        "netplan": "NM-0c",
        "files": {},
        "profile": BY_NMCLI,
        "connection": {"uuid": "0c", "name": "lan", "file": profile},
    }
    return moved(TARGET, **there | differs)


@pytest.mark.parametrize("profile", [BY_NETPLAN, BY_NMCLI])
def test_somebody_elses_netplan_file_is_right_as_it_is(profile: str) -> None:
    assert settled(by_somebody(profile=profile), WANT, TARGET)
    overruled = {"/lib/netplan/00.yaml": {"dhcp4": True}, "/etc/netplan/50.yaml": {"dhcp4": False}}
    last = {"/etc/netplan/60.yaml": {"mtu": None}}
    assert settled(by_somebody(profile=profile, definitions=overruled | last), WANT, TARGET)


def test_so_is_one_for_systemd_networkd() -> None:
    assert settled(by_somebody(connection=None, profile="", network=BY_NETWORKD), WANT, TARGET)


@pytest.mark.parametrize(
    "differs",
    [
        {"profile": BY_NMCLI.replace("manual\n", "manual\naddress2=192.168.86.40/24\n")},
        {"profile": BY_NMCLI.replace("86.1\n", "86.2\n")},
        {"profile": BY_NMCLI.replace("9.9.9.9", "8.8.8.8")},
        {"profile": "[ipv4]\nmethod=auto"},
        {"definitions": {"/etc/netplan/50.yaml": {"dhcp4": False}, "/etc/netplan/60.yaml": {"dhcp4": True}}},
        {"definitions": {"/run/netplan/50.yaml": {}}},
        {"gateway": "192.168.86.2"},
        {"netplan": None},
        {"rivals": [{"name": "mine", "file": MINE, "priority": 0}]},
        # With a file of ours it is ours to be right.
        {"files": {NETPLAN: {"mode": "600", "owner": "root", "sha256": "else"}}},
        {"addresses": [{"address": "192.168.86.132/24", "dynamic": True}]},
    ],
    ids=json.dumps,
)
def test_somebody_elses_netplan_file_that_is_not_right(differs: dict[str, Any]) -> None:
    assert not settled(by_somebody(**differs), WANT, TARGET)
