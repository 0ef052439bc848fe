"""What holds for all tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import inventory
from tests.conftest import AS_ROOT, lab_can_run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "left_out",
    [
        "import pytest\n@pytest.mark.skipif(True, reason='no such program')\ndef test_it(): pass\n",
        "import pytest\ndef test_it(): pytest.skip('no such program')\n",
        "import pytest\n@pytest.fixture\ndef it(): pytest.skip('no such program')\ndef test_it(it): pass\n",
    ],
    ids=["by a mark", "in the test", "in a fixture"],
)
def test_where_the_lab_can_run_nothing_is_skipped(tmp_path: Path, left_out: str) -> None:
    (tmp_path / "test_it.py").write_text(left_out)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rs",
         f"--rootdir={tmp_path}", "-c", "/dev/null", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "no such program" in done.stdout
    fails = lab_can_run() and not AS_ROOT
    assert ("no test is skipped: no such program" in done.stdout) == fails
    assert done.returncode == fails


@pytest.mark.parametrize(("node", "status"), [(inventory.backends[0][0], 0), ("cn77", 4)])
def test_verification_of_one_node_runs_what_is_about_it(node: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q",
         "tests/verify", "--node", node],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == status
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    assert bool(collected) == (status == 0)
    assert all(f"[{node}" in line or f"-{node}" in line for line in collected), collected
    assert status == 0 or done.stderr.startswith(f"ERROR: --node {node} is not in inventory.py; there is ")


def test_a_node_that_does_not_answer_is_waited_for_once(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho >>{tmp_path}/asked\necho no route to it >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    name, data = inventory.backends[0]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/verify/test_backend.py",
         "--node", name],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.count(f"\n{name} does not answer at {data['address']}: no route to it\n") > 10
    assert (tmp_path / "asked").read_text() == "\n"
