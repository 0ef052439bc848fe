"""Who configures the interface, or will at the next boot, by what the node's units and files say."""

import base64

import pytest

from facts.interface import (
    claimants,
    dhcpcd_takes,
    globs,
    networkd_matches,
    parse,
)


def said(**units: tuple[str, str]) -> list[str]:
    """NetworkManager manages eth0, and so it is with the units."""
    return [
        *("::interface", "eth0", "::networkmanager", "100 (connected)", "::units"),
        *(
            line
            for name, (active, enabled) in units.items()
            for line in (f"Id={name}.service", f"ActiveState={active}", f"UnitFileState={enabled}")
        ),
    ]


DHCPCD = base64.b64encode(b"denyinterfaces wlan0\n").decode()


@pytest.mark.parametrize(
    ("lines", "claimants"),
    [
        (said(NetworkManager=("active", "enabled"), dhcpcd=("inactive", "disabled")), ["NetworkManager"]),
        ([*said(dhcpcd=("active", "disabled")), "::dhcpcd", DHCPCD], ["NetworkManager", "dhcpcd"]),
        ([*said(dhcpcd=("inactive", "enabled")), "::dhcpcd", DHCPCD], ["NetworkManager", "dhcpcd"]),
        ([*said(dhcpcd=("failed", "enabled")), "::dhcpcd", DHCPCD], ["NetworkManager", "dhcpcd"]),
        (
            [
                *said(dhcpcd=("active", "enabled")),
                "::dhcpcd",
                base64.b64encode(b"denyinterfaces wlan0 eth*\n").decode(),
            ],
            ["NetworkManager"],
        ),
        ([*said(), "::ifupdown"], ["NetworkManager", "ifupdown"]),
        (
            [*said(**{"systemd-networkd": ("inactive", "enabled")}), "::file-of-networkd /etc/x", "[Match]"],
            ["NetworkManager", "systemd-networkd"],
        ),
        # Without a file of its own it is enabled and does nothing.
        (said(**{"systemd-networkd": ("active", "enabled")}), ["NetworkManager"]),
        (said(**{"systemd-networkd": ("inactive", "enabled")}), ["NetworkManager"]),
    ],
)
def test_all_who_configure_the_interface_or_will_at_the_next_boot(
    lines: list[str], claimants: list[str]
) -> None:
    assert parse(lines)["claimants"] == claimants


@pytest.mark.parametrize(
    ("manager", "unit", "claims"),
    [
        ("NetworkManager", ("inactive", "enabled"), True),
        ("NetworkManager", ("inactive", "disabled"), False),
        # It runs, and leaves the interface alone: so it will at the next boot.
        ("NetworkManager", ("active", "enabled"), False),
        ("dhcpcd", ("active", "enabled"), False),
        ("dhcpcd", ("inactive", "enabled"), True),
        # networking.service brings up what ifquery lists, and nothing else.
        ("ifupdown", ("inactive", "enabled"), False),
    ],
)
def test_who_will_configure_the_interface_though_nobody_does_now(
    manager: str, unit: tuple[str, str], claims: bool
) -> None:
    found = dict.fromkeys(("NetworkManager", "systemd-networkd", "dhcpcd", "ifupdown"), False)
    assert claimants(found, {manager: unit}, False, "", "eth0") == ([manager] if claims else [])


def test_a_client_that_is_no_managers_claims_the_interface_once() -> None:
    clients = [
        "dhcpcd@eth0.service - dhcpcd",
        "dhcpcd@eth0.service 7 dhcpcd",
        "dhcpcd.service 8 dhcpcd",
        "NetworkManager.service 9 dhclient",
        "- 10 udhcpc",
        "- 11 udhcpc",
    ]
    found = parse(["::interface", "eth0", "::networkmanager", "100 (connected)", "", "::clients", *clients])
    assert found["manager"] == "NetworkManager"
    assert found["claimants"] == ["NetworkManager", "dhcpcd@eth0.service", "udhcpc (pid 10)"]


def dhcpcd(conf: bytes, *units: str) -> list[str]:
    lines = ["::units", "Id=dhcpcd.service", *units] if units else []
    return ["::interface", "eth0", *lines, "::dhcpcd", base64.b64encode(conf).decode()]


def test_dhcpcd_is_in_charge_while_it_runs() -> None:
    enabled = ("ActiveState=inactive", "UnitFileState=enabled")
    assert parse(dhcpcd(b""))["manager"] == "dhcpcd"  # no unit of that name, and yet it answers
    assert parse(dhcpcd(b""))["interfaces"] == []
    stopped = parse(dhcpcd(b"", *enabled))
    assert (stopped["manager"], stopped["claimants"]) == (None, ["dhcpcd"])
    denied = parse(dhcpcd(b"denyinterfaces eth0\n", *enabled))
    assert (denied["manager"], denied["claimants"]) == (None, [])


def test_what_is_told_of_dhcpcd_and_networkd_is_told_of_the_one_in_charge() -> None:
    conf = b"# caf\xe9\nduid\n"
    network = ["::network", "[Network]", "DHCP=yes"]
    alone = parse([*dhcpcd(conf), *network])
    assert (alone["dhcpcd_conf"], alone["network"]) == ("# caf\udce9\nduid\n", "")
    managed = parse([*dhcpcd(conf), "::networkmanager", "100 (connected)"])
    assert (managed["manager"], managed["dhcpcd_conf"]) == ("NetworkManager", "")
    networkd = parse(
        [
            *dhcpcd(conf),
            *network,
            *("::networkd", '"AdministrativeState":"configured"', '"NetworkFile":"/etc/x.network"'),
        ]
    )
    assert (networkd["dhcpcd_conf"], networkd["network"]) == ("", "[Network]\nDHCP=yes")


@pytest.mark.parametrize(
    ("match", "claims"),
    [
        (["[Match]", "Name=eth0", "MACAddress=02:00:00:00:00:0a"], True),
        (["[Match]", "Name=eth1"], False),
        (["[Match]", "MACAddress=02:00:00:00:00:0b"], False),
        ([], False),
    ],
)
def test_networkd_will_configure_what_a_file_of_it_fits(match: list[str], claims: bool) -> None:
    found = parse(
        [
            *("::interface", "eth0", "::link", '[{"address":"02:00:00:00:00:0a"}]'),
            *("::units", "Id=systemd-networkd.service", "ActiveState=inactive", "UnitFileState=enabled"),
            *("::file-of-networkd /etc/systemd/network/a b.network", *match),
        ]
    )
    assert found["networks"] == [{"path": "/etc/systemd/network/a b.network", "match": match or None}]
    assert found["claimants"] == (["systemd-networkd"] if claims else [])


@pytest.mark.parametrize(
    ("conf", "takes"),
    [
        ("", True),
        ("denyinterfaces eth0", False),
        ("denyinterfaces wlan0", True),
        ("allowinterfaces wlan0 eth*", True),
        ("  allowinterfaces wlan0", False),
        ("#denyinterfaces eth0", True),
    ],
)
def test_interfaces_that_dhcpcd_leaves_alone(conf: str, takes: bool) -> None:
    assert dhcpcd_takes(conf, "eth0") is takes


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (None, False),
        (["[Match]"], True),
        (["[Match]", "Name=eth*"], True),
        (["[Match]", "Name=wl* en*"], False),
        (["[Match]", "Name=!eth0"], False),
        (["[Match]", "Name=!wlan0"], True),
        (["[Match]", "MACAddress=02:00:00:00:00:0A 02:00:00:00:00:0b"], True),
        (["[Match]", "PermanentMACAddress=02:00:00:00:00:0b"], False),
        (["[Match]", "Type=wlan"], False),
        (["[Match]", "Type=ether", "Name = eth0"], True),
        (["[Match]", "Driver=macb"], True),
    ],
)
def test_files_of_networkd_that_fit(match: list[str] | None, fits: bool) -> None:
    assert networkd_matches(match, "eth0", "02:00:00:00:00:0a") is fits


@pytest.mark.parametrize("key", ["MACAddress", "PermanentMACAddress"])
def test_a_match_by_address(key: str) -> None:
    assert networkd_matches([f"{key} = 02:00:00:00:00:0A 02:00:00:00:00:0b"], "eth0", "02:00:00:00:00:0a")
    assert not networkd_matches([f"{key}=02:00:00:00:00:0b"], "eth0", "02:00:00:00:00:0a")
    assert not networkd_matches([f"{key}=02:00:00:00:00:0b"], "eth0", None)


def test_globs_of_interfaces() -> None:
    assert globs("wlan0 eth?", "eth0")
    assert not globs("eth?", "eth10")
    assert globs("!wlan0", "eth0")
    assert not globs("!wlan0 eth0", "eth0")
