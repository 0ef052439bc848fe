"""nginx's syntax, and the way along its includes.

What reads a configuration here reads it on the node too: NginxFiles sends this file there as a program. So it is
standard library alone, and imports nothing of ours.
"""

import glob
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# As ngx_conf_read_token reads: a comment begins where a word could, and of `;{}` only the first two end a bare word.
TOKEN = re.compile(
    r"""
    (?P<comment> \#[^\n]* )
    | (?P<mark> [;{}] )
    | "(?P<double> (?:\\.|[^"\\])* )"
    | '(?P<single> (?:\\.|[^'\\])* )'
    | (?P<bare> (?:\\.|\$\{|[^\s;{}]) (?:\\.|\$\{|[^\s;{])* )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class Directive:
    """`line` is where it begins, from 1; `block` is None where `;` ends it."""

    name: str
    args: tuple[str, ...]
    line: int
    block: "list[Directive] | None" = None


def after_lua(text: str, start: int) -> int:
    """Where a block of Lua that begins at `start` ends: its quotes and comments are not nginx's."""
    depth = 0
    for brace in re.compile("[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return len(text)


def parse(text: str) -> list[Directive]:
    """The directives of one file, includes as they stand. What nginx would refuse is read as far as it makes sense."""
    root: list[Directive] = []
    open_blocks, words = [root], list[str]()
    line = begins = 1
    position = counted = 0
    while token := TOKEN.search(text, position):
        position = token.end()
        line += text.count("\n", counted, token.start())
        counted = token.start()
        if token["mark"] is None:
            if token["comment"] is None:
                begins = begins if words else line
                words.append(
                    re.sub(r"\\([\"'\\])", r"\1", token["double"] or token["single"] or token["bare"] or "")
                )
            continue
        if words and token[0] != "}":
            block: list[Directive] | None = [] if token[0] == "{" else None
            open_blocks[-1].append(Directive(words[0], tuple(words[1:]), begins, block))
            if block is not None and words[0].endswith("_by_lua_block"):
                position = after_lua(text, token.start())
            elif block is not None:
                open_blocks.append(block)
        elif token[0] == "{":
            open_blocks.append([])
        elif token[0] == "}" and len(open_blocks) > 1:
            open_blocks.pop()
        words = []
    return root


def included(directives: list[Directive]) -> Iterator[str]:
    """The patterns of all includes, at any depth, as they are written."""
    for one in directives:
        if one.name == "include" and one.args:
            yield one.args[0]
        yield from included(one.block or [])


def globbed(pattern: str) -> str:
    """A pattern of glob(3), which nginx hands on only if there is one of `*?[` in it, as Python writes the same."""
    if not re.search(r"[*?\[]", pattern):
        return pattern
    return re.sub(r"\\(.)", r"[\1]", pattern).replace("[^", "[!")


def conffiles() -> set[tuple[str, ...]]:
    """(path, MD5) of each configuration file as Debian's packages of nginx brought it."""
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Conffiles}\n", "nginx-common", "nginx"],
        capture_output=True,
        check=False,
    )
    return {tuple(line.split()[:2]) for line in asked.stdout.decode(errors="replace").splitlines()}


def main(root: str) -> None:
    """One line of JSON for each file: those that nginx reads, and every kome-cache* below `root`."""
    packaged, seen = conffiles(), set[str]()

    def show(pattern: str, *, loaded: bool = True) -> None:
        for found in sorted(glob.glob(os.path.join(root, globbed(pattern)))):  # noqa: PTH118, PTH207 - as nginx does
            path = os.path.normpath(found)
            if path in seen or not (Path(path).is_file() or Path(path).is_symlink()):
                continue
            seen.add(path)
            # A symlink to nowhere is fatal to nginx, and reads as an empty file here.
            content = Path(path).read_bytes() if Path(path).is_file() else b""
            known = str(Path(path).resolve()), hashlib.md5(content, usedforsecurity=False).hexdigest()
            text = content.decode(errors="replace")
            line = {"path": path, "loaded": loaded, "packaged": known in packaged, "text": text}
            print(json.dumps(line))
            for inner in included(parse(text)):
                show(inner, loaded=loaded)

    show("nginx.conf")
    for usual in ("modules-enabled/*.conf", "conf.d/*.conf", "sites-enabled/*"):
        show(usual)
    for path in sorted(Path(root).rglob("kome-cache*")):
        show(glob.escape(str(path)), loaded=False)


if __name__ == "__main__":
    main(sys.argv[1])
