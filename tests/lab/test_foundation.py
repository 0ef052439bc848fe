"""Phase 0 where it has a choice: the hardened mount table, a hostname that cloud-init would take back."""

import pytest

from tests.lab.conftest import Lab

TABLE = "proc /proc proc defaults 0 0\ntmpfs /mnt tmpfs defaults,size=1m 0 0\n"


# As Raspberry Pi OS has it, shortened.
CONFIG_TXT = "dtparam=audio=on\n[cm4]\notg_mode=1\n[all]\nenable_uart=1\n"


@pytest.fixture(scope="module")
def node(lab: Lab) -> Lab:
    address = lab.fresh()
    lab.execute("mkdir", "-p", "/etc/cloud/cloud.cfg.d")
    # What the base tree has already, so that the deploy has to bring it.
    lab.execute("sh", "-c", "dpkg --purge logrotate; systemctl disable systemd-timesyncd")
    lab.execute("sh", "-c", f"mkdir -p /boot/firmware; printf '{CONFIG_TXT}' > /boot/firmware/config.txt")
    run = lab.deploy(address=address)
    assert run.status == 0, run.output
    return lab


def test_cloud_init_keeps_the_hostname(node: Lab) -> None:
    assert "preserve_hostname: true" in node.execute("cat", "/etc/cloud/cloud.cfg.d/zz-okome.cfg")


def test_what_was_missing_is_there(node: Lab) -> None:
    assert node.execute("cat", "/boot/firmware/config.txt").startswith(CONFIG_TXT)
    assert node.execute("tail", "-n", "1", "/boot/firmware/config.txt") == "gpu_mem=16\n"
    assert node.execute("cat", "/var/lib/okome/replaced/boot/firmware/config.txt") == CONFIG_TXT
    assert node.execute("systemctl", "is-enabled", "logrotate.timer").strip() == "enabled"
    assert node.execute("systemctl", "is-enabled", "systemd-timesyncd").strip() == "enabled"
    again = node.deploy()
    assert (again.status, again.changed) == (0, 0), again.output


def test_a_guard_that_was_removed_comes_back(node: Lab) -> None:
    """Also where no address is to be changed: the next change wants it to be there."""
    node.execute(
        "sh", "-c", "rm /usr/local/lib/okome/address_guard.py; systemctl disable okome-address-revert"
    )
    run = node.deploy()
    assert (run.status, run.changed) == (0, 1), run.output
    assert node.execute("systemctl", "is-enabled", "okome-address-revert").strip() == "enabled"
    assert node.execute("ls", "/usr/local/lib/okome/address_guard.py")
    assert node.deploy().changed == 0


def test_fstab_is_left_alone_unless_asked(node: Lab) -> None:
    assert "okome" not in node.execute("cat", "/etc/fstab")


def test_hardened_fstab(node: Lab) -> None:
    node.execute("sh", "-c", f"printf '{TABLE}' > /etc/fstab")
    run = node.deploy("--data", "fstab_hardened=True")
    assert (run.status, run.changed) == (0, 1), run.output
    assert node.execute("cat", "/etc/fstab.before-okome") == TABLE
    assert node.execute("cat", "/etc/fstab").endswith(
        f"{TABLE}tmpfs /tmp tmpfs nosuid,nodev,size=25%,mode=1777 0 0\n"
    )
    again = node.deploy("--data", "fstab_hardened=True")
    assert (again.status, again.changed) == (0, 0), again.output
    assert node.execute("cat", "/etc/fstab.before-okome") == TABLE
    node("power", "cn01", "reboot")
    assert "nosuid" in node.execute("findmnt", "-n", "-o", "OPTIONS", "/tmp")
    node.verify()


def test_a_table_that_findmnt_objects_to_is_told_of_and_put_back(node: Lab) -> None:
    """Mounting it at boot would fail, so nothing of ours goes beside it: also if that is found at the last moment."""
    broken = "/dev/nonsuch /data ext4 defaults 0 2\n"
    node.execute("sh", "-c", f"printf '{broken}' > /etc/fstab; rm /etc/fstab.before-okome")
    early = node.deploy("--data", "fstab_hardened=True")
    assert early.status == 1
    assert "findmnt --verify objects to /etc/fstab: /data: unreachable" in early.output
    assert "Starting operation" not in early.output
    late = node.deploy(deploy="tests/lab/fstab/cn01.py")
    assert late.status == 1
    assert "/dev/nonsuch" in late.output
    assert node.execute("cat", "/etc/fstab") == broken
    assert "No such file" in node.execute("ls", "/etc/fstab.before-okome", check=False)
