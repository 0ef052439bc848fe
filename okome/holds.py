"""What was reserved without Redis and has not begun: it is in no file, and ends by itself. Pure, but for what it
remembers.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Hold:
    until: float  # monotonic
    amounts: Mapping[str, int]  # by counter


class Holds:
    """Of one process, by lease. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}  # those that end first in front, if all are held for as long
        self._held: Counter[str] = Counter()

    def __contains__(self, lease: str) -> bool:
        return lease in self._holds

    def held(self, counter: str) -> int:
        """By all leases together."""
        return self._held[counter]

    def take(self, lease: str, amounts: Mapping[str, int], until: float) -> None:
        self.release(lease)
        self._holds[lease] = _Hold(until, amounts)
        self._held.update(amounts)

    def release(self, lease: str) -> None:
        hold = self._holds.pop(lease, None)
        for counter, amount in hold.amounts.items() if hold else ():
            self._held[counter] -= amount
            if not self._held[counter]:
                del self._held[counter]

    def expire(self, now: float) -> None:
        while self._holds:
            lease, hold = next(iter(self._holds.items()))
            if hold.until > now:
                return
            self.release(lease)
