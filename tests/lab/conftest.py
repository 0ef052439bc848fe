"""A lab of the tests' own: it stands beside one that somebody uses, and is taken down at the end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AS_ROOT

ROOT = Path(__file__).resolve().parents[2]
# Each worker of pytest-xdist has a lab of its own, and so have the workers of another run with another OKOME_LAB.
NAME = (
    f"{os.environ.get('OKOME_LAB', 'tes')[:5]}t{os.environ.get('PYTEST_XDIST_WORKER', '').removeprefix('gw')}"
)
ENVIRONMENT = os.environ | {"OKOME_LAB": NAME, "PYINFRA_PROGRESS": "off"}


@dataclass(frozen=True)
class Run:
    """One run of pyinfra: exit status, everything it printed, and its own counts per operation."""

    status: int
    output: str
    changed: int
    errors: int


class Lab:
    """The commands that a person would type, in the repository at `root`."""

    root = ROOT

    def command(self, *words: str) -> list[str]:
        # sudo keeps nothing of its own accord; and bytecode in the checkout is not to be root's.
        keep = ("OKOME_LAB", "XDG_CACHE_HOME", "SSL_CERT_FILE")
        kept = [f"{key}={ENVIRONMENT[key]}" for key in keep if key in ENVIRONMENT]
        return [*AS_ROOT, "env", *kept, sys.executable, "-B", "-m", "lab", *words]

    def __call__(self, *words: str, timeout: float = 600, check: bool = True) -> str:
        done = subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"lab {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def fresh(self, suite: str = "bookworm", manager: str = "networkmanager", node: str = "cn01") -> str:
        """A bare node; its DHCP address."""
        self("up", node, "--fresh", "--suite", suite, "--manager", manager, timeout=1500)
        return self.address(node)

    def address(self, node: str = "cn01") -> str:
        """Where SSH answers now."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            address: str | None = json.loads(self("status", "--json"))["nodes"][node]["address"]
            if address:
                return address
        raise AssertionError(f"{node} answers nowhere")

    def execute(self, *words: str, node: str = "cn01", check: bool = True) -> str:
        """As root inside the node."""
        return self("exec", node, "--", *words, check=check)

    def pyinfra(self, *words: str) -> list[str]:
        return self.command("run", "--", "pyinfra", "inventory.py", *words)

    def deploy(
        self,
        *words: str,
        deploy: str = "deploys/cn01.py",
        address: str | None = None,
        env: tuple[str, ...] = (),
        timeout: float = 900,
    ) -> Run:
        """Run a deploy to its end; `address` where it is not the final one, with env(1)'s words"""
        where = ["--data", f"ssh_hostname={address}"] if address else []
        options = ["--json", *where, *(words if "--dry" in words else ("-y", *words))]
        done = subprocess.run(
            self.command("run", "--", "env", *env, "pyinfra", "inventory.py", deploy, *options),
            cwd=self.root,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        results = json.loads(done.stdout)["results"] if done.stdout.startswith("{") else None
        totals = results["totals"] if results else {}
        return Run(
            done.returncode,
            done.stdout + done.stderr,
            changed=totals.get("success", -1),
            errors=totals.get("error", -1),
        )

    def verify(self, *words: str, node: str = "cn01", check: bool = True) -> str:
        """testinfra's word on the finished node, as an operator asks for it; with `check`, all of it passed."""
        pytest = [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/verify", "--node", node]
        return self("run", "--", *pytest, *words, timeout=900, check=check)


def kill_group(run: subprocess.Popen[Any]) -> None:
    """SIGKILL for a run and all it started, which may be root's."""
    subprocess.run([*AS_ROOT, "kill", "-KILL", "--", f"-{run.pid}"], check=False, timeout=30)
    run.wait(timeout=30)


# The modules that take longest, first of all: what begins last must not be what everybody waits for.
LONGEST = (
    "test_run.py",
    "test_address.py",
    "test_run_frontend.py",
    "test_strangers.py",
    "test_frontend.py",
    "test_failover.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A node that is made, booted and deployed takes a minute, on a machine that is busy with other labs ten."""
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in ours:
        item.add_marker(pytest.mark.timeout(1800))
    rank = dict(zip(LONGEST, range(len(LONGEST)), strict=True))
    ours.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
    items[:] = [item for item in items if item not in ours] + ours


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    lab = Lab()
    lab("down")  # of a run that was killed
    yield lab
    lab("down")
