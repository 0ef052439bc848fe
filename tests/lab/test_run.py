"""The main job on booted nodes: from bare to finished, again, and through everything that interrupts it."""

import functools
import re
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import ENVIRONMENT, ROOT, Lab, Run, kill_group

ADDRESS = {"cn00": "192.168.86.20", "cn01": "192.168.86.19"}
# What no two nodes have in common, or no two moments.
OWN = r"/etc/(ssh/ssh_host|machine-id|resolv\.conf|shadow)|/var/lib/okome/(lists-fetched|address/)"


def deploy_of(node: str) -> str:
    return f"deploys/{node}.py"


def fingerprint(lab: Lab, node: str = "cn01") -> dict[str, str]:
    """What a node is, as far as a deploy could have changed it: files with mode and owner, packages, units,
    settings in effect."""
    answers = {
        question: lab.execute("sh", "-c", f"{question} 2>/dev/null; true", node=node)
        for question in (
            "dpkg -l",
            "systemctl list-unit-files --no-pager --no-legend",
            "ip -4 -o address show scope global | awk '{print $4}'",
            "hostname; sysctl net.core.somaxconn; ls -d /tmp/[!s]* /run/okome*",
            "systemctl is-active redis-server nginx okome-probe okome-hitratio.timer prometheus-nginx-exporter",
        )
    }
    places = "/etc /usr/local /var/lib/okome /var/lib/redis"
    listing = lab.execute(
        "sh",
        "-c",
        f"find {places} ! -type d -printf '%p %y %m %u %g %l\\n';"
        f" find {places} -type f -exec sha256sum {{}} +; true",
        node=node,
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
def undisturbed(lab: Lab) -> Callable[[str], dict[str, str]]:
    """The fingerprint of a node that nothing interrupted, by name; its run is itself a test."""

    @functools.cache
    def run(node: str) -> dict[str, str]:
        address, deploy = lab.fresh(node=node), deploy_of(node)
        before = fingerprint(lab, node)
        dry = lab.deploy("--dry", deploy=deploy, address=address)
        assert (dry.status, dry.changed) == (0, -1), dry.output
        assert "hosts_with_change" in dry.output
        assert_same(fingerprint(lab, node), before)

        first = lab.deploy(deploy=deploy, address=address)
        assert (first.status, first.errors) == (0, 0), first.output
        assert first.changed > 10
        (other,) = ADDRESS.keys() - {node}
        assert f"[{other}]" not in first.output
        assert lab.address(node) == ADDRESS[node]
        assert_no_change(lab.deploy(deploy=deploy))
        return fingerprint(lab, node)

    return run


@pytest.fixture(scope="module")
def finished(undisturbed: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return undisturbed("cn01")


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


def start(lab: Lab, node: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        lab.pyinfra(deploy_of(node), "-y", *words),
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


# node, operation that begins, seconds after that
MOMENTS = [
    ("cn01", "Journal in RAM", 0.0),
    ("cn01", "Basic setup: backend | Redis ", 1.5),  # in the middle of apt
    ("cn01", "Basic setup: backend | Redis ", 4.0),
    ("cn01", "Redis configuration", 0.0),
    ("cn01", "redis-server runs", 0.0),
    ("cn00", "nginx runs", 0.0),  # its files are in place, and nobody told it
]


@pytest.mark.parametrize(("node", "operation", "later"), MOMENTS)
def test_control_machine_killed(
    lab: Lab, undisturbed: Callable[[str], dict[str, str]], node: str, operation: str, later: float
) -> None:
    expected = undisturbed(node)
    run = start(lab, node, "--data", f"ssh_hostname={lab.fresh(node=node)}")
    wait_for(run, f"Starting operation: {operation}" if "|" in operation else operation)
    time.sleep(later)
    kill(run)
    assert_made_good(lab, node, expected)


def assert_made_good(lab: Lab, node: str, expected: dict[str, str]) -> None:
    """The next run finishes what was interrupted, and the node is what it would have been."""
    again = lab.deploy(deploy=deploy_of(node), address=lab.address(node))
    assert again.status == 0, again.output
    assert_same(fingerprint(lab, node), expected)
    assert_no_change(lab.deploy(deploy=deploy_of(node)))


@pytest.mark.parametrize(("node", "operation", "later"), [*MOMENTS[1:4], MOMENTS[5]])
def test_power_cut(
    lab: Lab, undisturbed: Callable[[str], dict[str, str]], node: str, operation: str, later: float
) -> None:
    expected = undisturbed(node)
    run = start(lab, node, "--data", f"ssh_hostname={lab.fresh(node=node)}")
    wait_for(run, operation)
    time.sleep(later)
    lab("power", node, "cut")
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 1
    assert "the connection is lost; run the deploy again" in said
    assert "Traceback" not in said
    lab("power", node, "on")
    assert_made_good(lab, node, expected)


# nginx closes a connection that asks for a name it does not know.
ASK = """
import sys, urllib.request
asked = urllib.request.Request("http://127.0.0.1/okome/health", headers={"Host": sys.argv[1]})
print(urllib.request.urlopen(asked, timeout=20).status)
"""


def test_a_reload_that_was_prevented_is_made_good(
    lab: Lab, undisturbed: Callable[[str], dict[str, str]]
) -> None:
    """The files of a finished frontend have changed, and the run dies before nginx is told."""
    expected, deploy = undisturbed("cn00"), deploy_of("cn00")
    for name in ("one.example", "two.example", "three.example"):
        named = ("--data", f'server_names=["{name}"]')
        run = start(lab, "cn00", *named)
        wait_for(run, "nginx runs")
        kill(run)
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
