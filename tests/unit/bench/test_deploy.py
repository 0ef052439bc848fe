"""What `python -m bench deploy` reads out of the two tools' default output."""

import pytest

from bench.delay import grown
from bench.deploy import ANSIBLE, PYINFRA, NotANoOpError, Tool
from lab import LabError


def changed(tool: str, output: str) -> int:
    """As Tool.changed, for a run that ended with this line."""
    pattern = {"pyinfra": PYINFRA, "ansible": ANSIBLE}[tool]
    return Tool(tool, (tool,), environment={}, pattern=pattern).changed(f"…\n{output}\n\n…")


@pytest.mark.parametrize(
    ("tool", "last", "changes"),
    [
        ("pyinfra", "    Grand total    18      -         -       18          ", 0),
        ("pyinfra", "    Grand total    18      15        -       3           ", 15),
        ("pyinfra", "    Grand total    18      18        -       -           ", 18),
        ("ansible", "cn01    : ok=22   changed=0    unreachable=0    failed=0    skipped=3", 0),
        ("ansible", "cn01    : ok=22   changed=12   unreachable=0    failed=0    skipped=3", 12),
    ],
)
def test_changes_are_read_from_the_last_line(tool: str, last: str, changes: int) -> None:
    assert changed(tool, last) == changes


@pytest.mark.parametrize(
    ("tool", "last"),
    [
        ("pyinfra", "    Grand total    18      3         1       14          "),
        ("pyinfra", "--> pyinfra error: No hosts remaining!"),
        ("ansible", "cn01    : ok=0    changed=0    unreachable=1    failed=0    skipped=0"),
        ("ansible", "cn01    : ok=5    changed=0    unreachable=0    failed=1    skipped=0"),
        ("ansible", "skipping: no hosts matched"),
    ],
)
def test_a_failed_run_is_not_taken_for_a_fast_one(tool: str, last: str) -> None:
    with pytest.raises(NotANoOpError, match="did not come to its end"):
        changed(tool, last)


def test_a_delay_that_is_not_there_is_an_error() -> None:
    assert grown(0.1, 5.2, 5) == 5.2
    with pytest.raises(LabError, match="a delay of 5 ms"):
        grown(0.1, 0.2, 5)
