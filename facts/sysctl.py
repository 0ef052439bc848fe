"""Kernel settings as they are."""

import shlex
from dataclasses import dataclass

from facts.answer import Answer


@dataclass(frozen=True)
class Setting:
    """One kernel setting: its value with single spaces, and whether it can be set here."""

    value: str
    writable: bool


def parse(output: list[str]) -> dict[str, Setting]:
    """`KEY rw|ro VALUE` lines."""
    return {
        key: Setting(" ".join(value), access == "rw")
        for key, access, *value in (line.split() for line in output)
    }


class Sysctl(Answer[dict[str, Setting]]):
    """Key → setting; a key that this kernel does not have is left out.

    **Example:**

    .. code:: python

        host.get_fact(Sysctl, keys=("net.core.somaxconn",))
    """

    def command(self, keys: tuple[str, ...]) -> str:
        return (
            f"for key in {' '.join(map(shlex.quote, keys))}; do"
            ' path=/proc/sys/$(echo "$key" | tr . /); test -e "$path" || continue;'
            ' if test -w "$path"; then access=rw; else access=ro; fi;'
            ' echo "$key $access $(cat "$path")"; done'
        )

    def read(self, output: list[str]) -> dict[str, Setting]:
        return parse(output)

    @staticmethod
    def default() -> dict[str, Setting]:
        return {}
