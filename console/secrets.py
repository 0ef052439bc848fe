"""`make secrets`: random secrets of this tier, into a file that only its owner can read."""

import os
import secrets
import sys
from pathlib import Path

from pyinfra.api import DeployError

from operations.primitives.secret import NAMES, load, secrets_file

HEADER = "# Secrets of this tier, made by `make secrets`. Never commit or copy this file into an image.\n"


def complete(path: Path) -> list[str]:
    """Add the missing ones to the file, in one rename; the names added. What is there stays as it is."""
    try:
        text, have = path.read_text(), load(path)
    except FileNotFoundError:
        text, have = HEADER, {}
    missing = [name for name in NAMES if name not in have]
    if missing:
        lines = [f'{name} = "{secrets.token_urlsafe(32)}"  # {NAMES[name]}\n' for name in missing]
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text.rstrip()}\n{''.join(lines)}")
            os.fsync(file.fileno())
        new.replace(path)
    return missing


def main() -> int:
    """Print names, never values. Exit status 1 if the file can't be used."""
    path = secrets_file()
    try:
        missing = complete(path)
    except (DeployError, OSError) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1
    print(
        f"secrets: {path} {'now has ' + ', '.join(missing) if missing else 'lacks none; it stays as it is'}"
    )
    return 0


if __name__ == "__main__":
    if sys.argv[1:]:
        print("usage: python -m console.secrets (no arguments; the file is $OKOME_SECRETS or secrets.toml)")
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    sys.exit(main())
