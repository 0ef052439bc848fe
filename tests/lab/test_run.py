"""The main job on a booted backend: from bare to finished, again, and through everything that interrupts it."""

import pytest

from tests.lab.conftest import Lab
from tests.lab.nmcli import only_profile
from tests.lab.runs import assert_no_change, cut_at, killed_at, undisturbed


def test_bare_node_becomes_cn01_and_stays_it(lab: Lab) -> None:
    undisturbed(lab, "cn01")
    lab.verify()
    lab("power", "cn01", "reboot")
    assert lab.address() == "192.168.86.19"
    lab.verify()
    assert_no_change(lab.deploy())


def test_site_goes_on_without_a_node_that_is_down(lab: Lab) -> None:
    undisturbed(lab, "cn01")
    lab("power", "cn00", "off", check=False)  # of another test's, if there is one
    run = lab.deploy(deploy="deploys/site.py")
    assert (run.status, run.changed) == (1, 0), run.output
    assert "[cn00] Could not connect" in run.output
    assert_no_change(lab.deploy("--limit", "backends", deploy="deploys/site.py"))


VALKEY = """
apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends valkey-server
valkey-cli set old 1 && valkey-cli save
"""
VALKEYS = "find /etc/valkey /var/lib/valkey -type f -exec sha256sum {} + | sort"


def test_trixie(lab: Lab) -> None:
    """Raspberry Pi OS with a lease by a profile of nmcli's, and a Valkey that has data: it keeps both."""
    lab.fresh(suite="trixie", manager="netplan")
    file = only_profile(lab, "ipv4.method", "auto", "ipv4.dns-search", "lan.example")
    profile = lab.execute("cat", file)
    lab.execute("sh", "-ec", VALKEY)
    address = lab.address()
    refused = lab.deploy(address=address)
    assert refused.status != 0
    assert "port 6379, which Redis needs, is taken by valkey-server (pid " in refused.output
    assert "`systemctl disable --now valkey-server.service`, or choose another redis_port" in refused.output
    assert "okome" not in lab.execute("find", "/etc", "/var/lib", "/usr/local")
    assert lab.execute("valkey-cli", "get", "old").strip() == "1"

    lab.execute("systemctl", "stop", "valkey-server")
    stopped = lab.deploy(address=address)
    assert stopped.status != 0
    assert "valkey-server.service is enabled and does not run now: at the next boot" in stopped.output
    lab.execute("systemctl", "disable", "valkey-server")
    valkeys = lab.execute("sh", "-c", VALKEYS)
    assert "/var/lib/valkey/dump.rdb" in valkeys
    first = lab.deploy(address=address)
    assert first.status == 0, first.output
    assert_no_change(lab.deploy())
    lab("power", "cn01", "reboot")
    lab.verify()
    assert_no_change(lab.deploy())
    assert lab.execute("sh", "-c", VALKEYS) == valkeys
    assert lab.execute("cat", file) == profile
    assert "search lan.example" in lab.execute("cat", "/etc/resolv.conf")


# operation that begins, seconds after that
MOMENTS = [
    ("Journal in RAM", 0.0),
    ("Starting operation: Basic setup: backend | Redis ", 1.5),  # in the middle of apt
    ("Starting operation: Basic setup: backend | Redis ", 4.0),
    ("Redis configuration", 0.0),
    ("redis-server runs", 0.0),
]


@pytest.mark.parametrize(("operation", "later"), MOMENTS)
def test_control_machine_killed(lab: Lab, operation: str, later: float) -> None:
    killed_at(lab, "cn01", operation, later)


@pytest.mark.parametrize(("operation", "later"), MOMENTS[1:4])
def test_power_cut(lab: Lab, operation: str, later: float) -> None:
    cut_at(lab, "cn01", operation, later)
