"""What others do with nginx's logs and folders: found before anything changes, by file and line."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from facts.overrides import LOGROTATE, TMPFILES, Overrides
from facts.several import Question
from operations.primitives.config_set import rendered
from operations.primitives.managed import MARK
from operations.primitives.overrides import UNITS
from operations.primitives.preflight import Look
from operations.services.nginx import ACCESS_LOG, FOLDERS

SCRIPTS = ("prerotate", "postrotate", "firstaction", "lastaction", "preremove")
# logrotate.8, tabooext.
IGNORED = (
    ",v", ".bak", ".cfsaved", ".disabled", ".dpkg-bak", ".dpkg-del", ".dpkg-dist", ".dpkg-new", ".dpkg-old",
    ".dpkg-tmp", ".rpmnew", ".rpmorig", ".rpmsave", ".swp", ".ucf-dist", ".ucf-new", ".ucf-old", "~",
)  # fmt: skip

# tmpfiles.d(5): what makes a path, and what does something to one that is there.
MAKES, CHANGES = "fFdvqQpLcbC", "DrRzZ"


def _matches(path: str, pattern: str) -> bool:
    """As glob(3) has it: no star goes beyond a slash."""
    parts, patterns = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def logs(text: str) -> Iterator[tuple[int, str]]:
    """Line and pattern of every log that a file of logrotate's is about."""
    script = block = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        first = words[0] if words else "#"
        if script:
            script = first != "endscript"
            block = script or "}" not in words
        elif block:
            script = first in SCRIPTS
            block = "}" not in words
        elif not first.startswith("#"):
            names, brace, rest = line.partition("{")
            block = bool(brace) and "}" not in rest
            quoted = (one.strip("\"'") for one in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", names))
            yield from ((number, one) for one in quoted if one.startswith("/"))


def rotated_twice(found: Mapping[str, str]) -> list[str]:
    """Rules that take our log too: logrotate skips the whole file of the later one, which may be ours.

    `found`: path → text. Debian's own, /var/log/nginx/*.log, does not reach into our folder.
    """
    return [
        f"{path}:{line} rotates {pattern}, our {ACCESS_LOG} among them, for which logrotate takes one rule only:"
        " take it out"
        for path, text in found.items()
        if path == LOGROTATE[1] or (path.startswith(f"{LOGROTATE[0]}/") and not path.endswith(IGNORED))
        if not text.startswith(MARK)
        for line, pattern in logs(text)
        if _matches(ACCESS_LOG, pattern)
    ]


def made_otherwise(found: Mapping[str, str], ours: str) -> list[str]:
    """Lines about our folders that are in effect at the next boot, as tmpfiles.d(5) has it: of two that make one path
    that of the file whose name sorts first, and any that removes or changes what is there.

    `ours`: the text of our file.
    """
    mine = {fields[1]: fields[:5] for _, fields in _lines(ours)}
    name = PurePosixPath(FOLDERS.paths[0]).name
    return [
        f"{path}:{number} says {' '.join(fields)!r}, which is in effect on {one} at the next boot: take it out"
        for path, text in found.items()
        if str(PurePosixPath(path).parent) in TMPFILES and not text.startswith(MARK)
        for number, fields in _lines(text)
        for one in mine
        if _matches(one, fields[1]) and fields[:5] != mine[one]
        if fields[0][0] in CHANGES or (fields[0][0] in MAKES and PurePosixPath(path).name < name)
    ]


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is about a path."""
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if len(fields) > 1 and not fields[0].startswith("#"):
            yield number, fields


def look(data: Mapping[str, Any]) -> Look:
    """`data` is the host's."""
    (ours,) = (text.decode() for text in rendered(FOLDERS, data).values() if text is not None)
    return Look(
        (Question(Overrides, {"units": UNITS}),),
        lambda found: [*rotated_twice(found), *made_otherwise(found, ours)],
    )
