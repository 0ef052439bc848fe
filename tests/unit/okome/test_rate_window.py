"""A rate admits no more than its limit in any window, wherever that begins and whatever is given back: against the real
script and against a process's own share, each beside a plain list of what was admitted.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench.redis_server import RedisServer
from okome import Budgets, Lease, Outcome, Rate, connect
from okome.local_share import LocalShare
from okome.rules import SLOTS, Charge
from tests.unit.okome.spending import ANN, OpenBudgets, moved

LIMIT, PER = 20, 1000.0  # s; long, so that the test's own time does not matter
SLOT = PER / SLOTS
TICK = 1e-6  # s; a float can't tell much less


class Window(RuleBasedStateMachine):
    """One user. Time passes when what is stored is moved into the past. `admitted` is what counts: of each lease, and
    of each overspending, when it was asked for and answered, and how much.
    """

    server: RedisServer

    @initialize(burst=st.none() | st.integers(1, LIMIT))
    def begin(self, burst: int | None) -> None:
        self.server.admin.flushall()
        self.loop = asyncio.new_event_loop()
        self.client = connect(self.server.url, timeout=30)
        self.burst = burst or LIMIT
        per = Rate(name="r", by=("user",), unit="requests", limit=LIMIT, per=PER, burst=burst)
        self.budgets = Budgets(self.client, rules=[per], redis_timeout=30, lease_ttl=10 * PER)
        self.admitted: dict[str, tuple[float, float, int]] = {}
        self.leases: dict[str, Lease] = {}
        self.passed = 0.0
        self.owes = False
        self.number = 0

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def now(self) -> float:
        return time.monotonic() + self.passed

    def since(self, instant: float, *, surely: bool) -> int:
        """What was admitted after it: surely, or by any chance."""
        return sum(
            units for sent, got, units in self.admitted.values() if (sent if surely else got) > instant
        )

    @rule(amount=st.integers(1, LIMIT + 1))
    def ask(self, amount: int) -> None:
        self.number += 1
        sent = self.now()
        decision = self.run(self.budgets.reserve(ANN, {"requests": amount}, lease=str(self.number)))
        got = self.now()
        if decision.lease is not None:
            self.leases[decision.lease.id] = decision.lease
            self.admitted[decision.lease.id] = (sent, got, amount)
            assert amount <= self.burst
            assert self.since(got - PER, surely=True) <= LIMIT
        else:
            assert decision.outcome is Outcome.DENIED
            assert (decision.retry_after is None) == (amount > self.burst)
            if self.burst == LIMIT and not self.owes:
                assert self.since(sent - PER - SLOT, surely=False) + amount > LIMIT

    @rule(amount=st.integers(1, LIMIT))
    def wait_as_told(self, amount: int) -> None:
        denied = self.run(self.budgets.reserve(ANN, {"requests": amount}, lease="probe"))
        if denied.lease is None and denied.retry_after is not None:
            self.passes(denied.retry_after + 1e-3)
            self.ask(amount)
            assert str(self.number) in self.leases
        elif denied.lease is not None:
            self.run(self.budgets.refund(denied.lease))

    @rule(seconds=st.floats(0, 1.2 * PER) | st.sampled_from([SLOT, PER - SLOT, PER - 1, PER]))
    def passes(self, seconds: float) -> None:
        for key in self.server.matching("okome:*:window:*"):
            state: Any = self.server.admin.get(key)
            self.server.admin.set(key, moved(state, -seconds), keepttl=True)
        for key in self.server.matching("okome:*:lease:*"):
            marker: Any = self.server.admin.get(key)
            if marker.startswith(b"R"):
                at, microseconds = map(int, marker[1:].split())
                at, microseconds = divmod(at * 10**6 + microseconds - round(seconds * 1e6), 10**6)
                self.server.admin.set(key, b"R%d %d" % (at, microseconds), keepttl=True)
        self.passed += seconds

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), actual=st.integers(0, LIMIT))
    def gives_back(self, data: st.DataObject, actual: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.leases)))
        sent, got, amount = self.admitted[name]
        actual = min(actual, amount)
        self.run(self.budgets.commit(self.leases.pop(name), {"requests": actual}))
        self.admitted[name] = (sent, got, actual)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), more=st.integers(1, 2 * LIMIT))
    def overspends(self, data: st.DataObject, more: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.leases)))
        sent = self.now()
        self.run(self.budgets.commit(self.leases.pop(name), {"requests": self.admitted[name][2] + more}))
        self.admitted[name + " more"] = (sent, self.now(), more)
        self.owes = True

    @invariant()
    def what_is_left_is_not_too_much(self) -> None:
        if not hasattr(self, "budgets"):
            return
        sent = self.now()
        (quota,) = self.run(self.budgets.reserve(ANN, {"requests": 0})).quotas
        left = quota.remaining - quota.debt
        assert left <= LIMIT - self.since(self.now() - PER, surely=True)
        if self.burst == LIMIT and not self.owes:
            assert left >= LIMIT - self.since(sent - PER - SLOT, surely=False)
            assert quota.reset <= PER + 1e-3

    @invariant()
    def its_state_stays_small(self) -> None:
        if hasattr(self, "budgets"):
            for key in self.server.matching("okome:*:window:*"):
                state: Any = self.server.admin.get(key)
                assert len(state) <= 2 * 9 * 2 * (SLOTS + 2)

    def teardown(self) -> None:
        if hasattr(self, "budgets"):
            self.run(self.budgets.aclose())
            self.run(self.client.aclose())
            self.loop.close()


def test_no_window_has_more_than_the_limit(server: RedisServer) -> None:
    Window.server = server
    run_state_machine_as_test(
        Window,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.anyio
async def test_asked_as_fast_as_it_goes(open_budgets: OpenBudgets) -> None:
    """By the real clock. Of two answers less than a window apart both are in one, wherever the server's own instants
    lie between question and answer.
    """
    per = 0.4
    budgets = open_budgets(Rate(name="r", by=("user",), unit="requests", limit=20, per=per))
    admitted: list[tuple[float, float]] = []
    begin = time.monotonic()
    while time.monotonic() < begin + 4 * per:
        sent = time.monotonic()
        if (await budgets.reserve(ANN, {"requests": 1})).outcome is Outcome.ALLOWED:
            admitted.append((sent, time.monotonic()))
    for sent, _ in admitted:
        assert len([one for one in admitted if one[0] >= sent and one[1] < sent + per]) <= 20
    assert len(admitted) > 20


class Ticks:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    share=st.sampled_from([0.05, 0.25, 0.5, 1.0]),
    burst=st.none() | st.integers(1, LIMIT),
    asked=st.lists(
        st.tuples(st.floats(0, PER / 2) | st.sampled_from([0, SLOT, PER - SLOT, PER]), st.integers(1, LIMIT)),
        max_size=60,
    ),
)
@example(share=1.0, burst=None, asked=[(0, LIMIT), (PER - SLOT, LIMIT // 2)])
@settings(deadline=None)
def test_no_window_has_more_than_the_share(
    share: float, burst: int | None, asked: list[tuple[float, int]]
) -> None:
    per = Rate(name="r", by=("user",), unit="requests", limit=LIMIT, per=PER, burst=burst)
    ticks, admitted = Ticks(), []
    process = LocalShare(share, ticks)
    for seconds, amount in asked:
        ticks.now += seconds
        refused = process.take([Charge(per, "key", b"", amount)])
        if refused is not None and refused.retry_after is not None:
            ticks.now += refused.retry_after + TICK
            refused = process.take([Charge(per, "key", b"", amount)])
            assert refused is None
        if refused is None:
            admitted.append((ticks.now, amount))
            assert sum(units for at, units in admitted if at > ticks.now - PER + TICK / 2) <= max(
                1, LIMIT * share
            )
        else:
            assert amount > (burst or LIMIT) * share
