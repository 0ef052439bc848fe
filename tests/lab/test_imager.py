"""A Pi as Raspberry Pi Imager 2 leaves it: what its own cloud-init and netplan wrote at the first boot stays theirs."""

from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change


def test_a_pi_as_imager_leaves_it(lab: Lab) -> None:
    address = lab.fresh(suite="trixie", manager="imager")
    lab.execute("cloud-init", "status", "--wait")
    assert "netplan-host0" in lab.execute("nmcli", "-g", "GENERAL.CONNECTION", "device", "show", "host0")
    assert "manage_etc_hosts" in lab.execute("cat", "/etc/hosts")
    first = lab.deploy(address=address)
    assert (first.status, first.errors) == (0, 0), first.output
    assert_no_change(lab.deploy())
    lab("power", "cn01", "reboot")
    lab.execute("cloud-init", "status", "--wait")
    assert lab.execute("hostname").strip() == "CN01"
    assert_no_change(lab.deploy())
    lab.verify()
