"""What the budgets' tests share: rules, somebody who spends, what is left."""

from collections.abc import Callable

import msgspec

from okome import Budgets, Cap, Lease, Period, Rate

ANN = {"user": "ann", "model": "large", "tier": "free"}


REQUESTS = Rate(name="rpm", by=("user",), unit="requests", limit=10, per=3600)


TOKENS = Cap(name="tpd", by=("user",), unit="tokens", limit=1000)


COST = Cap(name="cost", by=("tier", "model"), unit="cost", limit=500, period=Period.MONTH)


OpenBudgets = Callable[..., Budgets]


async def granted(budgets: Budgets, amounts: dict[str, int], **options: str) -> Lease:
    decision = await budgets.reserve(ANN, amounts, **options)
    assert decision.lease is not None, decision
    return decision.lease


async def left(budgets: Budgets, unit: str = "tokens") -> int:
    """What is left of the only rule for `unit`, asked for by a reservation of nothing."""
    decision = await budgets.reserve(ANN, {unit: 0})
    return decision.quotas[0].remaining


def moved(state: bytes, seconds: float) -> bytes:
    """A rate's state, as if all of it had happened so much later."""
    written, owed, *admitted = msgspec.msgpack.decode(state)
    admitted[::2] = [at + seconds for at in admitted[::2]]
    return msgspec.msgpack.encode([written + seconds, owed, *admitted])
