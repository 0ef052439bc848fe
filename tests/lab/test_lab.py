"""The lab itself: its nodes are what a new Pi is, and it leaves the machine as it found it."""

import json
import os
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lab import LabError, machine
from lab.lan import leases
from tests.conftest import AS_ROOT
from tests.lab.conftest import ENVIRONMENT, NAME, ROOT, Lab, kill_group

PROBE = f"p{NAME}"


def machine_state() -> dict[str, str]:
    """What the lab could leave on the machine, apart from its cache."""
    questions = {
        "namespaces": f"ls /run/netns 2>/dev/null | grep -xE 'okome-{PROBE}(-orchestrator)?'",
        "tables": f"nft list tables | grep -w okome_{PROBE}",
        "mounts": f"grep okome-lab/{PROBE} /proc/mounts",
        "groups": f"find /sys/fs/cgroup -maxdepth 3 -name 'okome-{PROBE}-*'",
        "orchestrator": f"grep -lsz 'okome-la[b]/{PROBE}/' /proc/[0-9]*/cmdline",
        "state": f"ls -d /var/lib/okome-lab/{PROBE}",
        "processes": f"grep -hs okome-{PROBE}- /proc/[0-9]*/cgroup | grep -v deleted",
    }
    return {
        key: subprocess.run(
            [*AS_ROOT, "sh", "-c", text], capture_output=True, text=True, check=False, timeout=60
        ).stdout
        for key, text in questions.items()
    }


class Probe(Lab):
    """A lab of another name, so that it can go up and down in the middle of the tests."""

    def command(self, *words: str) -> list[str]:
        own = f"OKOME_LAB={NAME}"
        return [f"OKOME_LAB={PROBE}" if word == own else word for word in super().command(*words)]


def test_bare_node_is_a_new_pi(lab: Lab) -> None:
    address = lab.fresh()
    assert any(IPv4Address(first) <= IPv4Address(address) <= IPv4Address(last) for first, last in leases())
    assert lab.execute("hostname").strip() == "raspberrypi"
    assert (
        lab.execute("nmcli", "-g", "GENERAL.CONNECTION", "device", "show", "host0").strip()
        == "Wired connection 1"
    )
    assert "(ALL) NOPASSWD: ALL" in lab.execute("sudo", "-l", "-U", "ncadmin")
    assert "a local edit" in lab.execute("cat", "/etc/dhcpcd.conf")
    for unit in ("avahi-daemon", "bluetooth"):
        assert lab.execute("systemctl", "is-enabled", unit).strip() == "enabled"
    assert "eth0" not in lab.execute("ip", "-br", "link")
    assert lab.execute("dpkg", "-l").count("redis") == 0
    ask = "raspi-config", "nonint"
    assert lab.execute(*ask, "get_config_var", "gpu_mem", "/boot/firmware/config.txt").strip() == "0"
    assert "do_memory_split: not found" in lab.execute(*ask, "do_memory_split", "16", check=False)


def test_root_of_a_node_is_not_root_of_the_machine(lab: Lab) -> None:
    """What `exec` may do is what the node's own processes may do: the machine's clock is not among it."""
    asked = "sed -n 's/^Cap[EB][fn][fd]:\\t//p' /proc/{}/status"
    bounds = lab.execute("sh", "-c", asked.format(1)).split()[-1]
    assert lab.execute("sh", "-c", asked.format("self")).split() == [bounds, bounds]
    assert not int(bounds, 16) >> 25 & 1, "CAP_SYS_TIME"


def test_up_keeps_what_is_there(lab: Lab) -> None:
    lab.execute("touch", "/root/kept")
    lab("up", "cn01")
    assert lab.execute("ls", "/root").strip() == "kept"
    assert "already is bookworm/networkmanager" in lab("up", "cn01", "--suite", "trixie", check=False)
    lab.fresh()
    assert lab.execute("ls", "/root").strip() == ""


def test_run_is_inside_the_lan_and_returns_the_command_s_status(lab: Lab) -> None:
    done = subprocess.run(lab.command("run", "--", "sh", "-c", "ip -br addr; exit 7"), cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 7
    assert "192.168.86.1/24" in done.stdout
    # And the machine itself is not: nothing but a default route could take a packet for the LAN.
    assert (
        "192.168.86" not in subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    )


def test_who_asks_what_stands_for_the_orchestrator_changes_nothing(lab: Lab) -> None:
    lab.fresh()
    assert json.loads(lab("origin", "planner")) == json.loads(lab("origin")) == {"mode": "planner"}
    for bad in ("slow", "slow:", "slow:x", "slow:-1", "up:1", "up:", "sideways"):
        assert lab("origin", bad, check=False).startswith(f"lab: no mode {bad!r}; there are up, ")
    assert json.loads(lab("origin")) == {"mode": "planner"}
    assert json.loads(lab("origin", "slow:0.5"))["mode"] == "slow:0.5"
    assert json.loads(lab("origin"))["mode"] == "slow:0.5"


def test_a_node_that_nobody_has(lab: Lab) -> None:
    for words in (("up", "cn77"), ("exec", "cn77", "--", "true"), ("power", "cn77", "off")):
        assert lab(*words, check=False) == "lab: cn77 is not in inventory.py; there is cn00, cn01.\n"


def test_power(lab: Lab) -> None:
    address = lab.address()
    lab.execute("touch", "/run/this-boot")
    lab("power", "cn01", "off")
    assert "off" in lab("status")
    assert "cn01 is off" in lab("exec", "cn01", "--", "true", check=False)
    lab("power", "cn01", "on")
    lab.execute("touch", "/run/this-boot")
    lab("power", "cn01", "cut")
    assert "off" in lab("status")
    lab("power", "cn01", "on")
    lab("power", "cn01", "reboot")
    assert "No such file" in lab.execute("ls", "/run/this-boot", check=False)
    assert lab.address() == address


def test_nothing_is_left(lab: Lab) -> None:
    """Also of an `up` that was killed half way; and the next one is not disturbed by it."""
    probe = Probe()
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    probe("up", "cn01")
    up = machine_state()
    assert not up.pop("mounts"), "they are in namespaces of their own"
    assert all(up.values()), up
    run = subprocess.Popen(probe.command("up", "cn01", "--fresh"), cwd=ROOT, env=ENVIRONMENT, process_group=0,
                           stderr=subprocess.DEVNULL)  # fmt: skip
    time.sleep(1.0)
    kill_group(run)
    probe("up", "cn01")
    assert probe.execute("hostname").strip() == "raspberrypi"
    probe("down")
    left = machine_state()
    assert not any(left.values()), left
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
    probe("down")  # twice is no mistake


# A lab whose folders no other one sees: each line is what to do to its LAN; the answer is what ip_forward is then.
HIDDEN = """
set -e
for folder in /var/lib /run; do mount -t tmpfs hidden $folder; done
exec "$@"
"""
LAN = """
import os, sys
from lab import lan
print(os.getpid(), flush=True)
for line in sys.stdin:
    {"up": lan.up, "down": lan.down}[line.strip()]()
    print(lan.IP_FORWARD.read_text().strip(), flush=True)
lan.down()
"""


@pytest.mark.parametrize("found", ["0", "1"])
def test_labs_that_do_not_see_each_other_share_forwarding(found: str) -> None:
    """In a network of their own, so that no other lab of this machine has a say."""

    def hidden(name: str, *network: str) -> subprocess.Popen[str]:
        words = [*network, "unshare", "--mount", "sh", "-c", HIDDEN, "sh", "env", f"OKOME_LAB={name}"]
        return subprocess.Popen([*AS_ROOT, *words, sys.executable, "-Bc", LAN], cwd=ROOT, stdin=-1, stdout=-1,
                                text=True)  # fmt: skip

    def told(lab: subprocess.Popen[str], *words: str) -> str:
        assert lab.stdin is not None
        assert lab.stdout is not None
        print(*words, sep="\n", end="\n" if words else "", file=lab.stdin, flush=True)
        return lab.stdout.readline().strip()

    before = f'ip link set lo up && sysctl -qw net.ipv4.ip_forward={found} && exec "$@"'
    with hidden("first", "unshare", "--net", "sh", "-c", before, "sh") as first:
        pid = told(first)
        with hidden("second", "nsenter", f"--net=/proc/{pid}/ns/net") as second:
            told(second)
            assert told(first, "up") == told(second, "up") == "1"
            assert told(first, "down") == "1", "the second one still needs it"
            assert told(first, "up") == told(second, "down") == "1"
            assert told(first, "down") == found
            assert told(second, "down") == found


def test_a_process_has_ended_when_all_its_threads_have() -> None:
    """Until then its ports are taken, though the first thread, which the process is named after, is a zombie."""
    code = """
import ctypes, threading, sys
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        limit = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert not machine.ended(process.pid)
        process.stdin.close()
        while not machine.ended(process.pid):
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="it needs root"):
        machine.require()


def test_programs_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"apt-get install .*mmdebstrap .*systemd-container"):
        machine.require()


def test_disk_is_full(lab: Lab, tmp_path: Path) -> None:
    """A cache on a file system of 64 MB: said before anything is made."""
    probe = Probe()
    script = f'mount -t tmpfs -o size=64m full {tmp_path} && export XDG_CACHE_HOME={tmp_path} && exec "$@"'
    done = subprocess.run(
        [*AS_ROOT, "unshare", "--mount", "sh", "-c", script, "sh", *probe.command("up", "cn01")[len(AS_ROOT) :]],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has 0.1 GB free; the lab needs 2 GB" in done.stderr
    left = machine_state()
    assert not any(left.values()), left
