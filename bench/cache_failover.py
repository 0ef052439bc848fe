"""A master that is killed under load, and the sentinels that make its replica the next one."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Sentinel

from bench.measure import Measure
from bench.ports import free_port
from bench.sentinels import SERVICE, Sentinels
from okome import Bytes, Cache, Status, connect_sentinel

RATE = 200  # requests per second, by each of the two
BEFORE, AFTER = 2.0, 4.0  # s of load around what the sentinels do
KEYS = 20  # of which one in ten requests asks for none, but for a new one
COMPUTE = 0.01  # s
VALUE = b"a rice bowl holds more than it shows " * 25

Call = Callable[[str], Awaitable[bool]]


class _Caller:
    """Asks `call` for a key, RATE times in a second whatever became of the last; it says whether it was a hit."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.asked = 0
        self.errors = 0
        self.hits: list[float] = []  # when they came
        self.slowest = 0.0  # s
        self._tasks: set[asyncio.Task[None]] = set()

    async def _one(self, key: str) -> None:
        began = time.monotonic()
        try:
            hit = await self._call(key)
        except Exception:  # noqa: BLE001  # whatever reaches a caller counts
            self.errors += 1
        else:
            if hit:
                self.hits.append(time.monotonic())
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def load(self, stop: asyncio.Event) -> None:
        began = time.monotonic()
        while not stop.is_set():
            while self.asked < (time.monotonic() - began) * RATE:
                self.asked += 1
                key = str(self.asked % KEYS) if self.asked % 10 else f"new-{self.asked}"
                task = asyncio.create_task(self._one(key))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.005)
        await asyncio.wait(set(self._tasks) or {asyncio.create_task(asyncio.sleep(0))}, timeout=30)

    def back(self, killed: float, promoted: float) -> float:
        """Seconds from the kill to the first hit that the new master can have given."""
        return next((at - killed for at in self.hits if at > promoted), float("inf"))


async def failover() -> list[Measure]:
    with Sentinels([free_port() for _ in range(5)]) as sentinels:
        client = connect_sentinel(sentinels.url, sentinels.addresses, SERVICE)
        options = client.connection_pool.connection_kwargs
        bare = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's
            sentinels.addresses, socket_timeout=1, socket_connect_timeout=1, driver_info=None, protocol=2
        ).master_for(SERVICE, username=options["username"], password=options["password"])

        async def compute() -> bytes:
            await asyncio.sleep(COMPUTE)
            return VALUE

        async def by_redis_py(key: str) -> bool:
            if await bare.get(f"okome:bare:{key}") is not None:
                return True
            await bare.set(f"okome:bare:{key}", await compute(), ex=600)
            return False

        async with Cache(client, namespace="failover", codec=Bytes()) as cache:

            async def ours(key: str) -> bool:
                return (await cache.get_or_compute(key, compute)).status is Status.HIT

            callers, stop = [_Caller(ours), _Caller(by_redis_py)], asyncio.Event()
            loads = [asyncio.create_task(caller.load(stop)) for caller in callers]
            await asyncio.sleep(BEFORE)
            old = sentinels.master()
            sentinels.servers[old].kill()
            killed = time.monotonic()
            await asyncio.to_thread(sentinels.promoted, old)
            promoted = time.monotonic()
            await asyncio.sleep(AFTER)
            stop.set()
            await asyncio.gather(*loads)
        await client.aclose()
        await bare.aclose()
    us, them = callers
    load = f"{RATE} requests/s, the master killed"
    return [
        Measure("failover: errors to callers", us.errors, "", f"{us.asked} at {load}", 0, "=="),
        Measure(
            "failover: errors of redis-py", them.errors, "", f"{them.asked}, its Sentinel client, GET and SET"
        ),
        Measure("failover: until another is the master", promoted - killed, "s", "down after 1 s of silence"),
        Measure("failover: until there are hits again", us.back(killed, promoted), "s", "the kill"),
        Measure("failover: until redis-py has hits again", them.back(killed, promoted), "s", "the kill"),
        Measure("failover: slowest answer", us.slowest * 1000, "ms", "10 ms of computing"),
        Measure("failover: slowest of redis-py", them.slowest * 1000, "ms", "the same, errors included"),
    ]
