"""The secrets of the tier: their names, and how an operation gets at one.

Group data and inventory know names only. A value is read where it is needed and kept nowhere, so no listing,
log or diff of pyinfra can show it.
"""

import os
import tomllib
from pathlib import Path

from pyinfra.api import DeployError

# name → who uses it. `make secrets` makes one of each.
NAMES = {
    "redis_okome": "the orchestrator, as Redis user okome",
    "redis_exporter": "the metrics exporter, as Redis user exporter",
}


def secrets_file() -> Path:
    """Where they are: $OKOME_SECRETS, else secrets.toml in the repository."""
    return Path(os.environ.get("OKOME_SECRETS") or Path(__file__).resolve().parents[2] / "secrets.toml")


def load(path: Path) -> dict[str, str]:
    """All secrets of a file. Raises DeployError, in one sentence, for a file that others may read or that is
    not a flat table of TOML strings; FileNotFoundError if there is none."""
    if path.stat().st_mode & 0o077:
        raise DeployError(f"{path} can be read by others: chmod 600 it, and consider its secrets known")
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} is not TOML: {error}") from error
    for name, value in table.items():
        if not isinstance(value, str) or not value:
            raise DeployError(f"{path}: {name} is not a non-empty string")
    return table


def missing(*names: str) -> list[str]:
    """Why there is no value of one of these, one sentence each."""
    said = []
    for name in names:
        try:
            secret(name)
        except DeployError as error:
            said.append(str(error))
    return list(dict.fromkeys(said))


def secret(name: str) -> str:
    """The value of a secret. Raises DeployError if there is none."""
    path = secrets_file()
    try:
        return load(path)[name]
    except FileNotFoundError:
        raise DeployError(f"no secrets: run `make secrets`, which writes {path}") from None
    except OSError as error:
        raise DeployError(f"the secrets cannot be read: {error}") from None
    except KeyError:
        raise DeployError(f"{path} has no {name}: run `make secrets`, which adds what is missing") from None
