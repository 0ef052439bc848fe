"""What runs of a deploy have in common: what a node is afterwards, and the ends that a run can come to."""

import functools
import re
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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


def assert_no_change(run: Run) -> None:
    assert (run.status, run.changed, run.errors) == (0, 0, 0), run.output


@functools.cache
def undisturbed(lab: Lab, node: str) -> dict[str, str]:
    """The fingerprint of a node that nothing interrupted, made once for each lab and node; its run is itself a test."""
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


def start(lab: Lab, node: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        lab.pyinfra(deploy_of(node), "-y", *words),
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, process_group=0,
    )  # fmt: skip


def wait_for(run: subprocess.Popen[str], text: str) -> None:
    """Read the run's output until it says `text`; pytest's own time limit bounds this."""
    assert run.stdout is not None
    said = ""
    for line in run.stdout:
        said += line
        if text in line:
            return
    raise AssertionError(f"the run ended without {text!r}: {said}")


def opened(lab: Lab, path: str) -> set[str]:
    """The processes on cn01 that have this file open."""
    found = lab.execute("sh", "-c", f"find /proc/[0-9]*/fd -lname {path} 2>/dev/null; true")
    return {line.split("/")[2] for line in found.splitlines()}


def deploy_held_up(lab: Lab, lock: str, let_go: Callable[[], object], address: str) -> Run:
    """A deploy of cn01 where somebody holds `lock`, and lets go of it only when the deploy is seen waiting for it."""
    holders = opened(lab, lock)
    assert holders
    with ThreadPoolExecutor(1) as other:
        run = other.submit(lab.deploy, address=address)
        try:
            while not opened(lab, lock) - holders:
                assert not run.done(), f"it waited for nobody: {run.result().output}"
                time.sleep(0.2)
        finally:
            let_go()
        return run.result()


def assert_made_good(lab: Lab, node: str, expected: dict[str, str]) -> None:
    """The next run finishes what was interrupted, and the node is what it would have been."""
    again = lab.deploy(deploy=deploy_of(node), address=lab.address(node))
    assert again.status == 0, again.output
    assert_same(fingerprint(lab, node), expected)
    assert_no_change(lab.deploy(deploy=deploy_of(node)))


def killed_at(lab: Lab, node: str, operation: str, later: float) -> None:
    """The control machine is gone `later` seconds after an operation has begun: nothing of it says goodbye."""
    expected = undisturbed(lab, node)
    run = start(lab, node, "--data", f"ssh_hostname={lab.fresh(node=node)}")
    wait_for(run, operation)
    time.sleep(later)
    kill_group(run)
    assert_made_good(lab, node, expected)


def cut_at(lab: Lab, node: str, operation: str, later: float) -> None:
    """The node loses its power."""
    expected = undisturbed(lab, node)
    run = start(lab, node, "--data", f"ssh_hostname={lab.fresh(node=node)}")
    wait_for(run, operation)
    time.sleep(later)
    lab("power", node, "cut")
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 1
    assert "the connection is lost; run the deploy again" in said, said
    assert "Traceback" not in said, said
    lab("power", node, "on")
    assert_made_good(lab, node, expected)
