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
from okome.budget import Budgets, Cap, Lease, Outcome
from okome.connection import connect
from okome.ledger import Ledger
from tests.unit.redis_server import RedisServer

LIMIT = 100


class BudgetMachine(RuleBasedStateMachine):
    """One cap, any number of leases. The model is four plain sums."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.server.admin.flushall()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.sqlite")
        self.client = connect(self.server.url, timeout=30)
        cap = Cap(name="cap", by=("user",), unit="tokens", limit=LIMIT)
        self.budgets = Budgets(
            self.client, rules=[cap], ledger=self.ledger, lease_ttl=3600, started_ttl=3600, redis_timeout=30
        )
        self.reserved: dict[str, Lease] = {}
        self.started: dict[str, Lease] = {}
        self.settled: dict[str, tuple[Lease, int]] = {}
        self.debt = 0
        self.number = 0

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def held(self) -> int:
        return sum(lease.charges[0].amount for lease in (self.reserved | self.started).values())

    def spent(self) -> int:
        return sum(amount for _, amount in self.settled.values())

    @rule(amount=st.integers(0, 60))
    def reserve(self, amount: int) -> None:
        self.number += 1
        decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": amount}, lease=str(self.number)))
        fits = self.spent() + self.held() + amount <= LIMIT
        assert decision.outcome is (Outcome.ALLOWED if fits else Outcome.DENIED)
        if decision.lease is not None:
            self.reserved[decision.lease.id] = decision.lease
            assert decision.quotas[0].remaining == LIMIT - self.spent() - self.held()

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        lease = self.reserved[data.draw(st.sampled_from(sorted(self.reserved)))]
        amount = lease.charges[0].amount
        decision = self.run(self.budgets.reserve({"user": "ann"}, {"tokens": amount}, lease=lease.id))
        assert decision.outcome is Outcome.ALLOWED

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        identity = data.draw(st.sampled_from(sorted(self.reserved)))
        assert self.run(self.budgets.start(self.reserved[identity]))
        self.started[identity] = self.reserved.pop(identity)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), actual=st.integers(0, 80), times=st.integers(1, 3))
    def commit(self, data: st.DataObject, actual: int, times: int) -> None:
        identity = data.draw(st.sampled_from(sorted(self.started)))
        lease = self.started.pop(identity)
        for _ in range(times):
            self.run(self.budgets.commit(lease, {"tokens": actual}))
        self.settled[identity] = (lease, actual)
        self.debt += max(0, actual - lease.charges[0].amount)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        identity = data.draw(st.sampled_from(sorted(self.reserved)))
        lease = self.reserved.pop(identity)
        self.run(self.budgets.refund(lease))
        self.settled[identity] = (lease, 0)

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        lease, actual = self.settled[data.draw(st.sampled_from(sorted(self.settled)))]
        self.run(self.budgets.commit(lease, {"tokens": actual}))

    @rule(what=st.sampled_from(["okome:*:cap:*", "okome:*:lease:*", "*"]))
    def lose(self, what: str) -> None:
        keys = self.server.matching(what)
        if not keys:
            return
        self.server.admin.delete(*keys)
        if what != "okome:*:lease:*":
            self.reserved.clear()  # nothing had begun: what was not durable may be given to others

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
        if decision.outcome is Outcome.DENIED:
            assert left < 0
        else:
            assert decision.quotas[0].remaining == left

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
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
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
