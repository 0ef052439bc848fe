"""One-line faults put into the code that decides, by mutmut: how many of them fail a test of that code's own.

What is mutated, with which tests, and which faults may stay unnoticed and why, is in pyproject.toml. Exit status 1 if
fewer than GOAL of a module's faults are noticed, or one stays unnoticed that is not accounted for there.
"""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOAL = 0.9
ROOT = Path(__file__).resolve().parents[1]
MUTMUT = Path(sys.executable).with_name("mutmut")
NOTICED = {"killed", "timeout"}
# "node.probe.xǁHealthǁafter__mutmut_3: killed"
LINE = re.compile(r"\s*([\w.]+)\.x(?:_|ǁ)([^:]+?)__mutmut_\d+: (.+)")


@dataclass
class Module:
    """The faults of one module; `unnoticed`: function → how many."""

    faults: int = 0
    unnoticed: Counter[str] = field(default_factory=Counter)

    @property
    def noticed(self) -> float:
        return 1 - self.unnoticed.total() / self.faults


def count(lines: Iterable[str]) -> dict[str, Module]:
    """The modules of `mutmut results --all true`."""
    modules: dict[str, Module] = {}
    for line in lines:
        if match := LINE.fullmatch(line):
            module = modules.setdefault(match[1], Module())
            module.faults += 1
            if match[3] not in NOTICED:
                module.unnoticed[match[2].replace("ǁ", ".")] += 1
    return modules


def objections(modules: dict[str, Module], accounted: dict[str, Any]) -> list[str]:
    """What is wrong, one sentence each. `accounted`: "module.function" → {"faults": how many, "why": …}."""
    said = []
    for name, module in modules.items():
        if module.noticed < GOAL:
            said.append(f"{name}: {module.noticed:.1%} of {module.faults} faults are noticed, not {GOAL:.0%}")
        for function, number in module.unnoticed.items():
            allowed = accounted.get(f"{name}.{function}", {"faults": 0})["faults"]
            if number > allowed:
                said.append(f"{name}.{function}: {number} faults are not noticed, {allowed} accounted for")
    return said


def main() -> int:
    subprocess.run([MUTMUT, "run", "--max-children", "1"], cwd=ROOT, check=True)
    results = subprocess.run(
        [MUTMUT, "results", "--all", "true"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    modules = count(results.stdout.splitlines())
    for name, module in modules.items():
        print(f"{name:32} {module.faults:5} faults, {module.noticed:6.1%} noticed")
    accounted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]["unnoticed"]
    said = objections(modules, accounted)
    print(*said, sep="\n", end="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
