"""Phase 0 where it has a choice: the hardened mount table, a hostname that cloud-init would take back."""

import pytest

from tests.lab.conftest import Lab

TABLE = "proc /proc proc defaults 0 0\ntmpfs /mnt tmpfs defaults,size=1m 0 0\n"


@pytest.fixture(scope="module")
def node(lab: Lab) -> Lab:
    address = lab.fresh()
    lab.execute("mkdir", "-p", "/etc/cloud/cloud.cfg.d")
    run = lab.deploy(address=address)
    assert run.status == 0, run.output
    return lab


def test_cloud_init_keeps_the_hostname(node: Lab) -> None:
    assert "preserve_hostname: true" in node.execute("cat", "/etc/cloud/cloud.cfg.d/99-okome.cfg")


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


def test_a_table_that_findmnt_objects_to_is_put_back(node: Lab) -> None:
    """A file system that is not there: mounting it at boot would fail, so nothing of ours goes beside it."""
    broken = "/dev/nonsuch /data ext4 defaults 0 2\n"
    node.execute("sh", "-c", f"printf '{broken}' > /etc/fstab; rm /etc/fstab.before-okome")
    run = node.deploy("--data", "fstab_hardened=True")
    assert run.status == 1
    assert "/dev/nonsuch" in run.output
    assert node.execute("cat", "/etc/fstab") == broken
    assert "No such file" in node.execute("ls", "/etc/fstab.before-okome", check=False)
