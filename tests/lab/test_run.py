"""The main job on booted nodes: from bare to finished, again, and through everything that interrupts it."""

import re
import subprocess
import time

import pytest

from tests.lab.conftest import ENVIRONMENT, ROOT, Lab, Run, kill_group

DEPLOY = "deploys/cn01.py"
# What no two nodes have in common, or no two moments.
OWN = r"/etc/(ssh/ssh_host|machine-id|resolv\.conf|shadow)|/var/lib/okome/(lists-fetched|address/)"


def fingerprint(lab: Lab) -> dict[str, str]:
    """What a node is, as far as a deploy could have changed it: files with mode and owner, packages, units,
    settings in effect."""
    answers = {
        question: lab.execute("sh", "-c", f"{question} 2>/dev/null; true")
        for question in (
            "dpkg -l",
            "systemctl list-unit-files --no-pager --no-legend",
            "ip -4 -o address show scope global | awk '{print $4}'",
            "hostname; sysctl net.core.somaxconn; systemctl is-active redis-server; ls -d /tmp/[!s]* /run/okome*",
        )
    }
    places = "/etc /usr/local /var/lib/okome /var/lib/redis"
    listing = lab.execute(
        "sh",
        "-c",
        f"find {places} ! -type d -printf '%p %y %m %u %g %l\\n';"
        f" find {places} -type f -exec sha256sum {{}} +; true",
    )
    for line in listing.splitlines():
        path = next(word for word in line.split() if word.startswith("/"))
        if not re.match(OWN, path):
            answers[path] = answers.get(path, "") + line.replace(path, "")
    return answers


def assert_same(found: dict[str, str], expected: dict[str, str]) -> None:
    different = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert not different, {key: (found.get(key), expected.get(key)) for key in different}


@pytest.fixture(scope="module")
def finished(lab: Lab) -> dict[str, str]:
    """The fingerprint of an undisturbed run, which is itself a test of it."""
    address = lab.fresh()
    before = fingerprint(lab)
    dry = lab.deploy("--dry", address=address)
    assert (dry.status, dry.changed) == (0, -1), dry.output
    assert "hosts_with_change" in dry.output
    assert_same(fingerprint(lab), before)

    first = lab.deploy(address=address)
    assert (first.status, first.errors) == (0, 0), first.output
    assert first.changed > 10
    assert "[cn00]" not in first.output
    assert lab.address() == "192.168.86.19"
    assert_no_change(lab.deploy())
    return fingerprint(lab)


def assert_no_change(run: Run) -> None:
    assert (run.status, run.changed, run.errors) == (0, 0, 0), run.output


def test_bare_node_becomes_cn01_and_stays_it(lab: Lab, finished: dict[str, str]) -> None:
    lab.verify()
    lab("power", "cn01", "reboot")
    assert lab.address() == "192.168.86.19"
    lab.verify()
    assert_no_change(lab.deploy())


def test_site_goes_on_without_a_node_that_is_down(lab: Lab, finished: dict[str, str]) -> None:
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


def start(lab: Lab, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        lab.pyinfra(DEPLOY, "-y", "--data", f"ssh_hostname={address}"),
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, process_group=0,
    )  # fmt: skip


def wait_for(run: subprocess.Popen[str], text: str) -> None:
    """Read the run's output until it says `text`; pytest's own time limit bounds this."""
    assert run.stdout is not None
    for line in run.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended without {text!r}")


def kill(run: subprocess.Popen[str]) -> None:
    """The control machine is gone: nothing of it gets to say goodbye."""
    kill_group(run)


MOMENTS = [
    ("Journal in RAM", 0.0),
    ("Basic setup: backend | Redis ", 1.5),  # in the middle of apt
    ("Basic setup: backend | Redis ", 4.0),
    ("Redis configuration", 0.0),
    ("redis-server runs", 0.0),
]


@pytest.mark.parametrize(("operation", "later"), MOMENTS)
def test_control_machine_killed(lab: Lab, finished: dict[str, str], operation: str, later: float) -> None:
    run = start(lab, lab.fresh())
    wait_for(run, f"Starting operation: {operation}" if "|" in operation else operation)
    time.sleep(later)
    kill(run)
    again = lab.deploy(address=lab.address())
    assert again.status == 0, again.output
    assert_same(fingerprint(lab), finished)
    assert_no_change(lab.deploy())


@pytest.mark.parametrize(("operation", "later"), MOMENTS[1:4])
def test_power_cut(lab: Lab, finished: dict[str, str], operation: str, later: float) -> None:
    run = start(lab, lab.fresh())
    wait_for(run, operation)
    time.sleep(later)
    lab("power", "cn01", "cut")
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 1
    assert "the connection is lost; run the deploy again" in said
    assert "Traceback" not in said
    lab("power", "cn01", "on")
    again = lab.deploy(address=lab.address())
    assert again.status == 0, again.output
    assert_same(fingerprint(lab), finished)
    assert_no_change(lab.deploy())
