"""The address as a transaction, on a booted node, with every network manager.

The tests of one manager share a node, in this order: first all that must leave it at its leased address, then
the move, then what starts from its static one. What no manager has a part in runs with one of them.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from facts.interface import NETPLAN_HIDES
from tests.conftest import AS_ROOT
from tests.lab.conftest import ENVIRONMENT, ROOT, Lab, Run, kill_group
from tests.lab.nmcli import only_profile

DEPLOY = "tests/lab/address/cn01.py"
# The same guard around a drop-in of sshd.
DROP_IN = "tests/lab/confirmed/cn01.py"
SSHD = "/etc/ssh/sshd_config.d/00-lab.conf"
FINAL, OTHER, NOBODY = "192.168.86.19", "192.168.86.119", "192.168.86.250"
PENDING = "/var/lib/okome/address/pending"
KNOWN = "/var/lib/okome/address/known"
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
        self.manager = manager
        self.leased = lab.fresh(manager=manager)
        # The lab waits for SSH, not for the last word of the manager.
        lab.execute("systemctl", "is-system-running", "--wait", check=False)

    def addresses(self) -> list[str]:
        return list(json.loads(self.lab("status", "--json"))["nodes"]["cn01"]["addresses"])

    def state(self) -> str:
        """Everything that a change of the address may change."""
        return self.lab.execute(
            "sh", "-c",
            "ip -br -4 address | sed 's/@if[0-9]* */ /'; ip -4 route; cat /etc/resolv.conf /etc/dhcpcd.conf"
            "; find /etc/NetworkManager /etc/netplan /etc/systemd/network -type f | sort | xargs -r sha256sum"
            f"; ls {PENDING} 2>&1; systemctl list-units --all --no-legend 'okome-address-undo*' | wc -l",
        )  # fmt: skip

    def link_local(self) -> str:
        """Where it answers over IPv6, whatever its IPv4 address."""
        (link,) = json.loads(self.lab.execute("ip", "-json", "-6", "address", "show", "dev", "host0"))
        (scoped,) = [one["local"] for one in link["addr_info"] if one["scope"] == "link"]
        return f"{scoped}%br0"

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


# What a node's owner did to it, what undoes that, and what the refusal names.
REFUSALS = {
    "networkmanager": [
        (
            "nmcli connection add type ethernet ifname host0 con-name top connection.autoconnect-priority 999",
            "nmcli connection delete top",
            "NetworkManager's profile top (/etc/NetworkManager/system-connections/top.nmconnection) is for host0",
        ),
        (
            "systemctl enable dhcpcd",
            "systemctl disable dhcpcd",
            "NetworkManager and dhcpcd both configure host0",
        ),
        (
            "systemctl enable dhcpcd@host0; dhcpcd -b host0",
            "systemctl disable dhcpcd@host0; dhcpcd -x host0; nmcli device connect host0",
            "NetworkManager and dhcpcd@host0.service and dhcpcd (pid ",
        ),
        (
            "systemctl enable --now dhcpcd",  # its lease comes some seconds later
            "systemctl disable --now dhcpcd; nmcli device connect host0",
            "NetworkManager and dhcpcd both configure host0",
        ),
        (
            "mkdir /run/systemd/system/NetworkManager.service.d;"
            " printf '[Service]\\nRestart=no\\n' > /run/systemd/system/NetworkManager.service.d/x.conf;"
            " systemctl daemon-reload; systemctl kill -s KILL NetworkManager;"
            " until systemctl is-failed NetworkManager; do sleep 0.2; done",
            "rm -r /run/systemd/system/NetworkManager.service.d; systemctl daemon-reload;"
            " systemctl restart NetworkManager; nm-online -q",
            "nobody manages host0, and NetworkManager has failed",
        ),
    ],
    "networkd": [
        (
            "d=/run/systemd/system/systemd-networkd.service.d; mkdir $d;"
            " printf '[Service]\\nExecStart=\\nExecStart=false\\nRestart=no\\n' > $d/x.conf; systemctl daemon-reload;"
            " systemctl restart systemd-networkd; until systemctl is-failed systemd-networkd; do sleep 0.2; done",
            "rm -r /run/systemd/system/systemd-networkd.service.d; systemctl daemon-reload;"
            " systemctl reset-failed systemd-networkd; systemctl restart systemd-networkd.socket systemd-networkd;"
            " ip -4 address flush dev host0; networkctl reconfigure host0",
            "nobody manages host0, and systemd-networkd has failed",
        ),
        (
            "printf '[Match]\\nName=host*\\n[Network]\\nDHCP=yes\\n' > /usr/lib/systemd/network/00-a.network",
            "rm /usr/lib/systemd/network/00-a.network",
            "systemd-networkd reads /usr/lib/systemd/network/00-a.network before ours (00-okome-lan.network)",
        ),
    ],
    "dhcpcd": [
        (
            "systemctl enable NetworkManager",
            "systemctl disable NetworkManager",
            "NetworkManager and dhcpcd both configure host0",
        ),
    ],
}


def wait_for_state(node: Node, before: str) -> None:
    """All that a change of the address may change is as it was, in a while; what is not is shown."""
    until = time.monotonic() + 60
    while (now := node.state()) != before and time.monotonic() < until:
        pass
    assert now == before


@pytest.mark.parametrize("node", list(REFUSALS), indirect=True)
def test_what_would_take_the_address_back_is_refused_by_its_name(node: Node) -> None:
    before = node.state()
    for done, undone, says in REFUSALS[node.manager]:
        node.lab.execute("sh", "-c", done)
        said = node.refused(node.leased)
        node.lab.execute("sh", "-c", undone)
        assert says in said
    wait_for_state(node, before)


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_a_bridge_on_the_lan_is_refused(node: Node) -> None:
    node.lab.execute(
        "sh", "-c",
        "nmcli connection add type bridge ifname br0 con-name Bridge bridge.stp no ipv4.method auto &&"
        " nmcli connection add type ethernet ifname host0 con-name port master br0 && nmcli connection up port",
    )  # fmt: skip
    there = node.lab.address()
    assert "br0 is a bridge, and the static address is for a wired interface itself" in node.refused(there)
    assert "host0 is a port of br0" in node.refused(there, lan_interface="host0")
    assert "lan_interface is 'eth7', and the node has br0, host0, lo" in node.refused(
        there, lan_interface="eth7"
    )
    node.lab.execute("nmcli", "connection", "delete", "port", "Bridge")
    wait("the lease", lambda: node.addresses() == [node.leased])


# The interface of the session, whatever else is up: over IPv6 link-local its scope is all that names it.
@pytest.mark.parametrize("node", ["networkd"], indirect=True)
def test_a_session_over_ipv6_link_local(node: Node) -> None:
    there = node.link_local()
    node.lab.execute("ip", "route", "del", "default")
    run = node.deploy(there, "--dry")
    node.lab.execute("networkctl", "reconfigure", "host0")
    assert run.status == 0, run.output
    assert "Static address" in run.output
    wait("the lease", lambda: node.addresses() == [node.leased])


@pytest.mark.parametrize("node", ["networkd"], indirect=True)
def test_a_node_whose_networkd_was_told_more_than_its_address(node: Node) -> None:
    """What follows runs on it; the last of it looks whether that was kept."""
    text = (
        "[Match]\\nName=host0\\n[Network]\\nDHCP=yes\\nDomains=lan.example\\nIPv6AcceptRA=no\\n"
        "[Link]\\nMTUBytes=1400\\n[Route]\\nDestination=10.0.0.0/8\\nGateway=192.168.86.254\\n"
    )
    node.lab.execute("sh", "-c", f"printf '{text}' > /etc/systemd/network/10-lan.network; networkctl reload")
    wait("its MTU", lambda: node.lab.execute("cat", "/sys/class/net/host0/mtu").strip() == "1400")
    node.leased = node.lab.address()
    wait("nothing but its lease", lambda: node.addresses() == [node.leased])


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
    later, passing = "/etc/netplan/99-somebody.yaml", "/run/netplan/99-somebody.yaml"
    text = "network: {version: 2, ethernets: {wired: {addresses: [192.168.86.40/24]}}}"
    lease = "network: {version: 2, ethernets: {wired: {dhcp4: true}}}"
    beside = "/etc/netplan/70-somebody.yaml"
    second = (
        "network: {version: 2, ethernets: {eth: {renderer: networkd, match: {name: host0}, dhcp4: true}}}"
    )
    node.lab.execute(
        "sh", "-c",
        f"umask 077; mkdir -p /run/netplan; echo '{text}' > {other}; echo '{lease}' > {later};"
        f" cp {later} {passing}; echo 'network: {{version: 2}}' > {NETPLAN_HIDES}; echo '{second}' > {beside}",
    )  # fmt: skip
    said = node.refused(node.leased)
    assert f"{other} already sets addresses for wired" in said
    for path in (later, passing):
        assert f"netplan reads {path} after ours (90-okome.yaml), and it sets dhcp4: true for wired" in said
    assert f"netplan reads {NETPLAN_HIDES} instead of our file of that name" in said
    assert f"netplan's definition eth ({beside}) is for host0, too, and systemd-networkd takes it" in said
    node.lab.execute("rm", other, later, passing, NETPLAN_HIDES, beside)
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
    wait_for_state(node, before)
    # A blackhole keeps the gateway's ARP from answering on some kernels; either way it is no fault of the node's.
    assert "the gateway" in node.lab.execute("cat", KNOWN)


def test_a_power_cut_leads_back_to_the_lease(node: Node) -> None:
    before = node.state()
    with node.control_machine_dies(node.leased, FINAL, seconds=300):
        node.lab("power", "cn01", "cut")
    node.lab("power", "cn01", "on")
    assert node.lab.address() == node.leased
    wait_for_state(node, before)


def test_the_leased_address_becomes_static(node: Node) -> None:
    data = {"address": node.leased, "lan_dns": json.dumps(["192.168.86.1", "9.9.9.9"])}
    assert node.changed(node.leased, **data) == 2
    assert node.addresses() == [node.leased]
    resolvers = "cat /etc/resolv.conf /run/systemd/resolve/resolv.conf 2>/dev/null; true"
    assert "9.9.9.9" in node.lab.execute("sh", "-c", resolvers)
    assert node.changed(node.leased, **data) == 0


# What would give the node to systemd-networkd, and a second definition of what is ours; both show after a boot.
OTHERS = {
    "95-other": "{version: 2, ethernets: {eth: {renderer: NetworkManager, match: {name: host0}, dhcp4: true}}}",
    "99-all": "{version: 2, renderer: networkd}",
    "92-six": "{version: 2, ethernets: {wired: {addresses: ['fd00::19/64']}}}",
}


@pytest.mark.parametrize("node", ["netplan"], indirect=True)
def test_a_node_whose_netplan_says_more(node: Node) -> None:
    """What follows runs on it."""
    for name, network in OTHERS.items():
        script = 'umask 077; echo "network: $2" > "/etc/netplan/$1.yaml"'
        node.lab.execute("sh", "-ec", script, "sh", name, network)


def test_the_run_goes_on_at_the_new_address(node: Node) -> None:
    node.lab.execute("rmdir", "/var/lib/okome/went-on")
    assert node.changed(node.leased) == 2
    assert node.addresses() == [FINAL]
    assert node.changed(FINAL) == 0


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_a_profile_made_by_hand_gives_way_and_what_it_said_is_kept(node: Node) -> None:
    """Beside it a second link has the better default route, and a bridge of containers is nobody's business."""
    node.lab.execute(
        "sh", "-c",
        "nmcli connection add type ethernet ifname host0 con-name mine connection.autoconnect-priority 200"
        " ipv6.method disabled ethernet.mtu 1400 ipv4.dns-search lan.example"
        " +ipv4.routes '10.0.0.0/8 192.168.86.254' && nmcli connection up mine &&"
        " ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 &&"
        " ip link set docker0 up && ip link add eth9 type veth peer name eth9p && ip link set eth9p up &&"
        " nmcli device set eth9 managed no && ip address add 10.9.0.2/24 dev eth9 && ip link set eth9 up &&"
        " ip route add default via 10.9.0.1 dev eth9 metric 1",
    )  # fmt: skip
    there = node.lab.address()
    assert node.changed(there) == 1
    assert node.lab.address() == FINAL
    assert "172.17.0.1/16" in node.lab.execute("ip", "-4", "address", "show", "dev", "docker0")
    node.lab.execute("sh", "-c", "ip link del docker0; ip link del eth9")
    assert node.changed(FINAL) == 0


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_it_survives_a_reboot(node: Node) -> None:
    node.lab("power", "cn01", "reboot")
    assert node.addresses() == [FINAL]
    assert node.changed(FINAL) == 0


# dhcpcd looks for five seconds who else has the address; over IPv6 the node is there meanwhile.
@pytest.mark.parametrize("node", ["netplan", "networkd", "dhcpcd"], indirect=True)
def test_a_run_that_begins_while_the_node_boots_changes_nothing(node: Node) -> None:
    there = node.link_local()
    node.lab("power", "cn01", "cut")
    with ThreadPoolExecutor(1) as other:
        on = other.submit(node.lab, "power", "cn01", "on")
        scan = "ssh-keyscan", "-T", "1", "-t", "ed25519", there
        wait("a boot", lambda: "ssh-ed25519" in node.lab("run", "--", *scan, check=False))
        assert node.changed(there) == 0
        on.result()
    assert node.addresses() == [FINAL]


@pytest.mark.parametrize("node", ["netplan"], indirect=True)
def test_what_another_file_of_netplan_gives_in_ipv6_is_there_too(node: Node) -> None:
    assert "fd00::19/64" in node.lab.execute("ip", "-6", "address", "show", "dev", "host0")


# As at a boot, only that somebody is let in meanwhile.
STARTS_SLOWLY = """
d=/run/systemd/system/NetworkManager.service.d; mkdir -p $d
printf '[Service]\\nExecStartPre=/bin/sleep 5\\n' > $d/slow.conf
systemctl daemon-reload; systemctl restart --no-block NetworkManager
timeout 30 sh -c 'until [ "$(systemctl is-active NetworkManager)" = activating ]; do sleep 0.1; done'
"""


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_a_run_that_begins_while_a_manager_starts_changes_nothing(node: Node) -> None:
    node.lab.execute("sh", "-ec", STARTS_SLOWLY)
    assert node.changed(FINAL) == 0
    node.lab.execute(
        "sh", "-c", "rm -r /run/systemd/system/NetworkManager.service.d; systemctl daemon-reload"
    )


@pytest.mark.parametrize("node", ["networkmanager", "networkd"], indirect=True)
def test_what_was_told_besides_the_address_is_in_effect_after_the_boot(node: Node) -> None:
    assert node.lab.execute("cat", "/sys/class/net/host0/mtu").strip() == "1400"
    assert "10.0.0.0/8 via 192.168.86.254 dev host0" in node.lab.execute("ip", "route")
    if node.manager == "networkmanager":
        assert "search lan.example" in node.lab.execute("cat", "/etc/resolv.conf")
        assert node.lab.execute("cat", "/proc/sys/net/ipv6/conf/host0/disable_ipv6").strip() == "1"
        assert "inet6" not in node.lab.execute("ip", "-6", "address", "show", "dev", "host0", "scope", "link")
    else:
        assert "lan.example" in node.lab.execute("resolvectl", "domain", "host0")


@pytest.mark.parametrize("node", ["netplan"], indirect=True)
def test_a_profile_of_nmcli_that_netplan_keeps_and_that_says_the_same_is_right_as_it_is(node: Node) -> None:
    static = "ipv4.method", "manual", "ipv4.addresses", f"{FINAL}/24", "ipv4.gateway", "192.168.86.1"
    file = only_profile(node.lab, *static, "ipv4.dns", "192.168.86.1")
    wait("its address", lambda: node.addresses() == [FINAL])
    assert node.changed(FINAL) == 0
    assert node.lab.execute("ls", "/etc/netplan").split() == [file.rpartition("/")[2]]


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


@pytest.mark.parametrize("node", ["networkmanager"], indirect=True)
def test_sshd_is_confirmed_in_the_same_way(node: Node) -> None:
    """Kept when a new login works, undone by the node itself when it does not; the open session proves nothing."""

    def drop_in(text: str) -> Run:
        return node.lab.deploy(deploy=DROP_IN, address=there, env=(f"DROP_IN={text}",))

    there = node.lab.address()
    run = drop_in("Banner none\n")
    assert run.status == 0, run.output
    assert node.lab.execute("cat", SSHD) == "Banner none\n"
    run = drop_in("AllowUsers nobody\n")
    assert run.status != 0
    assert "the drop-in of sshd was undone: it could not be confirmed" in run.output
    run = drop_in("Nonsense\n")
    assert "was undone: `sshd -t` failed: " in run.output
    assert node.lab.execute("cat", SSHD) == "Banner none\n"
    # After a power loss the boot undoes it.
    script = (
        "cd /var/lib/okome/sshd && printf AllowUsers\\ nobody > new.0 && cp " + SSHD + " old.0 &&"
        f" cp new.0 {SSHD} && echo '{json.dumps(LEFT)}' > pending"
    )
    node.lab.execute("sh", "-c", script)
    node.lab("power", "cn01", "cut")
    node.lab("power", "cn01", "on")
    assert node.lab.execute("cat", SSHD) == "Banner none\n"


LEFT = {
    "sha256": "6cf7",
    "seconds": 300,
    "applied": True,
    "files": [{"path": SSHD, "mode": 420, "old": [420, 0, 0]}],
    "apply": [],
    "undo": [],
}
