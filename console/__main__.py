"""The operator's command: okome COMMAND …, a module of this folder for each."""

import sys
from types import ModuleType

from console import status

COMMANDS: dict[str, ModuleType] = {"status": status}


def main() -> int:
    """Exit status 2 if there is no such command."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print("usage: okome COMMAND [--help]", file=sys.stderr)
        for known, module in COMMANDS.items():
            print(
                f"  {known:10} {(module.__doc__ or '').partition(': ')[2].partition(chr(10))[0]}",
                file=sys.stderr,
            )
        return 2
    return int(COMMANDS[name].main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
