"""The operator's command itself."""

import subprocess
from pathlib import Path

import pytest

OKOME = Path(__file__).parents[3] / "console/okome"


@pytest.mark.parametrize(
    ("words", "status", "last"),
    [
        (["--help"], 0, "  status     the whole tier"),
        ([], 2, "  status     the whole tier"),
        (["purge"], 2, "okome: there is no command 'purge'."),
        (["status", "--yaml"], 2, "okome status: error: unrecognized arguments: --yaml"),
    ],
)
def test_what_it_says_to_whom_does_not_know_it(words: list[str], status: int, last: str) -> None:
    done = subprocess.run([OKOME, *words], capture_output=True, text=True, check=False, timeout=60)
    said = done.stderr if status else done.stdout
    assert done.returncode == status
    assert said.startswith("usage: okome ")
    assert said.splitlines()[-1].startswith(last)
    assert not (done.stdout if status else done.stderr)
