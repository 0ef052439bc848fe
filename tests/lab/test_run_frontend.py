"""A frontend whose deploy is interrupted, on booted nodes: the next run makes it good."""

import pytest

from tests.lab.conftest import Lab, kill_group
from tests.lab.runs import (
    assert_no_change,
    assert_same,
    cut_at,
    deploy_of,
    fingerprint,
    killed_at,
    start,
    undisturbed,
    wait_for,
)

WRITTEN = "nginx runs"  # its files are in place, and nobody told it


def test_control_machine_killed(lab: Lab) -> None:
    killed_at(lab, "cn00", WRITTEN, 0.0)


def test_power_cut(lab: Lab) -> None:
    cut_at(lab, "cn00", WRITTEN, 0.0)


# nginx closes a connection that asks for a name it does not know.
ASK = """
import sys, urllib.request
asked = urllib.request.Request("http://127.0.0.1/okome/health", headers={"Host": sys.argv[1]})
print(urllib.request.urlopen(asked, timeout=20).status)
"""


def test_a_reload_that_was_prevented_is_made_good(lab: Lab) -> None:
    """The files of a finished frontend have changed, and the run dies before nginx is told."""
    expected, deploy = undisturbed(lab, "cn00"), deploy_of("cn00")
    for name in ("one.example", "two.example", "three.example"):
        named = ("--data", f'server_names=["{name}"]')
        run = start(lab, "cn00", *named)
        wait_for(run, "nginx runs")
        kill_group(run)
        again = lab.deploy(*named, deploy=deploy)
        assert (again.status, again.errors) == (0, 0), again.output
        assert lab.execute("python3", "-c", ASK, name, node="cn00").strip() == "200"
        if again.changed:
            break
    else:
        pytest.fail("nginx was always told before the run was dead")
    assert_no_change(lab.deploy(*named, deploy=deploy))
    back = lab.deploy(deploy=deploy)
    assert (back.status, back.changed, back.errors) == (0, 2, 0), back.output
    assert_same(fingerprint(lab, "cn00"), expected)
