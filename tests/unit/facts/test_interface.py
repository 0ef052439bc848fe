"""How the answers about the interface to the LAN are read; tests/unit/facts/fixtures has whole ones, of nodes."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facts.interface import (
    NETWORKMANAGER,
    Connection,
    Profile,
    parse,
    parse_networkd,
    parse_networkmanager,
    parse_others,
    parse_rivals,
    parse_units,
    unescape,
)
from facts.interface_question import NETPLAN_PROGRAM, SETTLE_SECONDS, command
from facts.sections import sections


def test_the_question_names_the_interface_that_is_meant() -> None:
    assert "\ninterface='a b'\n" in command("a b")
    assert "\ninterface=''\n" in command("")


# A node by what its programs print: each time the next file of 1, 2, 3, the last one for ever.
PROGRAM = """#!/bin/sh
case ${0##*/} in
    systemctl)
        test "$1" = show || exit 1
        echo >>asked
        for file in 1 2 3; do
            if test -e $file; then cat $file; test $file = 3 || rm $file; exit; fi
        done ;;
    ip) cat addresses ;;
    *) cat "${0##*/}.says" ;;
esac
"""
MANAGER = "Id=NetworkManager.service\nActiveState=active\nUnitFileState=enabled\nJob=\n"
NETWORKD = MANAGER.replace("NetworkManager", "systemd-networkd")


def asked(
    folder: Path,
    units: str,
    addresses: str = "inet",
    nmcli: str = "100 (connected)",
    networkctl: str = "",
    seconds: int = 1000,
) -> int:
    """How often the node's own interface `lo` (which has a carrier) is asked about."""
    for name in ("systemctl", "nmcli", "networkctl", "ip"):
        (folder / name).write_text(PROGRAM)
        (folder / name).chmod(0o755)
    settled = "Id=dbus.service\nActiveState=active\nJob=\n" if seconds else units
    for name, text in {"1": units, "2": units, "3": settled, "addresses": addresses,
                       "nmcli.says": nmcli, "networkctl.says": networkctl}.items():  # fmt: skip
        (folder / name).write_text(text)
    script = command("lo").replace(f"+ {SETTLE_SECONDS}))", f"+ {seconds}))")
    done = subprocess.run(
        ["sh", "-c", f"sleep() {{ :; }}\n{script}"], cwd=folder, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert "::units" in done.stdout
    return len((folder / "asked").read_text().splitlines())


@pytest.mark.parametrize(
    ("times", "node"),
    [
        (1, {"units": MANAGER}),
        (1, {"units": MANAGER.replace("=active", "=failed"), "nmcli": ""}),
        (1, {"units": NETWORKD, "networkctl": '"AdministrativeState":"unmanaged"'}),
        (3, {"units": MANAGER.replace("Job=", "Job=7")}),
        (3, {"units": MANAGER.replace("=active", "=activating")}),
        (3, {"units": f"Id=dbus.service\nActiveState=inactive\nJob=12\n\n{MANAGER}"}),
        (3, {"units": MANAGER, "nmcli": ""}),
        (3, {"units": NETWORKD}),
        # Not for ever.
        (1, {"units": MANAGER.replace("Job=", "Job=7"), "seconds": 0}),
        (1, {"units": MANAGER, "addresses": "", "seconds": 0}),
    ],
)
def test_a_manager_that_is_on_its_way_is_waited_for(tmp_path: Path, times: int, node: dict[str, Any]) -> None:
    assert asked(tmp_path, **node) == times


def test_sections_are_what_stands_below_their_heads() -> None:
    output = ["no head yet", "::a", "one", "", "two", "::empty", "::a", "three"]
    assert sections(output) == {"a": ["one", "two", "three"], "empty": []}


def test_networkmanager_is_not_in_charge_of_what_it_leaves_unmanaged() -> None:
    running = ["::interface", "eth0", "::networkmanager", "10 (unmanaged)", ""]
    networkd = [
        "::networkd",
        '"AdministrativeState":"configured"',
        '"NetworkFile":"/etc/systemd/network/10.network"',
    ]
    assert parse(running)["manager"] is None
    assert parse([*running, *networkd])["manager"] == "systemd-networkd"
    assert (
        parse(["::interface", "eth0", "::networkmanager", "20 (unavailable)"])["manager"] == "NetworkManager"
    )


WIRED = Connection(uuid="0b0b", file="/run/wired.nmconnection", name="wired")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ([], (False, None)),
        (["10 (unmanaged)"], (False, None)),
        (["10 (unmanaged)", "0b0b"], (False, WIRED)),
        (["100 (connected)", "0b0b"], (True, WIRED)),
        (["100 (connected)", "0d0d"], (True, None)),
    ],
)
def test_the_connection_is_the_one_that_the_device_names(
    device: list[str], expected: tuple[bool, Connection | None]
) -> None:
    connections = ["0a0a:/run/lo.nmconnection:lo", "0b0b:/run/wired.nmconnection:wired"]
    assert parse_networkmanager(device, connections) == expected


def test_ifupdown_is_in_charge_of_what_nobody_else_manages() -> None:
    nobody = ["::interface", "eth0", "::networkd", "::ifupdown"]
    assert parse(nobody)["manager"] == "ifupdown"
    assert parse([*nobody, "::networkmanager", "100 (connected)"])["manager"] == "NetworkManager"


def test_netplan_is_behind_what_is_in_charge_or_not_at_all() -> None:
    networkd = [
        "::networkd",
        '"AdministrativeState":"configured"',
        '"NetworkFile":"/run/systemd/network/10-netplan-lan.network"',
    ]
    assert parse(["::interface", "eth0", *networkd])["netplan"] == "lan"
    managed = ["::interface", "eth0", "::networkmanager", "30 (disconnected)", ""]
    assert parse([*managed, *networkd])["netplan"] is None


def test_netplans_files_in_netplans_order_as_they_are_after_a_boot(tmp_path: Path) -> None:
    there = ("lib/50-a", "lib/70-c", "etc/60-b", "etc/50-a", "run/50-a", "run/90-okome", "etc/90-okome")
    for name in there:
        file = tmp_path / name.replace("/", "/netplan/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".yaml").write_text(
            "network: {ethernets: {wired: {dhcp4: true, auth: {password: p}}}}"
        )
    program = NETPLAN_PROGRAM
    for folder in ("lib", "etc", "run"):
        program = program.replace(f'"/{folder}"', f'"{tmp_path}/{folder}"')
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line.replace(str(tmp_path), "")) for line in told.splitlines()]
    assert [path for path, *_ in lines] == [
        f"/{folder}/netplan/{name}.yaml"
        for folder, name in (
            ("etc", "50-a"), ("run", "50-a"), ("etc", "60-b"), ("lib", "70-c"),
            ("etc", "90-okome"), ("run", "90-okome"),
        )
    ]  # fmt: skip
    assert lines[0][1:] == ["wired", {"auth": None, "dhcp4": True}]


def test_what_a_file_of_netplan_says_for_all_is_told_too(tmp_path: Path) -> None:
    file = tmp_path / "etc/netplan/99-z.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("network: {version: 2, renderer: networkd, ethernets: {a: {match: {name: eth0}}}}")
    program = (
        NETPLAN_PROGRAM.replace('"/etc"', f'"{tmp_path}/etc"')
        .replace('"/lib"', '"/x"')
        .replace('"/run"', '"/x"')
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert list(map(json.loads, told.splitlines())) == [
        [str(file), None, {"renderer": "networkd"}],
        [str(file), "a", {"match": {"name": "eth0"}}],
    ]


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({}, False),
        ({"match": {"name": "host*"}}, True),
        ({"match": {"name": "eth*"}}, False),
        ({"match": {"macaddress": "02:00:00:00:00:AB"}}, True),
        ({"match": {"macaddress": "02:00:00:00:00:0c", "name": "host0"}}, False),
        ({"match": {"driver": "bcmgenet"}}, False),
    ],
)
def test_another_definition_of_netplans_fits_by_its_match(settings: dict[str, object], fits: bool) -> None:
    lines: list[tuple[str, str | None, dict[str, Any]]] = [("/etc/netplan/60.yaml", "other", settings)]
    assert bool(parse_others(lines, "wired", "host0", "02:00:00:00:00:ab")) is fits


def test_of_another_definition_the_last_renderer_counts_and_its_own_before_that_for_all() -> None:
    def found(
        *lines: tuple[str, str | None, dict[str, Any]], own: str | None = "wired"
    ) -> list[tuple[str, str]]:
        return [(one["path"], one["renderer"]) for one in parse_others(list(lines), own, "host0", None)]

    here: tuple[str, str | None, dict[str, Any]] = ("/a", "host0", {})
    assert found(here) == [("/a", "networkd")]
    assert found(
        ("/a", None, {"renderer": "networkd"}), here, ("/b", None, {"renderer": "NetworkManager"})
    ) == [("/a", "NetworkManager")]
    assert found(("/a", "host0", {"renderer": "networkd"}), ("/b", None, {"renderer": "NetworkManager"}),
                 ("/b", "host0", {"mtu": None})) == [("/b", "networkd")]  # fmt: skip
    assert found(("/run/netplan/a", "host0", {})) == []
    assert found(("/run/netplan/a", "host0", {}), here) == [("/a", "networkd")]
    assert [one["id"] for one in parse_others([here], "wired", "host0", None)] == ["host0"]
    assert found(here, own="host0") == []


def test_another_definition_fits_by_the_address_of_the_interface() -> None:
    link = json.dumps([{"address": "02:00:00:00:00:ab"}])
    for last, there in (("ab", 1), ("ac", 0)):
        other = ["/etc/netplan/60.yaml", "other", {"match": {"macaddress": f"02:00:00:00:00:{last}"}}]
        said = parse(["::interface", "eth0", "::link", link, "::netplan", json.dumps(other)])
        assert len(said["others"]) == there


def test_what_netplan_has_for_a_manager_that_may_not_start_is_nobodys() -> None:
    units = ["Id=systemd-networkd.service", "ActiveState=inactive", "UnitFileState="]
    other = json.dumps(["/etc/netplan/60.yaml", "eth0", {}])
    for state, there in (("disabled", 1), ("masked", 0), ("masked-runtime", 0)):
        said = parse(["::interface", "eth0", "::units", *units[:2], units[2] + state, "::netplan", other])
        assert len(said["others"]) == there


@pytest.mark.parametrize(
    ("state", "in_charge"),
    [("configured", True), ("configuring", True), ("failed", True), ("unmanaged", False), ("linger", False)],
)
def test_networkd_is_in_charge_also_while_it_configures_and_where_it_failed(
    state: str, in_charge: bool
) -> None:
    lines = [f'"AdministrativeState":"{state}"', '"NetworkFile":"/etc/systemd/network/10.network"']
    assert parse_networkd(lines) == ("/etc/systemd/network/10.network" if in_charge else None)


def test_a_file_of_networkd_may_have_colons_in_its_name() -> None:
    lines = ['"AdministrativeState":"configured"', '"NetworkFile":"/etc/systemd/network/10-a:b:c.network"']
    assert parse_networkd(lines) == "/etc/systemd/network/10-a:b:c.network"


def test_without_an_address_ip_prints_an_empty_object() -> None:
    assert parse(["::interface", "eth0", "::address", "[{}]"])["addresses"] == []


def test_a_link_local_address_is_no_address_of_the_node() -> None:
    one = {"local": "169.254.7.7", "prefixlen": 16, "scope": "link"}
    assert parse(["::interface", "eth0", "::address", json.dumps([{"addr_info": [one]}])])["addresses"] == []


def test_the_gateway_is_the_interfaces_own() -> None:
    routes = [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth1", "metric": 1},
        {"dst": "default", "gateway": "192.168.86.1", "dev": "eth0", "metric": 100},
    ]
    said = ["::route", json.dumps(routes)]
    assert parse(["::interface", "eth0", *said])["gateway"] == "192.168.86.1"
    assert parse(["::interface", "eth1", *said])["gateway"] == "10.0.0.1"
    assert parse(["::interface", "eth2", *said])["gateway"] is None
    # A default route without a gateway, as a tunnel has it.
    assert parse(["::interface", "eth0", "::route", '[{"dst":"default","dev":"eth0"}]'])["gateway"] is None


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


def test_rivals_are_what_networkmanager_itself_would_activate_there() -> None:
    available = [f"CONNECTIONS.AVAILABLE-CONNECTIONS[{n}]:{uuid} | x" for n, uuid in enumerate("abcd", 1)]
    profiles = [
        "a:yes:0:/run/NetworkManager/system-connections/Wired connection 1.nmconnection:Wired connection 1",
        r"b:yes:200:/etc/NetworkManager/system-connections/mine.nmconnection:mine\: it is",
        "c:no:300:/etc/NetworkManager/system-connections/by-hand.nmconnection:by hand",
        f"d:yes:999:{NETWORKMANAGER}:okome-lan",
        "e:yes:900:/etc/NetworkManager/system-connections/elsewhere.nmconnection:elsewhere",
    ]
    mine = Profile(
        name="mine: it is", file="/etc/NetworkManager/system-connections/mine.nmconnection", priority=200
    )
    assert parse_rivals(available, profiles, "a") == [mine]
    assert [rival["priority"] for rival in parse_rivals(available, profiles, None)] == [0, 200]
    # Names may hold what separates them.
    assert parse_rivals([r"CONNECTIONS.AVAILABLE-CONNECTIONS[1]:b | a\: | b"], profiles, "a") == [mine]


def test_units_in_whatever_order_systemctl_names_their_properties() -> None:
    lines = ["Id=NetworkManager.service", "ActiveState=failed", "UnitFileState=enabled"]
    others = ["ActiveState=active", "UnitFileState=disabled", "Id=dhcpcd.service"]
    expected = {"NetworkManager": ("failed", "enabled"), "dhcpcd": ("active", "disabled")}
    assert parse_units([*lines, "Id=dhcpcd.service", *others[:2]]) == expected
    assert parse_units([*lines[1:], lines[0], *others]) == expected
    assert parse(["::units", *lines])["failed"] == ["NetworkManager"]
    assert parse_units(["Id=dhcpcd.service"]) == {"dhcpcd": ("", "")}


def test_the_link_says_what_it_is() -> None:
    def of(link: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
        found = parse(["::interface", "x", "::link", json.dumps([link])])
        return found["kind"], found["master"], found["mac"]

    assert of({"address": "02:00:00:00:00:0a"}) == (None, None, "02:00:00:00:00:0a")
    assert of({"linkinfo": {"info_kind": "bridge"}}) == ("bridge", None, None)
    assert of({"master": "br0", "linkinfo": {"info_slave_kind": "bridge"}}) == (None, "br0", None)


def test_a_wireless_interface_is_said_to_be_one() -> None:
    assert parse(["::interface", "wlan0", "::wireless"])["wireless"]
    assert not parse(["::interface", "eth0"])["wireless"]


def test_drop_ins_of_our_file() -> None:
    folder = "/etc/systemd/network/00-okome-lan.network.d"
    found = parse([f"::drop-in {folder}/a.conf", f"::drop-in {folder}/b c.conf", "::drop-ins"])
    assert found["drop_ins"] == [f"{folder}/a.conf", f"{folder}/b c.conf"]


def test_how_many_lines_json_and_base64_take_means_nothing() -> None:
    def lines(name: str, value: Any) -> list[str]:
        return [f"::{name}", *json.dumps(value, indent=1).splitlines()]

    address = {"local": "10.0.0.2", "prefixlen": 24, "scope": "global"}
    found = parse(
        [
            *("::interface", "eth0"),
            *lines("link", [{"address": "02:00:00:00:00:0a"}]),
            *lines("address", [{"addr_info": [address]}]),
            *lines("route", [{"gateway": "10.0.0.1", "dev": "eth0"}]),
            *lines("pending", {"paths": ["/etc/x"]}),
            *("::dhcpcd", *base64.encodebytes(b"# long\n" * 20).decode().splitlines()),
        ]
    )
    assert found["mac"] == "02:00:00:00:00:0a"
    assert found["addresses"] == [{"address": "10.0.0.2/24", "dynamic": False}]
    assert found["gateway"] == "10.0.0.1"
    assert found["pending"] == {"paths": ["/etc/x"]}
    assert found["dhcpcd_conf"] == "# long\n" * 20
    assert parse([])["pending"] is None
