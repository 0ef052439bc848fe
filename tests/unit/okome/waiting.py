"""Waiting for what has happened, and not for how long it mostly takes: the machine may be busy."""

import asyncio
from collections.abc import Callable
from typing import Any

from bench.redis_server import RedisServer
from okome import Cache, Cached, Cap, Lease
from tests.unit.okome.caches import Answer, Origin

PATIENCE = 60.0  # s


async def until(condition: Callable[[], object]) -> None:
    """Of another's state, which has no event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def settled(cache: Cache[Any]) -> None:
    """Until nothing of the cache's own is under way any more."""
    async with asyncio.timeout(PATIENCE):
        while cache._tasks:
            await asyncio.wait(set(cache._tasks))


async def joined(cache: Cache[Any], callers: int) -> None:
    """Until so many wait for the only computation that this process has or waits for."""
    await until(lambda: [flight.waiters for flight in cache._flights.values()] == [callers])


async def told_to_wait(*servers: RedisServer, processes: int = 1) -> None:
    """Until so many others have been told for how long the lock is taken: from then on a message wakes them."""
    await until(lambda: sum(server.calls().get("pttl", 0) for server in servers) >= processes)


async def owner_and_waiter(
    one: Cache[Answer], two: Cache[Answer], origin: Origin, server: RedisServer
) -> tuple[asyncio.Task[Cached[Answer]], asyncio.Task[Cached[Answer]]]:
    """`one` computes, `two` has been told to wait for it, and only then the origin answers."""
    origin.release.clear()
    owner = asyncio.create_task(one.get_or_compute("k", origin))
    await origin.started.wait()
    waiter = asyncio.create_task(two.get_or_compute("k", origin))
    await told_to_wait(server)
    origin.release.set()
    return owner, waiter


def expire(server: RedisServer, *leases: Lease) -> None:
    """Their time is over: as if each had been made long ago."""
    for lease in leases:
        for charge in lease.charges:
            if isinstance(charge.rule, Cap):
                field = f"L:{lease.mark}"
                state_and_amount = server.text(charge.key, field).rpartition(" ")[0]
                assert state_and_amount, "the counter knows the lease"
                server.admin.hset(charge.key, mapping={field: f"{state_and_amount} 1", "n": 1})
