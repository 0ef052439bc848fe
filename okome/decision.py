"""What is said to those who want to spend: a decision, and with it a lease or the reason why not."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from okome.headers import Quota, rate_limit_headers
from okome.keys import digest
from okome.rules import Charge


class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"  # over a limit: 429
    UNAVAILABLE = "unavailable"  # Redis or the ledger fails, and a hard cap would have to be guessed: 503
    STATE_LOST = "state_lost"  # Redis lost a counter, and it could not be rebuilt: 503
    SETTLED = "settled"  # a lease of this id for the same was committed or refunded already: 409


class Lease(msgspec.Struct, frozen=True):
    """Permission to spend what was reserved. `local`: given without Redis, from this process's share of the
    rates. `units`: those that were reserved, whether or not a rule counts them for this subject.
    """

    id: str
    charges: tuple[Charge, ...]
    local: bool = False
    units: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        return mark_of(self.id, self.charges)


class Decision(msgspec.Struct, frozen=True):
    """`retry_after`: seconds; None where waiting would not help, or nobody knows."""

    outcome: Outcome
    lease: Lease | None = None
    quotas: tuple[Quota, ...] = ()
    retry_after: float | None = None
    rule: str | None = None
    """The name of the rule that said no, or whose state is lost."""
    reason: str | None = None
    """Of a 503, if more is known than that: such as that the ledger's disk is full."""

    @property
    def debt(self) -> dict[str, int]:
        """Units spent beyond a limit, by rule. Until it is worked off or its period ends, only what costs nothing is
        allowed.
        """
        return {quota.name: quota.debt for quota in self.quotas if quota.debt}

    @property
    def status_code(self) -> int:
        return {Outcome.ALLOWED: 200, Outcome.DENIED: 429, Outcome.SETTLED: 409}.get(self.outcome, 503)

    def headers(self, *, draft: bool = True) -> dict[str, str]:
        """RateLimit, RateLimit-Policy (`draft`), x-ratelimit-*, Retry-After."""
        return rate_limit_headers(self.quotas, retry_after=self.retry_after, draft=draft)


def mark_of(identity: str, charges: Sequence[Charge]) -> str:
    """What a lease is known by in Redis and in the ledger: the same id for anything else is another lease."""
    return digest("\0".join([identity, *[f"{charge.key} {charge.amount}" for charge in charges]]))
