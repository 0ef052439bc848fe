"""python -m tests.shell_lint: shellcheck over every shell text: scripts, the Makefile's recipes, and strings in Python.

A string is taken for shell if it has a word that only shell has (SHELL). What is formatted into
it stands there as a plain word.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHELL = re.compile(r"\$\(|; do\b|; then\b|\bexit \d|\|\| |&& |\becho \$|^set -e", re.MULTILINE)
# What holds for all of them, each with why.
EXCLUDED = {
    "SC1091": "/etc/os-release is not here",
    "SC2043": "what is formatted into a text is one word here, and a loop over it runs once",
    "SC2016": "a program in single quotes is expanded by the shell that it is for",
    "SC2154": "a variable that another text sets, before this one is appended",
}


def tracked(*patterns: str) -> list[Path]:
    said = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [path for line in said.stdout.splitlines() if (path := ROOT / line).is_file()]


def text_of(node: ast.expr) -> str | None:
    """What a string or a formatted string says, a word in the place of what is formatted into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "word" for part in node.values)
    return None


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of each string that stands for itself; the parts of a formatted one are not asked again."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        text = text_of(node) if isinstance(node, ast.expr) else None
        if text is not None:
            yield node.lineno, text  # type: ignore[attr-defined] # every expression has one
        else:
            yield from strings(node)


def texts() -> Iterator[tuple[str, str, str]]:
    """(where, shell, text) of every shell text of the repository."""
    for path in tracked():
        first, _, _ = path.read_bytes().partition(b"\n")
        if match := re.fullmatch(rb"#!\s*(?:/usr/bin/env )?(?:/bin/)?(sh|bash)\b.*", first):
            text = re.sub(r"{{.*?}}", "word", path.read_text()) if path.suffix == ".j2" else path.read_text()
            yield str(path.relative_to(ROOT)), match[1].decode(), text
    for path in tracked("*.py"):
        for line, text in strings(ast.parse(path.read_text())):
            # The end of a command that is put together of several strings is not a text of its own.
            if SHELL.search(text) and " " in text and text[0] not in "|&" and path != Path(__file__):
                yield f"{path.relative_to(ROOT)}:{line}", "sh", text
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in targets:
        recipes = subprocess.run(
            ["make", "--dry-run", "--always-make", "--no-print-directory", target],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        # Package names are words of their own there.
        yield f"Makefile: {target}", "bash", f"# shellcheck disable=SC2086\n{recipes.stdout}"


def main() -> int:
    failed = 0
    count = 0
    for where, shell, text in texts():
        count += 1
        done = subprocess.run(
            ["shellcheck", f"--shell={shell}", f"--exclude={','.join(EXCLUDED)}", "--format=gcc", "-"],
            input=text, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            failed += 1
            print(*(f"{where} {line}" for line in done.stdout.splitlines()), done.stderr, sep="\n")
    print(f"shellcheck: {count} texts, {failed} with complaints")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
