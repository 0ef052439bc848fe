"""nginx's configuration, read from its files: `nginx -T` says nothing when two collide."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from facts import nginx_syntax
from facts.answer import Answer
from facts.nginx_syntax import Directive, parse

ROOT = "/etc/nginx"


@dataclass(frozen=True)
class NginxFile:
    """One file. `packaged`: as Debian's package brought it; `loaded`: nginx reads it (or will, as soon as it includes
    the usual folders). A file that is no nginx configuration has no directives that anybody knows."""

    path: str
    loaded: bool
    packaged: bool
    text: str
    directives: list[Directive] = field(repr=False, compare=False)


def read_all(files: Mapping[str, str]) -> tuple[NginxFile, ...]:
    """Of files that are here: path -> text."""
    return tuple(
        NginxFile(path, loaded=True, packaged=False, text=text, directives=parse(text))
        for path, text in files.items()
    )


class NginxFiles(Answer[tuple[NginxFile, ...]]):
    """Every file that nginx reads, wherever its includes lead, and every kome-cache* below /etc/nginx.

    Works with a configuration that nginx refuses, and without nginx; one command.

    **Example:**

    .. code:: python

        host.get_fact(NginxFiles)
    """

    def command(self) -> str:
        program = Path(nginx_syntax.__file__).read_text()
        return f"python3 -I -c {shlex.quote(program)} {ROOT}"

    def read(self, output: list[str]) -> tuple[NginxFile, ...]:
        files = (json.loads(line) for line in output)
        return tuple(NginxFile(**file, directives=parse(file["text"])) for file in files)

    @staticmethod
    def default() -> tuple[NginxFile, ...]:
        return ()
