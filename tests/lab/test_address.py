"""The address as a transaction, on a booted node, with every network manager.

The tests of one manager share a node, in this order: first all that must leave it at its leased address, then
the move, then what starts from its static one. What no manager has a part in runs with one of them.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import AS_ROOT
from tests.lab.conftest import ENVIRONMENT, ROOT, Lab, Run, kill_group

DEPLOY = "tests/lab/address/cn01.py"
FINAL, OTHER, NOBODY = "192.168.86.19", "192.168.86.119", "192.168.86.250"
PENDING = "/var/lib/okome/address/pending"
# The undo's time limit in these tests: longer than the slowest manager needs (dhcpcd probes for 6 s).
SECONDS = 12


def wait(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until it is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def on_the_lan(*command: str) -> str:
    """`ip …` in the LAN itself, where the operator and the gateway are."""
    namespace = f"okome-{ENVIRONMENT['OKOME_LAB']}"
    return subprocess.run(
        [*AS_ROOT, "ip", "-n", namespace, *command], check=True, capture_output=True, text=True, timeout=30
    ).stdout


class Node:
    """cn01, freshly made, with one of the network managers."""

    def __init__(self, lab: Lab, manager: str) -> None:
        self.lab = lab
        self.leased = lab.fresh(manager=manager)
        # The lab waits for SSH, not for the last word of the manager.
        lab.execute("systemctl", "is-system-running", "--wait", check=False)

    def addresses(self) -> list[str]:
        return list(json.loads(self.lab("status", "--json"))["nodes"]["cn01"]["addresses"])

    def state(self) -> str:
        """Everything that a change of the address may change."""
        return self.lab.execute(
            "sh", "-c",
            "ip -br -4 address | sed s/@if[0-9]*//; ip -4 route; cat /etc/resolv.conf /etc/dhcpcd.conf"
            "; find /etc/NetworkManager /etc/netplan /etc/systemd/network -type f | sort | xargs -r sha256sum"
            f"; ls {PENDING} 2>&1; systemctl list-units --all --no-legend 'okome-address-undo*' | wc -l",
        )  # fmt: skip

    def unconfirmed(self, address: str) -> bool:
        """Whether the change is in effect and waits for its confirmation."""
        pending = self.lab.execute("sh", "-c", f"! test -e {PENDING} || cat {PENDING}")
        return bool(pending) and bool(json.loads(pending)["applied"]) and self.addresses() == [address]

    def deploy(self, at: str, *options: str, **data: Any) -> Run:
        return self.lab.deploy(*options, *words(data), deploy=DEPLOY, address=at)

    def changed(self, at: str, **data: Any) -> int:
        """How many operations of a successful deploy changed something."""
        run = self.deploy(at, **data)
        assert (run.status, run.errors) == (0, 0), run.output
        return run.changed

    def refused(self, at: str, **data: Any) -> str:
        """What a deploy that has to fail says."""
        run = self.deploy(at, **data)
        assert run.status != 0
        assert "Traceback" not in run.output
        return run.output

    @contextlib.contextmanager
    def control_machine_dies(self, at: str, address: str, seconds: int = SECONDS) -> Iterator[None]:
        """A deploy cannot reach the new address, and dies. The body runs before, with the change in effect."""
        on_the_lan("route", "add", "blackhole", f"{address}/32")
        data = words({"ssh_hostname": at, "address": address, "address_confirm_seconds": seconds})
        process = subprocess.Popen(
            self.lab.pyinfra(DEPLOY, "-y", *data),
            cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        try:
            wait("the change in effect", lambda: self.unconfirmed(address))
            yield
        finally:
            kill_group(process)
            on_the_lan("route", "del", "blackhole", f"{address}/32")


def words(data: dict[str, Any]) -> list[str]:
    """The command line's `--data`; the time limit is these tests'."""
    settings = {"address_confirm_seconds": SECONDS} | data
    return [word for key, value in settings.items() for word in ("--data", f"{key}={value}")]


@pytest.fixture(scope="module", params=["networkmanager", "netplan", "networkd", "dhcpcd"])
def node(request: pytest.FixtureRequest, lab: Lab) -> Node:
    return Node(lab, request.param)


@pytest.fixture
def taken() -> Iterator[str]:
    """Another machine on the LAN has the address; its MAC."""
    on_the_lan("address", "add", f"{FINAL}/32", "dev", "br0")
    yield json.loads(on_the_lan("-json", "link", "show", "br0"))[0]["address"]
    on_the_lan("address", "del", f"{FINAL}/32", "dev", "br0")


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_dry_run_on_a_bare_node_changes_nothing(node: Node) -> None:
    before = node.state()
    run = node.deploy(node.leased, "--dry")
    assert run.status == 0, run.output
    assert "Static address" in run.output
    assert node.state() == before
    assert not node.lab.execute("sh", "-c", "ls /usr/local/lib/okome 2>/dev/null; true")


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_an_address_in_use_is_refused(node: Node, taken: str) -> None:
    before = node.state()
    assert f"{FINAL} is in use by {taken}: nothing was changed" in node.refused(node.leased)
    assert node.state() == before


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_a_node_imaged_anew_is_told_at_once(node: Node) -> None:
    """The operator's known_hosts has the key that the address had before."""
    before = node.state()
    other = f'ssh-keygen -q -t ed25519 -N \'\' -f "$D/k" && echo "{FINAL} $(cat "$D/k.pub")" >> "$OKOME_KNOWN_HOSTS"'
    node.lab("run", "--", "sh", "-c", f'D=$(mktemp -d); {other}; rm -r "$D"')
    assert f"knows another machine at {FINAL}: nothing was changed" in node.refused(node.leased)
    assert node.state() == before
    node.lab("run", "--", "sh", "-c", f'ssh-keygen -q -f "$OKOME_KNOWN_HOSTS" -R {FINAL}')


@pytest.mark.parametrize("node", ["netplan"], indirect=True)
def test_a_broken_file_of_netplan_is_left_to_its_owner(node: Node) -> None:
    before, other = node.state(), "/etc/netplan/60-somebody.yaml"
    node.lab.execute("sh", "-c", f"umask 077; echo 'network: {{version: 2, ethernets: 7}}' > {other}")
    assert "nothing was changed: `netplan generate` failed" in node.refused(node.leased)
    node.lab.execute("rm", other)
    assert node.state() == before


@pytest.mark.parametrize("node", ["netplan"], indirect=True)
def test_addresses_in_another_file_of_netplan_are_refused(node: Node) -> None:
    before, other = node.state(), "/etc/netplan/60-somebody.yaml"
    text = "network: {version: 2, ethernets: {wired: {addresses: [192.168.86.40/24]}}}"
    node.lab.execute("sh", "-c", f"umask 077; echo '{text}' > {other}")
    assert f"{other} already sets addresses for wired" in node.refused(node.leased)
    node.lab.execute("rm", other)
    assert node.state() == before


# Out of order for the change, for its undo and for the undo's first repetition.
FAILING_NETWORKCTL = """
cp /usr/bin/networkctl /run/networkctl.real; : >/run/networkctl.failed
cat >/run/networkctl <<'END'
#!/bin/sh
if [ "$1" = reload ] && [ $(wc -l </run/networkctl.failed) -lt 3 ]; then
  echo >>/run/networkctl.failed; echo out of order >&2; exit 1
fi
exec /run/networkctl.real "$@"
END
chmod 755 /run/networkctl; mount --bind /run/networkctl /usr/bin/networkctl
"""


@pytest.mark.parametrize("node", ["networkd"], indirect=True)
def test_a_manager_that_fails_is_quoted_and_its_undo_repeated(node: Node) -> None:
    before = node.state()
    node.lab.execute("sh", "-c", FAILING_NETWORKCTL)
    said = node.refused(node.leased)
    assert f"undone: `networkctl reload` failed: out of order; the node answers at {node.leased}" in said
    node.lab.execute("umount", "/usr/bin/networkctl")
    assert node.state() == before


def test_a_wrong_gateway_leads_back_to_the_lease(node: Node) -> None:
    before = node.state()
    said = node.refused(node.leased, lan_gateway=NOBODY)
    assert f"{FINAL}/24 was undone: the gateway {NOBODY} does not answer" in said
    assert f"the node answers at {node.leased}" in said
    assert node.state() == before


def test_a_dead_control_machine_leads_back_to_the_lease(node: Node) -> None:
    before = node.state()
    with node.control_machine_dies(node.leased, FINAL):
        pass
    wait("the undo", lambda: node.addresses() == [node.leased], SECONDS + 30)
    wait("all as it was", lambda: node.state() == before)


def test_a_power_cut_leads_back_to_the_lease(node: Node) -> None:
    before = node.state()
    with node.control_machine_dies(node.leased, FINAL, seconds=300):
        node.lab("power", "cn01", "cut")
    node.lab("power", "cn01", "on")
    assert node.lab.address() == node.leased
    wait("all as it was", lambda: node.state() == before)


def test_the_leased_address_becomes_static(node: Node) -> None:
    data = {"address": node.leased, "lan_dns": json.dumps(["192.168.86.1", "9.9.9.9"])}
    assert node.changed(node.leased, **data) == 2
    assert node.addresses() == [node.leased]
    resolvers = "cat /etc/resolv.conf /run/systemd/resolve/resolv.conf 2>/dev/null; true"
    assert "9.9.9.9" in node.lab.execute("sh", "-c", resolvers)
    assert node.changed(node.leased, **data) == 0


def test_the_run_goes_on_at_the_new_address(node: Node) -> None:
    node.lab.execute("rmdir", "/var/lib/okome/went-on")
    assert node.changed(node.leased) == 2
    assert node.addresses() == [FINAL]
    assert node.changed(FINAL) == 0


def test_it_survives_a_reboot(node: Node) -> None:
    node.lab("power", "cn01", "reboot")
    assert node.addresses() == [FINAL]
    assert node.changed(FINAL) == 0


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_a_wrong_gateway_leads_back_to_the_right_one(node: Node) -> None:
    before = node.state()
    said = node.refused(FINAL, lan_gateway=NOBODY)
    assert f"the gateway {NOBODY} does not answer; the node answers at {FINAL}" in said
    assert node.state() == before


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_the_next_run_finishes_what_a_dead_one_left(node: Node) -> None:
    with node.control_machine_dies(FINAL, OTHER, seconds=300):
        pass
    assert node.changed(OTHER, address=OTHER) == 1
    assert node.addresses() == [OTHER]
    assert node.changed(OTHER, address=OTHER) == 0


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_the_next_run_undoes_what_it_does_not_want(node: Node) -> None:
    with node.control_machine_dies(OTHER, FINAL, seconds=300):
        pass
    assert node.changed(FINAL, address=OTHER, lan_prefix_length=25) == 1
    assert node.addresses() == [OTHER]
