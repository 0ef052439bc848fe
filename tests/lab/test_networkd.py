"""A backend of Debian's own kind: systemd-networkd has its address, systemd-resolved its names."""

import pytest

from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change

# LLMNR by all that may ask for it: the link, and a drop-in that sorts last.
ANNOUNCED = """
f=/etc/systemd/network/10-lan.network
printf '[Match]\\nName=host0\\n[Network]\\nDHCP=yes\\nLLMNR=yes\\nMulticastDNS=yes\\n' >$f
mkdir -p /etc/systemd/resolved.conf.d
printf '[Resolve]\\nLLMNR=yes\\n' >/etc/systemd/resolved.conf.d/zzz.conf
printf '[Resolve]\\nDNSSEC=no\\n' >/etc/systemd/resolved.conf.d/zzzz.conf
networkctl reload; networkctl reconfigure host0; systemctl restart systemd-resolved
"""


@pytest.fixture(scope="module")
def node(lab: Lab) -> Lab:
    lab.fresh(suite="trixie", manager="networkd")
    lab.execute("sh", "-ec", ANNOUNCED)
    assert "0.0.0.0:5355" in lab.execute("ss", "-Hltn")
    return lab


def test_names_are_asked_of_name_servers_alone(node: Lab) -> None:
    run = node.deploy(address=node.address())
    assert (run.status, run.errors) == (0, 0), run.output
    zzz = "/etc/systemd/resolved.conf.d/zzz.conf"
    assert f"{zzz}:2 sets LLMNR: it gives way" in run.output
    assert node.execute("cat", f"/var/lib/okome/replaced{zzz}") == "[Resolve]\nLLMNR=yes\n"
    assert "Global: no" in node.execute("resolvectl", "llmnr")
    assert "Global: no" in node.execute("resolvectl", "mdns")
    assert "DNSSEC=no" in node.execute("systemd-analyze", "cat-config", "systemd/resolved.conf")
    assert_no_change(node.deploy())
    node("power", "cn01", "reboot")
    assert_no_change(node.deploy())
    node.verify()
