"""What an operator gets wrong: one sentence, a non-zero exit, no traceback, and a node that is as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import Lab, Run
from tests.lab.runs import assert_same, fingerprint


@pytest.fixture(scope="module")
def bare(lab: Lab) -> Iterator[Lab]:
    assert lab.fresh()
    before = fingerprint(lab)
    yield lab
    assert_same(fingerprint(lab), before)


def refused(run: Run, sentence: str) -> None:
    assert run.status == 1, run.output
    assert "Traceback" not in run.output, run.output
    assert sentence in run.output, run.output


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("address=192.168.86.255", "192.168.86.255 is the broadcast address of 192.168.86.0/24"),
        ("lan_gateway=192.168.87.1", "the gateway 192.168.87.1 is not in 192.168.86.0/24"),
        ("journal_max=lots", "journal_max is 'lots'; it has to be an amount such as 64M."),
        ("redis_maxmemory=100%", "does not fit"),
        ("redis_maxmemroy=2gb", "redis_maxmemroy is no tunable (did you mean redis_maxmemory?)"),
    ],
)
def test_data(bare: Lab, data: str, sentence: str) -> None:
    refused(bare.deploy("--data", data, address=bare.address()), sentence)


def test_unreachable_node(bare: Lab) -> None:
    refused(bare.deploy(address="192.168.86.77"), "[cn01] Could not connect")


def test_wrong_user_or_key(bare: Lab) -> None:
    refused(bare.deploy("--ssh-user", "nobody", address=bare.address()), "[cn01] Authentication error")


def test_wrong_password(bare: Lab, tmp_path: Path) -> None:
    run = bare.deploy("--ssh-password", "not-it", address=bare.address(), env=("-u", "OKOME_SSH_KEY"))
    refused(run, "[cn01] Authentication error")


def test_no_secrets(bare: Lab) -> None:
    refused(
        bare.deploy(address=bare.address(), env=("OKOME_SECRETS=/nonexistent",)),
        "no secrets: run `make secrets`",
    )


def test_sudo_that_asks_for_a_password(bare: Lab) -> None:
    rule = "/etc/sudoers.d/010_pi-nopasswd"
    bare.execute("mv", rule, "/root/rule")
    try:
        refused(bare.deploy(address=bare.address()), "ncadmin needs sudo without a password")
    finally:
        bare.execute("mv", "/root/rule", rule)


def test_one_address_for_two_nodes(bare: Lab) -> None:
    refused(
        bare.deploy(deploy="deploys/site.py", address=bare.address()),
        "--data ssh_hostname= is where one node",
    )


def test_no_network_manager_in_charge(bare: Lab) -> None:
    """The address stays when its manager goes; nobody is then asked to change it."""
    bare.execute("sh", "-c", "systemctl stop NetworkManager && nmcli -v >/dev/null")
    try:
        refused(bare.deploy(address=bare.address()), "no known network manager is in charge of host0")
    finally:
        bare.execute("systemctl", "start", "NetworkManager")
        bare.address()
