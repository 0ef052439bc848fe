"""What a check gets, and how it comes into the lists: by naming the naive edit that it must notice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from lab.client import Client

SNIPPETS = "/etc/nginx/snippets"


class Frontend(Protocol):
    """A frontend without a probe, the test origin behind it, and a client on the LAN."""

    client: Client
    client_address: str

    def origin(self, **words: Any) -> dict[str, Any]: ...
    def reload(self) -> None: ...
    def set_flag(self, down: bool) -> None: ...
    def set_full(self, full: bool) -> None: ...
    def log(self) -> str: ...


Check = Callable[[Frontend], None]


@dataclass(frozen=True)
class Trap:
    """A check, and the naive edit of one file (old, new) with which it must fail on `suite`'s nginx."""

    check: Check
    file: str
    old: str
    new: str
    suite: str = "bookworm"

    def __str__(self) -> str:
        edit = " ".join(self.new.split()) or f"without {' '.join(self.old.split())}"
        return f"{self.check.__name__}: {edit}"


CHECKS: list[Check] = []
TRAPS: list[Trap] = []


def trap(file: str, old: str, new: str, suite: str = "bookworm") -> Callable[[Check], Check]:
    """Enters a check: from then on it is asked of the real configuration, and must fail with this edit."""

    def remember(check: Check) -> Check:
        if check not in CHECKS:
            CHECKS.append(check)
        TRAPS.append(Trap(check, file, old, new, suite))
        return check

    return remember
