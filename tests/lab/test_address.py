"""The address as a transaction, on a booted node, with every network manager.

The tests of one manager share a node, in this order: first all that must leave it at its leased address, then
the move, then what must leave it at its static one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FINAL, OTHER, NOBODY = "192.168.86.19", "192.168.86.119", "192.168.86.250"
GATEWAY = "192.168.86.1"
PENDING = "/var/lib/okome/address/pending"
PYINFRA = [sys.executable, "-m", "lab", "run", "--", "pyinfra", "inventory.py"]
# The undo's time limit in these tests: longer than the slowest manager needs to apply (dhcpcd probes for 6 s).
SECONDS = 12


def lab(*arguments: str, check: bool = True, timeout: float = 120) -> str:
    """`python -m lab …`; its output."""
    command = [sys.executable, "-m", "lab", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def wait(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until it is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


class Node:
    """cn01 in the lab."""

    def __init__(self, manager: str) -> None:
        self.manager = manager
        self.leased = self.at

    @property
    def at(self) -> str:
        """Where it answers."""
        address = json.loads(lab("status", "--json"))["nodes"]["cn01"]["address"]
        assert isinstance(address, str)
        return address

    def addresses(self) -> list[str]:
        return list(json.loads(lab("status", "--json"))["nodes"]["cn01"]["addresses"])

    def run(self, *command: str, check: bool = True) -> str:
        return lab("exec", "cn01", "--", *command, check=check)

    def state(self) -> str:
        """Everything that a change of the address may change."""
        return self.run(
            "sh", "-c",
            "ip -br -4 address | sed s/@if[0-9]*//; ip -4 route; sha256sum /etc/dhcpcd.conf; cat /etc/resolv.conf"
            "; find /etc/NetworkManager /etc/netplan /etc/systemd/network -type f | sort | xargs -r sha256sum"
            f"; ls {PENDING} 2>&1; systemctl list-units --all --no-legend 'okome-address-undo*' | wc -l",
        )  # fmt: skip

    def applied(self) -> bool:
        """Whether a change is in effect and waits for its confirmation."""
        pending = self.run("cat", PENDING, check=False)
        return bool(pending) and bool(json.loads(pending)["applied"])


def start(at: str, *options: str, **data: Any) -> subprocess.Popen[str]:
    """The deploy, as the operator runs it."""
    settings = {"ssh_hostname": at, "address": FINAL, "address_confirm_seconds": SECONDS} | data
    words = [word for key, value in settings.items() for word in ("--data", f"{key}={value}")]
    return subprocess.Popen(
        [*PYINFRA, "tests/lab/address/cn01.py", *words, *(options or ("-y", "--json"))],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def deploy(at: str, *options: str, **data: Any) -> tuple[int, str, str]:
    """The deploy's exit status, stdout and stderr."""
    process = start(at, *options, **data)
    try:
        out, err = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def changed(at: str, **data: Any) -> int:
    """How many operations of a successful deploy changed something."""
    status, out, err = deploy(at, **data)
    assert status == 0, err
    totals = json.loads(out)["results"]["totals"]
    assert totals["error"] == 0
    return int(totals["success"])


def refused(at: str, **data: Any) -> str:
    """The sentence of a deploy that has to fail."""
    status, _, err = deploy(at, **data)
    assert status != 0
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module", params=["networkmanager", "netplan", "networkd", "dhcpcd"])
def node(request: pytest.FixtureRequest) -> Node:
    lab("up", "cn01", "--fresh", "--manager", request.param)
    node = Node(request.param)
    # The lab waits for SSH, not for the last word of the manager (wait-online, IPv6).
    node.run("systemctl", "is-system-running", "--wait", check=False)
    return node


@pytest.fixture
def severed() -> Iterator[None]:
    """The operator reaches the node at its new address as little as behind a wrong switch port."""
    lab("run", "--", "ip", "route", "add", "blackhole", f"{FINAL}/32")
    yield
    lab("run", "--", "ip", "route", "del", "blackhole", f"{FINAL}/32")


@pytest.fixture
def taken() -> Iterator[str]:
    """Another machine on the LAN has the address; its MAC."""
    lab("run", "--", "ip", "address", "add", f"{FINAL}/32", "dev", "br0")
    yield json.loads(lab("run", "--", "ip", "-json", "link", "show", "br0"))[0]["address"]
    lab("run", "--", "ip", "address", "del", f"{FINAL}/32", "dev", "br0")


def test_dry_run_on_a_bare_node_changes_nothing(node: Node) -> None:
    before = node.state()
    status, _, err = deploy(node.leased, "--dry")
    assert status == 0, err
    assert "Static address" in err
    assert node.state() == before
    assert node.run("ls", "/usr/local/lib/okome", check=False) == ""


def test_an_address_in_use_is_refused(node: Node, taken: str) -> None:
    before = node.state()
    assert f"{FINAL} is in use by {taken}: nothing was changed" in refused(node.leased)
    assert node.state() == before


def test_a_wrong_gateway_leads_back_to_the_lease(node: Node) -> None:
    before = node.state()
    said = refused(node.leased, lan_gateway=NOBODY)
    assert f"{FINAL}/24 was undone: the gateway {NOBODY} does not answer" in said
    assert f"the node answers at {node.leased}" in said
    assert node.state() == before


def test_a_dead_control_machine_leads_back_to_the_lease(node: Node, severed: None) -> None:
    before = node.state()
    process = start(node.leased)
    wait("applied", node.applied)
    assert node.addresses() == [FINAL]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    wait("the undo", lambda: node.addresses() == [node.leased], SECONDS + 30)
    wait("all as it was", lambda: node.state() == before)


def test_a_power_cut_leads_back_to_the_lease(node: Node, severed: None) -> None:
    before = node.state()
    process = start(node.leased)
    wait("applied", node.applied)
    lab("power", "cn01", "cut")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    lab("power", "cn01", "on")
    assert node.at == node.leased
    wait("all as it was", lambda: node.state() == before)


def test_the_leased_address_becomes_static(node: Node) -> None:
    assert changed(node.leased, address=node.leased) == 2
    assert node.addresses() == [node.leased]
    assert changed(node.leased, address=node.leased) == 0


def test_the_run_goes_on_at_the_new_address(node: Node) -> None:
    node.run("rmdir", "/var/lib/okome/went-on")
    assert changed(node.leased) == 2
    assert node.addresses() == [FINAL]
    assert changed(FINAL) == 0


def test_it_survives_a_reboot(node: Node) -> None:
    lab("power", "cn01", "reboot")
    assert node.addresses() == [FINAL]
    assert changed(FINAL) == 0


def test_a_wrong_gateway_leads_back_to_the_right_one(node: Node) -> None:
    before = node.state()
    said = refused(FINAL, lan_gateway=NOBODY)
    assert f"the gateway {NOBODY} does not answer; the node answers at {FINAL}" in said
    assert node.state() == before
    assert changed(FINAL) == 0


def test_only_the_name_servers_change(node: Node) -> None:
    assert changed(FINAL, lan_dns=json.dumps(["192.168.86.1", "9.9.9.9"])) == 1
    assert "9.9.9.9" in node.run("cat", "/run/systemd/resolve/resolv.conf", check=False) + node.run(
        "cat", "/etc/resolv.conf"
    )
    assert changed(FINAL) == 1
    assert node.addresses() == [FINAL]
