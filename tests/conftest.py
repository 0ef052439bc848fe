"""What all tests share: where the lab cannot run, its tests are left out, and a line says so."""

import importlib
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from unittest import mock

import pytest

# pyinfra's command line makes threads, sockets and subprocesses of the whole process cooperative (gevent) as
# soon as it is imported, and pyinfra_testing imports it. Tests of asyncio code run in this process, too.
with mock.patch("gevent.monkey.patch_all"):
    importlib.import_module("pyinfra_cli")

LAB_TESTS = Path(__file__).parent / "lab"
VERIFY = Path(__file__).parent / "verify"
# For everything the lab does: `python -m lab` as root.
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]


def lab_can_run() -> bool:
    """Linux and a way to be root. Programs that are missing are no excuse: `make test` installs them."""
    return sys.platform == "linux" and (not AS_ROOT or shutil.which("sudo") is not None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path == LAB_TESTS and not lab_can_run():
        return True
    # tests/verify talks to live nodes, so only to those who ask for it by name: `make validate` against
    # production, tests/lab from inside the lab. A run of everything must send nothing to these addresses.
    asked = any(VERIFY.name in str(argument) for argument in config.invocation_params.args)
    return True if collection_path == VERIFY and not asked else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """As root of a machine where the lab can run, as `make test` is, all tests do: what is left out has failed."""
    report = yield
    if report.skipped and lab_can_run() and not AS_ROOT:
        _, _, why = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
        why = why.removeprefix("Skipped: ")
        report.outcome, report.longrepr = "failed", f"where the lab can run, no test is skipped: {why}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not lab_can_run():
        terminalreporter.write_line(
            "left out: tests/lab boots nodes, which takes Linux and root; in a Linux VM with sudo it runs"
        )


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A node's program sets it for its own process; called by a test, it would be set for all tests behind that one."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
