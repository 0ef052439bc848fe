"""What apt says of its sources, before it is to install something; the command runs for real."""

import os
import subprocess
from pathlib import Path

import pytest

from facts.packages import SourceErrors
from operations.services.apt import look

# dpkg-query and apt-get of a node that has one package, and sources that nobody can read.
DPKG_QUERY = 'for name; do test "$name" != redis-server || echo installed; done'
APT_GET = """
test "$*" = "-qq indextargets" || exit 99
echo "MetaKey: main/binary-arm64/Packages"
echo "W: Target Packages is configured multiple times in /etc/apt/sources.list:1" >&2
echo "E: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (Suite)" >&2
echo "E: The list of sources could not be read." >&2
exit 100
"""


@pytest.mark.parametrize(
    ("names", "sentences"),
    [
        (("redis-server",), []),
        (
            ("redis-server", "nginx", "redis-server"),
            [
                "apt can install nothing: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (Suite);"
                " mend that, or remove it"
            ],
        ),
    ],
)
def test_sources_that_can_not_be_read_matter_while_something_is_missing(
    tmp_path: Path, names: tuple[str, ...], sentences: list[str]
) -> None:
    for program, script in (("dpkg-query", DPKG_QUERY), ("apt-get", APT_GET)):
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / program).chmod(0o755)
    asked = look(names)
    (question,) = asked.questions
    done = subprocess.run(
        ["sh", "-c", str(question.fact().plain(**question.arguments))],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert asked.findings(SourceErrors().read(done.stdout.splitlines())) == sentences
