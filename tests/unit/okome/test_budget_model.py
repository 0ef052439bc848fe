"""Budgets against a plain model, through any sequence of calls, expiries and losses; and several processes at
once.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench.cache_processes import CAP, spend
from bench.processes import Processes, barrier
from bench.redis_server import RedisServer
from okome import Budgets, Cap, Decision, Lease, Ledger, Outcome, connect
from tests.unit.okome.waiting import expire

LIMIT = 100


class BudgetMachine(RuleBasedStateMachine):
    """One cap, any number of leases. The model is where each of them stands, and sums of their amounts."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.server.admin.flushall()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.sqlite")
        self.client = connect(self.server.url, timeout=30)
        self.budgets = self.process()
        self.reserved: dict[str, Lease] = {}
        self.late: dict[str, Lease] = {}  # of which the reservation has expired or was lost
        self.started: dict[str, Lease] = {}
        self.overdue: dict[str, Lease] = {}  # started, expired, and so charged
        self.settled: dict[str, tuple[Lease, int]] = {}
        self.debt = 0
        self.number = 0

    def process(self) -> Budgets:
        cap = Cap(name="cap", by=("user",), unit="tokens", limit=LIMIT)
        return Budgets(
            self.client,
            rules=[cap],
            ledger=self.ledger,
            lease_ttl=3600,
            started_ttl=3600,
            redis_timeout=30,
            breaker=0,
        )

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def held(self) -> int:
        return sum(lease.charges[0].amount for lease in (self.reserved | self.started).values())

    def spent(self) -> int:
        overdue = sum(lease.charges[0].amount for lease in self.overdue.values())
        return overdue + sum(amount for _, amount in self.settled.values())

    def fits(self, amount: int) -> bool:
        """What costs nothing does, whatever the debt."""
        return amount == 0 or self.spent() + self.held() + amount <= LIMIT

    def balance(self, decision: Decision) -> int:
        """What is left, or what is owed."""
        (quota,) = decision.quotas
        assert not (quota.remaining and quota.debt)
        return quota.remaining - quota.debt

    def draw(self, data: st.DataObject, *states: dict[str, Lease]) -> tuple[str, Lease, dict[str, Lease]]:
        """A lease in one of these states, and that state."""
        name = data.draw(st.sampled_from(sorted(name for state in states for name in state)))
        (state,) = (state for state in states if name in state)
        return name, state[name], state

    def settle(self, name: str, lease: Lease, state: dict[str, Lease], actual: int) -> None:
        covered = 0 if state is self.late else lease.charges[0].amount
        self.debt += max(0, actual - covered)
        del state[name]
        self.settled[name] = (lease, actual)

    def rebuilt(self) -> None:
        """What had not begun was not durable: it may be given to others."""
        self.late.update(self.reserved)
        self.reserved.clear()

    @rule(amount=st.integers(0, 60))
    def reserve(self, amount: int) -> None:
        self.number += 1
        decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": amount}, lease=str(self.number)))
        fits = self.fits(amount)
        assert decision.outcome is (Outcome.ALLOWED if fits else Outcome.DENIED)
        if decision.lease is not None:
            self.reserved[decision.lease.id] = decision.lease
            assert self.balance(decision) == LIMIT - self.spent() - self.held()

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        _, lease, _ = self.draw(data, self.reserved)
        amount = lease.charges[0].amount
        decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": amount}, lease=lease.id))
        assert decision.outcome is Outcome.ALLOWED

    @precondition(lambda self: self.reserved or self.late)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        name, lease, state = self.draw(data, self.reserved, self.late)
        fits = state is self.reserved or self.fits(lease.charges[0].amount)
        assert self.run(self.budgets.start(lease)) is fits
        if fits:
            self.started[name] = state.pop(name)
        else:
            self.settle(name, lease, state, 0)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        """Of a rebuilt counter nobody knows which of its leases fitted: over the limit, by debt, none does."""
        again = self.run(self.budgets.start(self.draw(data, self.started)[1]))
        assert again or self.spent() + self.held() > LIMIT

    @precondition(lambda self: self.reserved or self.late or self.started or self.overdue)
    @rule(data=st.data(), actual=st.integers(0, 80), times=st.integers(1, 3))
    def commit(self, data: st.DataObject, actual: int, times: int) -> None:
        name, lease, state = self.draw(data, self.reserved, self.late, self.started, self.overdue)
        for n in range(times):
            self.run(self.budgets.commit(lease, {"tokens": actual + n}))  # the first one stands
        self.settle(name, lease, state, actual)

    @precondition(lambda self: self.reserved or self.started)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        name, lease, state = self.draw(data, self.reserved, self.started)
        self.run(self.budgets.refund(lease))
        self.settle(name, lease, state, 0)

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), other=st.integers(0, 80))
    def settle_again(self, data: st.DataObject, other: int) -> None:
        lease, _ = self.settled[data.draw(st.sampled_from(sorted(self.settled)))]
        self.run(self.budgets.commit(lease, {"tokens": other}))

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def start_a_settled_one(self, data: st.DataObject) -> None:
        lease, _ = self.settled[data.draw(st.sampled_from(sorted(self.settled)))]
        assert not self.run(self.budgets.start(lease))

    @precondition(lambda self: self.reserved or self.started)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Its time is over: as if it had been made an hour earlier."""
        name, lease, state = self.draw(data, self.reserved, self.started)
        expire(self.server, lease)
        del state[name]
        (self.late if state is self.reserved else self.overdue)[name] = lease

    @rule(what=st.sampled_from(["okome:*:cap:*", "okome:*:lease:*", "*"]))
    def lose(self, what: str) -> None:
        keys = self.server.matching(what)
        if not keys:
            return
        self.server.admin.delete(*keys)
        if what != "okome:*:lease:*":
            self.rebuilt()

    @rule(data=st.data(), actual=st.integers(0, 80), starts=st.booleans(), restarts=st.booleans())
    def outage(self, data: st.DataObject, actual: int, starts: bool, restarts: bool) -> None:
        """Redis lives on, and what happens meanwhile does not reach it."""
        with self.server.unreachable():
            decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": 1}))
            assert decision.outcome is Outcome.UNAVAILABLE
            if self.reserved and starts:
                name, lease, state = self.draw(data, self.reserved)
                assert not self.run(self.budgets.start(lease))
                self.settle(name, lease, state, 0)
                self.rebuilt()
            if self.started or self.overdue:
                name, lease, state = self.draw(data, self.started, self.overdue)
                self.run(self.budgets.commit(lease, {"tokens": actual}))
                self.settle(name, lease, state, actual)
                self.rebuilt()
            if restarts:
                self.restart()

    @rule()
    def restart(self) -> None:
        self.run(self.budgets.aclose())
        self.budgets = self.process()
        if self.settled or self.started or self.overdue:
            self.rebuilt()

    @rule()
    def flush_scripts(self) -> None:
        self.server.admin.script_flush()

    @invariant()
    def what_is_left_is_what_the_model_says(self) -> None:
        if not hasattr(self, "budgets"):
            return
        decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": 0}))
        left = LIMIT - self.spent() - self.held()
        assert left >= -self.debt
        assert decision.outcome is Outcome.ALLOWED
        assert self.balance(decision) == left

    def teardown(self) -> None:
        if hasattr(self, "budgets"):
            self.run(self.budgets.aclose())
            self.run(self.client.aclose())
            self.loop.close()
            self.ledger.close()
            self.folder.cleanup()


def test_any_sequence_agrees_with_the_model(server: RedisServer) -> None:
    BudgetMachine.server = server
    run_state_machine_as_test(
        BudgetMachine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.anyio
async def test_four_processes_never_overshoot(server: RedisServer, tmp_path: Path) -> None:
    ready = barrier(4)
    processes = Processes(spend, [(server.url, str(tmp_path / "ledger.sqlite"), ready)] * 4)
    try:
        spent = sum(await asyncio.to_thread(processes.results))
    finally:
        processes.end()
    assert CAP - 7 < spent <= CAP
