"""One line of inventory.py is one node more, and who stands elsewhere says so in inventory.py and group_data."""

from pathlib import Path

import pytest

from tests.another_place import Copy

WHERE = """
import lab.client, lab.lan, lab.orchestrator
print(lab.lan.NETWORK, lab.lan.leases(), lab.orchestrator.ADDRESS, lab.orchestrator.PORT, lab.client.FRONTEND)
"""
NODES = """
import lab.__main__, lab.demo, lab.operator
print(lab.__main__.known_nodes(), *lab.demo.NODES, *map(lab.operator.deploy, lab.demo.NODES))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_third_host_is_one_line(copy: Copy) -> None:
    copy.edit(
        "inventory.py",
        '_host("cn01", "192.168.86.19")',
        '_host("cn01", "192.168.86.19"), _host("cn02", "192.168.86.18")',
    )
    said = copy.python("-c", NODES)
    assert said.startswith("['cn00', 'cn01', 'cn02'] cn01 cn02 cn00 "), said
    assert "['pyinfra', 'inventory.py', 'deploys/cn01.py']" in said
    assert "['pyinfra', 'inventory.py', 'deploys/site.py', '--limit', 'cn02']" in said
    listed = copy.python("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/verify")
    assert "tests/verify/test_foundation.py::test_name[cn02]" in listed
    assert "tests/verify/test_backend.py" in listed
    assert listed.count("[cn02]") == listed.count("[cn01]") > 0
    asked = "import inventory, console.status as s; s.ask = lambda one: one; s.main([])"
    assert [line.split()[:2] for line in copy.python("-c", asked).splitlines()[1:]] == [
        ["cn00", "192.168.86.20"],
        ["cn01", "192.168.86.19"],
        ["cn02", "192.168.86.18"],
    ]


def test_another_network(copy: Copy) -> None:
    copy.edit("inventory.py", "192.168.86.20", "10.77.0.140")
    copy.edit("inventory.py", "192.168.86.19", "10.77.0.7")
    copy.edit("group_data/all.py", "192.168.86.1", "10.77.0.254")
    copy.edit("group_data/frontends.py", "192.168.86.25:8000", "10.77.0.9:9000")
    assert copy.python("-c", WHERE).split("\n")[0] == (
        "10.77.0.0/24 [('10.77.0.132', '10.77.0.139'), ('10.77.0.141', '10.77.0.199')] 10.77.0.9 9000 10.77.0.140"
    )


def test_a_small_network(copy: Copy) -> None:
    copy.edit("group_data/all.py", '"bits")] = 24', '"bits")] = 27')
    assert (
        "192.168.86.0/27 [('192.168.86.16', '192.168.86.18'), ('192.168.86.21', '192.168.86.24')]"
        in copy.python("-c", WHERE)
    )
