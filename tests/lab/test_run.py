"""The main job on a booted backend: from bare to finished, again, and through everything that interrupts it."""

import pytest

from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change, cut_at, killed_at, undisturbed


def test_bare_node_becomes_cn01_and_stays_it(lab: Lab) -> None:
    undisturbed(lab, "cn01")
    lab.verify()
    lab("power", "cn01", "reboot")
    assert lab.address() == "192.168.86.19"
    lab.verify()
    assert_no_change(lab.deploy())


def test_site_goes_on_without_a_node_that_is_down(lab: Lab) -> None:
    undisturbed(lab, "cn01")
    lab("power", "cn00", "off", check=False)  # of another test's, if there is one
    run = lab.deploy(deploy="deploys/site.py")
    assert (run.status, run.changed) == (1, 0), run.output
    assert "[cn00] Could not connect" in run.output
    assert_no_change(lab.deploy("--limit", "backends", deploy="deploys/site.py"))


def test_trixie(lab: Lab) -> None:
    address = lab.fresh(suite="trixie")
    first = lab.deploy(address=address)
    assert first.status == 0, first.output
    assert_no_change(lab.deploy())
    lab("power", "cn01", "reboot")
    lab.verify()
    assert_no_change(lab.deploy())


# operation that begins, seconds after that
MOMENTS = [
    ("Journal in RAM", 0.0),
    ("Starting operation: Basic setup: backend | Redis ", 1.5),  # in the middle of apt
    ("Starting operation: Basic setup: backend | Redis ", 4.0),
    ("Redis configuration", 0.0),
    ("redis-server runs", 0.0),
]


@pytest.mark.parametrize(("operation", "later"), MOMENTS)
def test_control_machine_killed(lab: Lab, operation: str, later: float) -> None:
    killed_at(lab, "cn01", operation, later)


@pytest.mark.parametrize(("operation", "later"), MOMENTS[1:4])
def test_power_cut(lab: Lab, operation: str, later: float) -> None:
    cut_at(lab, "cn01", operation, later)
