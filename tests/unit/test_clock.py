"""A clock that jumps by an hour in the middle of a deploy fails nothing: no deadline of ours is read from it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WALL = re.compile(r"date \+%s|time\.time\(|datetime\.now|\$\{?(EPOCH|SECONDS)|Date\.now")
# Asked for the time of day itself: how wrong a node's clock is, how old apt's lists are, what an answer's Date is to.
TIME_OF_DAY = {
    "facts/machine.py",
    "facts/packages.py",
    "operations/primitives/clock.py",
    "templates/etc/nginx/okome/freshness.js",
}


@pytest.mark.parametrize("room", ["deploys", "facts", "node", "operations", "templates"])
def test_no_wait_is_measured_by_the_wall_clock(room: str) -> None:
    files = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files
    reads = {str(path.relative_to(ROOT)) for path in files if WALL.search(path.read_text(errors="replace"))}
    assert reads <= TIME_OF_DAY
