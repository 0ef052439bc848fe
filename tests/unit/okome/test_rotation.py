"""A password that is changed while answers are asked for: it is taken from its file, and nobody restarts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.redis_server import RedisServer
from okome import Budgets, Bytes, Cache, CachePolicy, Cap, Ledger, Outcome, Status, connect
from tests.unit.okome.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.anyio

RULES = [Cap(name="cap", by=("user",), unit="tokens", limit=1_000_000)]
POLICY = CachePolicy(redis_timeout=30, write_timeout=30, breaker=0.05)


async def answer() -> bytes:
    return b"answer"


class Rotated:
    """A server, the file with its URL, and who asks for a new key, an old one and a budget."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server, self.file = server, folder / "url"
        self.file.write_text(server.url)
        self.asked = 0

    def write(self, password: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"unix://okome:{password}@{self.server.socket}\n")
        new.rename(self.file)

    def change(self, rule: str, *rules: str) -> None:
        """Of the user on the server; and every connection has to log in again."""
        self.server.execute("ACL", "SETUSER", "okome", rule, *rules)
        for kind in ("normal", "pubsub"):
            self.server.execute("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def ask(self, cache: Cache[bytes], budgets: Budgets) -> tuple[Status, Status, Outcome]:
        self.asked += 1
        new, known = await asyncio.gather(
            cache.get_or_compute(str(self.asked), answer), cache.get_or_compute("k", answer)
        )
        decision = await budgets.reserve({"user": "ann"}, {"tokens": 1})
        return new.status, known.status, decision.outcome

    async def goes_well(self, cache: Cache[bytes], budgets: Budgets) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.ask(cache, budgets) != (Status.MISS, Status.HIT, Outcome.ALLOWED):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def _over(client: Any, folder: Path, rotated: Rotated, soft: bool) -> None:
    ledger = Ledger(folder / "ledger.sqlite")
    async with (
        asyncio.timeout(2 * PATIENCE),
        Cache(client, namespace="r", codec=Bytes(), policy=POLICY) as cache,
        Budgets(client, rules=RULES, ledger=ledger, redis_timeout=30, breaker=0.05) as budgets,
    ):
        await rotated.goes_well(cache, budgets)
        await settled(cache)
        if soft:
            rotated.change(">second")
            rotated.write("second")
            rotated.change("resetpass", ">second")
            for _ in range(5):
                assert await rotated.ask(cache, budgets) == (Status.MISS, Status.HIT, Outcome.ALLOWED)
                rotated.change("on")
                await settled(cache)
            assert cache.counts["unavailable"] == budgets.counts["unavailable"] == 0
        else:
            rotated.change("resetpass", ">second")
            assert await rotated.ask(cache, budgets) == (
                Status.DEGRADED,
                Status.DEGRADED,
                Outcome.UNAVAILABLE,
            )
            rotated.write("second")
            await rotated.goes_well(cache, budgets)
        await until(lambda: cache.available)
    ledger.close()
    await client.aclose()


@pytest.mark.parametrize("soft", [True, False], ids=["both hold for a while", "the file comes later"])
async def test_a_rotated_password_is_taken_up(own_server: RedisServer, tmp_path: Path, soft: bool) -> None:
    """Where both passwords hold for a while, nobody notices; else from the moment that the file is written."""
    rotated = Rotated(own_server, tmp_path)
    await _over(connect(rotated.file, timeout=30), tmp_path, rotated, soft)
    failed = sum(entry["reason"] == "auth" for entry in own_server.denied())
    assert (failed == 0) == soft
