"""What every node is, once phase 0 is through."""

import json
import runpy
from pathlib import Path

import pytest
from testinfra.host import Host

import inventory
from facts.config_txt import PLACES
from operations.primitives.overrides import kernel_key, settings
from operations.services.config_txt import holds, read

DATA = runpy.run_path(str(Path(__file__).parents[2] / "group_data/all.py"))
ADDRESSES = {host["address"]: name for name, host in inventory.frontends + inventory.backends}


def own_address(node: Host) -> str:
    return next(address for address in ADDRESSES if address in node.check_output("hostname -I").split())


def test_name(node: Host) -> None:
    expected = ADDRESSES[own_address(node)].upper()
    assert node.check_output("hostname") == expected
    assert node.check_output("cat /etc/hostname") == expected
    assert node.check_output("getent hosts %s", expected).split()[0] == "127.0.1.1"


def test_address_is_static_and_the_only_one(node: Host) -> None:
    route = json.loads(node.check_output("ip -json -4 route show default"))[0]
    link = json.loads(node.check_output("ip -json -4 address show dev %s", route["dev"]))[0]
    addresses = [(one["local"], one["prefixlen"], one.get("dynamic", False)) for one in link["addr_info"]]
    assert addresses == [(own_address(node), DATA["lan_prefix_length"], False)]
    assert route["gateway"] == DATA["lan_gateway"]


def test_no_change_of_the_address_is_pending(node: Host) -> None:
    assert not node.file("/var/lib/okome/address/pending").exists
    assert node.service("okome-address-revert").is_enabled
    found = node.service("okome-address-revert").systemd_properties
    assert found["FragmentPath"] == "/etc/systemd/system/okome-address-revert.service"
    assert found["NeedDaemonReload"] == "no"
    own = "okome-address-revert.service.d"
    assert not [path for path in found.get("DropInPaths", "").split() if own in path]


# What cloud-init itself makes of all its files.
CLOUD_INIT = """
from cloudinit.stages import Init
init = Init(ds_deps=[])
init.read_cfg()
print(init.cfg.get("preserve_hostname"), *init.cfg.get("cloud_init_modules", ()))
"""


def test_cloud_init_leaves_the_name_alone(node: Host) -> None:
    if not node.exists("cloud-init"):
        return  # only an image that it made has it
    preserve, *modules = node.check_output("python3 -c %s", CLOUD_INIT).split()
    assert preserve == "True"
    assert not {"set_hostname", "update_hostname", "update_etc_hosts"} & {
        one.replace("-", "_") for one in modules
    }


def test_apt_keeps_configuration_files(node: Host) -> None:
    options = node.check_output("apt-config dump Dpkg::Options; apt-config dump DPkg::Lock::Timeout")
    assert "--force-confdef" in options
    assert "--force-confold" in options
    assert str(DATA["apt_lock_timeout"]) in options


def test_journal_is_in_ram(node: Host) -> None:
    journals = node.check_output(
        "find \"/proc/$(pidof systemd-journald)/fd\" -lname '*.journal' -printf '%l\\n'"
    )
    assert journals
    assert all(path.startswith("/run/log/journal/") for path in journals.splitlines())
    text = node.check_output("systemd-analyze cat-config systemd/journald.conf")
    last = {one.key: one.value for one in settings(text)}
    assert (last["Storage"], last["RuntimeMaxUse"]) == ("volatile", DATA["journal_max"])


def test_kernel_settings(node: Host) -> None:
    """Now, and after the next boot, which takes the last word of all files."""
    text = node.check_output("systemd-analyze cat-config sysctl.d")
    last = {kernel_key(one.key): one.value for one in settings(text)}
    for key, value in DATA["sysctl_settings"].items():
        path = "/proc/sys/" + key.replace(".", "/")
        assert last[key].split() == value.split()
        if node.run("test -w %s", path).rc == 0:  # read-only in a container
            assert node.file(path).content_string.split() == value.split()


@pytest.mark.parametrize("unit", DATA["units_masked"])
def test_never_runs(node: Host, unit: str) -> None:
    assert node.check_output("systemctl is-enabled %s || true", unit) == "masked"
    assert node.check_output("systemctl is-active %s || true", unit) in ("inactive", "failed")


def test_time_is_kept(node: Host) -> None:
    assert node.service("systemd-timesyncd").is_enabled
    if node.run("systemd-detect-virt --container").rc != 0:  # there the clock is the machine's
        assert node.service("systemd-timesyncd").is_running


def test_no_names_by_multicast(node: Host) -> None:
    """mDNS on UDP 5353, LLMNR on UDP and TCP 5355."""
    ports = {line.split()[4].rpartition(":")[2] for line in node.check_output("ss -Hltun").splitlines()}
    assert ports & {"5353", "5355"} == set()


def test_logs_are_rotated(node: Host) -> None:
    assert node.service("logrotate.timer").is_enabled
    # A log of somebody else's that is not there is an error, too, and none of ours.
    said = node.run("logrotate --debug /etc/logrotate.conf").stderr.splitlines()
    assert [
        line
        for line in said
        if line.startswith("error:") and ("okome" in line or "duplicate log entry" in line)
    ] == []


def test_nothing_has_failed(node: Host) -> None:
    node.run("timeout 60 systemctl is-system-running --wait")
    assert node.check_output("systemctl list-units --failed --plain --no-legend") == ""
    assert node.check_output("dpkg --audit") == ""


def test_nothing_of_a_deploy_is_left_behind(node: Host) -> None:
    assert node.check_output("find /etc /usr/local -name '.*okome-*' -o -name '.*.okome.dpkg-*'") == ""
    assert node.check_output("find /tmp -maxdepth 1 -name '*pyinfra*'") == ""


def test_gpu_memory_on_every_board(node: Host) -> None:
    path = next((f"{place}/config.txt" for place in PLACES if node.file(f"{place}/config.txt").exists), None)
    if path is None:
        return  # no Pi, as in the lab
    found, _ = read(node.file(path).content_string, {})
    assert holds(found, "gpu_mem", str(DATA["gpu_memory"]))
