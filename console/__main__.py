"""The operator's command: okome COMMAND …, a module of this folder for each."""

import sys
from types import ModuleType

from console import status

COMMANDS: dict[str, ModuleType] = {"status": status}


def main() -> int:
    """Exit status 2 if there is no such command."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        lines = ["usage: okome COMMAND [--help]"]
        for known, module in COMMANDS.items():
            lines.append(f"  {known:10} {(module.__doc__ or '').partition(': ')[2].partition(chr(10))[0]}")
        if name and not asked:
            lines.append(f"okome: there is no command {name!r}.")
        print(*lines, sep="\n", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    return int(COMMANDS[name].main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
