"""The mount table that is there, and the copy that was kept of an earlier one."""

import base64
from dataclasses import dataclass

from facts.answer import Answer

FSTAB = "/etc/fstab"
BACKUP = "/etc/fstab.before-okome"
VERIFY = f"findmnt --verify --tab-file {FSTAB}"


@dataclass(frozen=True)
class FstabState:
    """Whole contents; "" for a file that does not exist."""

    current: str
    backup: str


def parse(output: list[str]) -> FstabState:
    """Two lines: each file in base64."""
    current, backup = (
        base64.b64decode(line.removeprefix("=")).decode(errors="surrogateescape") for line in output
    )
    return FstabState(current, backup)


class Fstab(Answer[FstabState]):
    """/etc/fstab and its backup."""

    def command(self) -> str:
        # base64, because pyinfra hands over lines and a file is more than its lines.
        return f'for file in {FSTAB} {BACKUP}; do echo "=$(base64 -w 0 $file 2>/dev/null)"; done'

    def read(self, output: list[str]) -> FstabState:
        return parse(output)


def objections(output: list[str]) -> list[str]:
    """What findmnt calls an error: `TARGET: why`, or its own words on a line that it can't read."""
    found, target = [], ""
    for line in output:
        if "parse error at" in line:
            found.append(line.removeprefix("findmnt: "))
        elif "[E] " in line:
            found.append(f"{target}: {line.partition('[E] ')[2]}")
        elif line and not line[0].isspace():
            target = line
    return found


class FstabObjections(Answer[list[str]]):
    """Why the present mount table would be refused; nothing where there is none."""

    def command(self) -> str:
        return f"test ! -e {FSTAB} || {VERIFY} 2>&1 || :"

    def read(self, output: list[str]) -> list[str]:
        return objections(output)

    @staticmethod
    def default() -> list[str]:
        return []
