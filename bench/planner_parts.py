"""Where the time of a hit and of a miss of the planner goes: each part alone, one call after another."""

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.measure import Measure
from okome import Budgets, Bytes, Cache, Ledger, Status, connect
from okome.headers import cache_headers
from okome.lately import encoded
from okome.openai import delivered
from okome.planner import default_rules
from okome.question import question_of

_TIMES = 300
_ANSWER = b"a rice bowl holds more than it shows " * 20
_BODY = json.dumps(
    {
        "model": "bare",
        "temperature": 0,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "what does a rice bowl hold? " * 16}],
    }
).encode()


def _median(call: Callable[[], object]) -> float:
    """Microseconds."""
    taken = []
    for _ in range(_TIMES):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e6


async def _medians(steps: dict[str, Callable[[int], Awaitable[Any]]]) -> dict[str, float]:
    """Microseconds of each; the n-th time all are called in this order."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for n in range(_TIMES):
        for name, step in steps.items():
            begin = time.perf_counter()
            await step(n)
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(some) * 1e6 for name, some in taken.items()}


def _written() -> None:
    delivered(_ANSWER)
    encoded(cache_headers(Status.HIT, age=1, ttl=2, stored=True))


async def parts(url: str, folder: Path, server_us: float, hit_us: float, upstream_us: float) -> list[Measure]:
    """`server_us`: what uvicorn alone takes for an answer, `hit_us`: the planner for a hit, with all connections busy;
    `upstream_us`: the upstream for one answer, by one connection.
    """
    written = _median(_written)
    client, ledger = connect(url), Ledger(folder / "parts.sqlite")
    subject, amounts = {"user": "ann"}, {"requests": 1, "tokens": 100}
    leases: dict[int, Any] = {}
    async with (
        Budgets(client, namespace="parts", rules=default_rules(10**7, 10**12), ledger=ledger) as budgets,
        Cache(client, namespace="parts", codec=Bytes()) as cache,
    ):

        async def computed() -> bytes:
            return _ANSWER

        async def reserve(n: int) -> None:
            leases[n] = (await budgets.reserve(subject, amounts)).lease

        await cache.put("hit", _ANSWER)
        found = await _medians(
            {
                "a question known by heart": lambda _: question_of(_BODY, "bench"),
                "a new question, its key": lambda n: question_of(_BODY.replace(b"hold", b"%d" % n), "bench"),
                "redis: the hit": lambda _: cache.get_or_compute("hit", computed),
                "redis: look, take the lock": lambda n: cache.get_or_compute(str(n), computed),
                "budget: reserve": reserve,
                "budget: start": lambda n: budgets.start(leases[n]),
                "budget: commit": lambda n: budgets.commit(leases[n], {"tokens": 90}),
                "ledger: one durable write": lambda n: ledger.start(f"lease-{n}", [("cap", 1)], 1.0),
            }
        )
    await client.aclose()
    ledger.close()
    hit = {
        "read": found.pop("a question known by heart"),
        "write": written,
        "redis": found.pop("redis: the hit"),
        "uvicorn": server_us,
    }
    hit["the rest, less what others' waits hide"] = hit_us - sum(hit.values())
    miss = {
        "read": found.pop("a new question, its key"),
        "write": written,
        **found,
        "upstream": upstream_us,
        "uvicorn": server_us,
    }
    against = {
        "read": "the question understood, and its key",
        "write": "the answer's id and headers",
        "redis": "one GET, alone",
        "uvicorn": "the server itself, per answer",
        "upstream": "one connection of wrk",
        "budget: start": "one write of the ledger is in it",
        "budget: commit": "one write of the ledger is in it",
    }
    return [
        Measure(f"a {kind}: {name}", us, "us", against.get(name, ""))
        for kind, some in (("hit", hit), ("miss", miss))
        for name, us in some.items()
    ]
