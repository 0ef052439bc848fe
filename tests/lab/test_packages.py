"""apt in somebody else's hands, an upgrade that would ask, a reboot that is required."""

import pytest

from tests.lab.conftest import Lab
from tests.lab.runs import deploy_held_up

# Holds the locks an apt run takes until it is stopped, as another apt would (fcntl, not flock).
HOLD = """
import fcntl, pathlib, signal
paths = ("/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock", "/var/lib/dpkg/lock-frontend")
locks = [open(path, "w") for path in paths]
for lock in locks:
    fcntl.lockf(lock, fcntl.LOCK_EX)
pathlib.Path("/run/held").touch()
signal.pause()
"""

# A newer dhcpcd-base whose dhcpcd.conf differs from the one it replaced, in a repository on the node.
NEWER = r"""
set -e
mkdir -p /srv/newer && cd /srv/newer
apt-get -q download dhcpcd-base
dpkg-deb -R dhcpcd-base_*.deb new && rm dhcpcd-base_*.deb
sed -i 's/^Version:.*/Version: 9:99/' new/DEBIAN/control
echo '# shipped by the newer package' >> new/etc/dhcpcd.conf
(cd new && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum > DEBIAN/md5sums)
dpkg-deb -b new newer.deb && rm -r new
{ dpkg-deb -f newer.deb; echo "Filename: ./newer.deb"; echo "Size: $(stat -c %s newer.deb)"
  echo "SHA256: $(sha256sum newer.deb | cut -d' ' -f1)"; } > Packages
echo 'deb [trusted=yes] file:/srv/newer ./' > /etc/apt/sources.list.d/newer.list
"""

UPGRADE = "deploys/upgrade.py"


@pytest.fixture(scope="module")
def node(lab: Lab) -> Lab:
    lab.fresh()
    return lab


def test_waits_while_another_apt_holds_the_locks(node: Lab) -> None:
    node.execute("systemd-run", "--quiet", "--unit=holder", "python3", "-c", HOLD)
    node.execute("sh", "-c", "until test -e /run/held; do sleep 0.2; done")

    def let_go() -> None:
        there.append(node.execute("find", "/var/lib/dpkg/info", "-name", "redis-server.list"))
        node.execute("systemctl", "stop", "holder")

    there = list[str]()
    run = deploy_held_up(node, "/var/lib/apt/lists/lock", let_go, node.address())
    assert run.status == 0, run.output
    assert "E: Could not get lock" not in run.output
    assert there == [""]
    assert node.execute("dpkg-query", "-W", "-f", "${Status}", "redis-server") == "install ok installed"


def test_upgrade_keeps_a_configuration_file_that_was_edited(node: Lab) -> None:
    edited = node.execute("cat", "/etc/dhcpcd.conf")
    assert "a local edit" in edited
    node.execute("sh", "-c", NEWER)
    node.execute("rm", "-f", "/var/lib/okome/lists-fetched")  # an hour has passed
    run = node.deploy("--limit", "cn01", deploy=UPGRADE)
    assert run.status == 0, run.output
    assert node.execute("dpkg-query", "-W", "-f", "${Version}", "dhcpcd-base") == "9:99"
    assert node.execute("cat", "/etc/dhcpcd.conf") == edited
    again = node.deploy("--limit", "cn01", deploy=UPGRADE)
    assert (again.status, again.changed) == (0, 0), again.output


def test_upgrade_reboots_where_that_is_required(node: Lab) -> None:
    before = node.execute(
        "cat", "/proc/sys/kernel/random/boot_id", "/run/systemd/systemd-units-load", check=False
    )
    node.execute("touch", "/run/reboot-required", "/run/since-this-boot")
    run = node.deploy("--limit", "cn01", deploy=UPGRADE)
    assert (run.status, run.changed) == (0, 1), run.output
    assert "reboot: /run/reboot-required exists" in run.output
    assert "No such file" in node.execute("ls", "/run/since-this-boot", check=False), before
    assert node.address() == "192.168.86.19"
    node.verify()


def test_upgrade_names_what_did_not_start(node: Lab) -> None:
    node.execute("sh", "-c", "systemd-run --quiet --unit=doomed false; sleep 1; systemctl --failed")
    run = node.deploy("--limit", "cn01", deploy=UPGRADE)
    assert run.status == 1
    assert "units have failed: doomed.service" in run.output
    node.execute("systemctl", "reset-failed", "doomed")


def test_interrupted_dpkg_is_brought_to_its_end(node: Lab) -> None:
    """As a power cut leaves it: unpacked, not configured."""
    node.execute(
        "sh",
        "-c",
        "cd /tmp && apt-get -q download logrotate && dpkg --unpack logrotate_*.deb && rm logrotate_*",
    )
    assert node.execute("dpkg", "--audit") != ""
    run = node.deploy()
    assert run.status == 0, run.output
    assert node.execute("dpkg", "--audit") == ""
    assert node.deploy().changed == 0
