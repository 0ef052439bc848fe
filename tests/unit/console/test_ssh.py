"""How status and verification reach a node, said to ssh itself."""

import shutil
import subprocess

import pytest

from console.ssh import options
from console.status import ssh
from group_data.all import ssh_user


def test_the_key_and_the_known_hosts_are_the_deploy_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OKOME_SSH_KEY", raising=False)
    monkeypatch.delenv("OKOME_KNOWN_HOSTS", raising=False)
    assert not {"IdentityFile", "UserKnownHostsFile"} & set(options())
    monkeypatch.setenv("OKOME_SSH_KEY", "/a/key")
    monkeypatch.setenv("OKOME_KNOWN_HOSTS", "/a/known_hosts")
    command, address = ssh("192.0.2.1")[:-1], ssh("192.0.2.1")[-1]
    assert shutil.which("ssh")
    asked = subprocess.run([*command, "-G", address], capture_output=True, text=True, check=True, timeout=30)
    said = asked.stdout.splitlines()
    for line in (f"user {ssh_user}", "identityfile /a/key", "userknownhostsfile /a/known_hosts"):
        assert line in said
    # Nobody is asked, and a host whose key has changed is refused.
    assert {"batchmode yes", "stricthostkeychecking accept-new"} <= set(said)
    assert "connecttimeout 5" in said
