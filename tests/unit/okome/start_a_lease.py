"""Reserves 300 tokens, and starts when it is told to by SIGUSR1: a process for tests that kill it."""

import asyncio
import signal
import sys

from okome import Budgets, Cap, Ledger, connect


async def main(url: str, path: str) -> None:
    go = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
    cap = Cap(name="tpd", by=("user",), unit="tokens", limit=1000)
    budgets = Budgets(
        connect(url), rules=[cap], ledger=Ledger(path), namespace="test", lease_ttl=0.2, started_ttl=0.2
    )
    lease = (await budgets.reserve({"user": "ann"}, {"tokens": 300})).lease
    assert lease is not None
    print("reserved", flush=True)
    async with asyncio.timeout(30):
        await go.wait()
    assert await budgets.start(lease)
    print("started", flush=True)
    await asyncio.sleep(30)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
