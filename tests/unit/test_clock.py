"""A clock that jumps by an hour in the middle of a deploy fails nothing: no deadline of ours is read from it."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facts.packages import WAIT
from facts.units import SHOW
from operations.primitives.unit import TELL
from operations.services.redis import STOP

ROOT = Path(__file__).parents[2]
WALL = re.compile(
    r"""\bdate\b[^\n;|)]*[ "'](\+|-u\b|-I|-R\b|--utc|--universal|--iso|--rfc|@)"""
    r"|\b(time|clock)\.time\b|\btime_ns\b|\b(local|gm)time\(\)|\bctime\(\)"
    r"|\b(utcnow|today)\(|\bdatetime\.now|\bfrom time import .*\btime\b"
    r"|\bEPOCH(SECONDS|REALTIME)\b|\$\{?SECONDS\b|\(\( ?SECONDS\b|%\([^)]*\)T|Date\.now|new Date\(\)"
)
# Asked for the time of day itself: how wrong a node's clock is, how old apt's lists are, what an answer's Date is to;
# when an answer was made, and a word that no other run has said; how far a host's clock is from Redis', and which of
# the two is behind.
TIME_OF_DAY = {
    "facts/machine.py",
    "facts/packages.py",
    "operations/primitives/clock.py",
    "templates/etc/nginx/okome/freshness.js",
    "okome/connection.py",
    "okome/ledger.py",
    "okome/openai.py",
    "lab/node.py",
    "tests/lab/test_planner.py",
    "tests/lab/test_strangers.py",
    "tests/unit/okome/test_budget.py",
    "tests/unit/okome/test_ledger_file.py",
    "tests/unit/test_clock.py",
}
ROOMS = ["bench", "console", "deploys", "facts", "lab", "node", "okome", "operations", "templates", "tests"]
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.mark.parametrize(
    ("text", "wall"),
    [
        ("date +%s", True),
        ("date -u +%s", True),
        ("date --utc", True),
        ('date "+%s"', True),
        ("time.time()", True),
        ("clock: Callable[[], float] = time.time", True),
        ("time.time_ns()", True),
        ("datetime.utcnow()", True),
        ("datetime.now(UTC)", True),
        ("from time import sleep, time", True),
        ("EPOCHSECONDS + 5", True),
        ("[ $SECONDS -lt 9 ]", True),
        ("printf '%(%s)T'", True),
        ("Date.now()", True),
        ("time.monotonic()", False),
        ("time.monotonic_ns()", False),
        ("apt-get update -u", False),
        ("an out-of-date file", False),
        ("from time import monotonic", False),
        ("SETTLE_SECONDS = 90", False),
        ("CHECK_SECONDS, CHECKERS", False),
    ],
)
def test_what_reads_the_wall_clock(text: str, wall: bool) -> None:
    assert bool(WALL.search(text)) == wall


@pytest.mark.parametrize("room", ROOMS)
def test_no_wait_is_measured_by_the_wall_clock(room: str) -> None:
    files = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files
    reads = {str(path.relative_to(ROOT)) for path in files if WALL.search(path.read_text(errors="replace"))}
    assert reads == {path for path in TIME_OF_DAY if path.startswith(f"{room}/")}


@pytest.fixture
def jumping(tmp_path: Path) -> dict[str, str]:
    """The environment of programs for which it is as much later as the file `clock` says, uptime aside."""
    if not LIBRARIES:
        pytest.skip("Debian's package faketime is not installed")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    return os.environ | {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "PYTHONPATH": str(ROOT),
    }


# In place of a wait: an hour passes, for the clock on the wall.
JUMP = 'sleep() { echo >>slept; echo "+$(wc -l <slept)h" >clock; }\n'
# A systemctl whose answers to `show` are the lines of a file, the last one for ever.
SYSTEMCTL = r"""#!/bin/sh
case "$*" in
    *MainPID*) echo 0 ;;
    *show*) head -n 1 answers | tr ' ' '\n'; [ "$(wc -l <answers)" -eq 1 ] || sed -i 1d answers ;;
esac
"""
MOVING = "Id=x.service ActiveState=activating Job=7 NRestarts=0 InvocationID=a"
UP = "Id=x.service ActiveState=active Job= NRestarts=0 InvocationID=a"


@pytest.mark.parametrize(
    ("text", "words", "answers", "said"),
    [
        ('date +%s; sleep 1; date +%s', [], [UP], None),
        (TELL, ["x.service", "restart", "600", "true", "600"], [MOVING, MOVING, MOVING, UP], ""),
        (TELL, ["x.service", "restart", "600", '[ "$(wc -l <slept)" -gt 3 ]', "600"], [UP], ""),
        (SHOW, ["600", "x.service"], [MOVING, MOVING, MOVING, UP], UP.replace(" ", "\n") + "\n"),
        (STOP, ["x.service", "600"], ["active", "deactivating", "deactivating", "inactive"], ""),
    ],
    ids=["the jump itself", "a start", "its proof", "what is on its way", "a Redis that saves"],
)  # fmt: skip
def test_shell_that_waits_goes_on_waiting_after_a_jump(
    tmp_path: Path, jumping: dict[str, str], text: str, words: list[str], answers: list[str], said: str | None
) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "answers").write_text("\n".join(answers) + "\n")
    done = subprocess.run(
        ["sh", "-c", JUMP + text, "sh", *words], cwd=tmp_path,
        env=jumping | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "slept").exists()
    if said is None:
        before, after = map(int, done.stdout.split())
        assert after - before >= 3600
    else:
        assert done.stdout == said


# The first wait of a program is when an hour passes; each is told.
JUMPS = """
import pathlib, select, time
def sleep(seconds):
    pathlib.Path("clock").write_text("+1h")
    print("waits", flush=True)
    select.select([], [], [], seconds)  # libfaketime has no sleep until a time of the monotonic clock, as Python's is
time.sleep = sleep
"""
GUARD = """
from node.guard import Guard
with Guard("x", state=pathlib.Path.cwd()).lock(600):
    pass
"""
TRANSACTION = """
from node.transaction import lock
lock(pathlib.Path.cwd() / "x", 600)
"""


@pytest.mark.parametrize(
    "program", [WAIT, GUARD, TRANSACTION], ids=["another apt", "another change", "another deploy"]
)
def test_a_lock_is_waited_for_after_a_jump(tmp_path: Path, jumping: dict[str, str], program: str) -> None:
    (tmp_path / "x").mkdir()
    command = [sys.executable, "-c", JUMPS + program, "600", "x/lock"]
    with (tmp_path / "x/lock").open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            command, cwd=tmp_path, env=jumping, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stdout
            assert waiting.stderr
            # The second time it has looked at its deadline after the jump.
            assert [waiting.stdout.readline() for _ in range(2)] == ["waits\n", "waits\n"]
            fcntl.lockf(held, fcntl.LOCK_UN)
            fcntl.flock(held, fcntl.LOCK_UN)
            assert (waiting.wait(60), waiting.stderr.read()) == (0, "")
