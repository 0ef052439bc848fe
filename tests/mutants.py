"""One-line faults put into the code that decides, by mutmut: how many of them fail a test of that code's own.

    python -m tests.mutants            all modules that pyproject.toml names
    python -m tests.mutants MODULE…    these: node.hitratio, operations.primitives.unit

What is mutated, with which tests, and which faults may stay unnoticed and why, is in pyproject.toml. Exit status 1 if
fewer than GOAL of a module's faults are noticed, one stays unnoticed that is not accounted for there, or one that is
accounted for is not there any more.
"""

import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

GOAL = 0.9
ROOT = Path(__file__).resolve().parents[1]
MUTMUT = Path(sys.executable).with_name("mutmut")
NOTICED = {"killed", "timeout"}
NOT_RUN = "not checked"
# "node.probe.xǁHealthǁafter__mutmut_3: killed"
LINE = re.compile(r"\s*(([\w.]+)\.x(?:_|ǁ)([^:]+?)__mutmut_\d+): (.+)")


@dataclass
class Module:
    """The faults of one module; `unnoticed`: function → mutmut's names of those."""

    faults: int = 0
    unnoticed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def noticed(self) -> float:
        return 1 - sum(map(len, self.unnoticed.values())) / self.faults


def count(lines: Iterable[str]) -> dict[str, Module]:
    """The modules of `mutmut results --all true`, of those that were run."""
    modules: dict[str, Module] = {}
    for line in lines:
        if (match := LINE.fullmatch(line)) and match[4] != NOT_RUN:
            module = modules.setdefault(match[2], Module())
            module.faults += 1
            if match[4] not in NOTICED:
                module.unnoticed[match[3].replace("ǁ", ".")].append(match[1])
    return modules


def fault(diff: str) -> str:
    """What a fault makes of its line, from a unified diff: the same text wherever in the function the line stands, and
    whichever number mutmut gives it."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    gone, come = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return come or f"without {gone}"


def objections(
    modules: dict[str, Module], accounted: dict[str, list[str]], diff: Callable[[str], str]
) -> list[str]:
    """What is wrong, one sentence each. `accounted`: "module.function" → its faults; `diff`: of a fault by its name."""
    said = []
    for name, module in modules.items():
        if module.noticed < GOAL:
            said.append(f"{name}: {module.noticed:.1%} of {module.faults} faults are noticed, not {GOAL:.0%}")
        prefix = f"{name}."
        functions = {entry.removeprefix(prefix) for entry in accounted if entry.startswith(prefix)}
        for function in sorted(functions | module.unnoticed.keys()):
            allowed = Counter(accounted.get(prefix + function, ()))
            found = Counter(fault(diff(mutant)) for mutant in module.unnoticed.get(function, ()))
            said += [f"{name}.{function}: not noticed: {text}" for text in (found - allowed).elements()]
            said += [
                f"{name}.{function}: accounted for, but noticed or gone: {text}"
                for text in (allowed - found).elements()
            ]
    return said


def main(names: list[str]) -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    mutated = [path.removesuffix(".py").replace("/", ".") for path in settings["mutmut"]["only_mutate"]]
    if unknown := [name for name in names if name not in mutated]:
        print(f"mutants: there is no {', '.join(unknown)}; there are {', '.join(mutated)}", file=sys.stderr)
        return 2
    wanted = [f"{name}.*" for name in names]
    subprocess.run([MUTMUT, "run", "--max-children", "1", *wanted], cwd=ROOT, check=True)

    def said_by(*words: str) -> str:
        return subprocess.run(
            [MUTMUT, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    modules = count(said_by("results", "--all", "true").splitlines())
    modules = {name: module for name, module in modules.items() if not names or name in names}
    for name, module in modules.items():
        print(f"{name:32} {module.faults:5} faults, {module.noticed:6.1%} noticed")
    accounted = {function: entry["faults"] for function, entry in settings["mutants"]["unnoticed"].items()}
    said = objections(modules, accounted, lambda mutant: said_by("show", mutant))
    print(*said, sep="\n", end="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
