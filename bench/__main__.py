"""python -m bench NAME [--json]: measure, compare in the same run, and say whether the goals hold.

Every other module of this folder that defines `run() -> list[Measure]` is a bench; the first line of its
docstring says what it measures. Exit status: 0 all goals hold, 1 one does not, 2 no such bench.
"""

import argparse
import ast
import importlib
import sys
from pathlib import Path

from bench.measure import Measure, as_json, as_table


def benches() -> dict[str, str]:
    """Name -> first line of the docstring, read without importing: a bench may need what is not here."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main() -> int:
    known = benches()
    width = max((len(name) for name in known), default=0)
    listing = "\n".join(f"  {name.ljust(width)}  {line}" for name, line in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure, compare in the same run, and say whether the goals hold.",
        epilog=f"benches:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="which bench to run")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    arguments = parser.parse_args()
    if arguments.name not in known:
        print(f"There is no bench called {arguments.name!r}. There are:\n{listing}", file=sys.stderr)
        return 2
    measures: list[Measure] = importlib.import_module(f"bench.{arguments.name}").run()
    print(as_json(measures) if arguments.json else as_table(measures))
    return 0 if all(measure.holds for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
