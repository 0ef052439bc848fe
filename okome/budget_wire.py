"""How budgets talk to Redis: the scripts of okome.budget_scripts, their keys, what they are sent and answer.

Everything here raises what UNAVAILABLE lists.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from okome.budget_scripts import OPEN_SEED, RESERVE, SEED, SETTLE, START
from okome.client import require_fit
from okome.connection import Clock, Line, Script
from okome.decision import mark_of
from okome.keys import Keyspace, digest
from okome.ledger_file import Account
from okome.rules import SLOTS, Charge

_PACK = msgspec.msgpack.Encoder().encode
_SEED_MS = 60_000  # to read the ledger, which may be busy, and write what was read


class Said(Enum):
    OK = b"OK"
    DENIED = b"DENIED"
    LOST = b"LOST"  # a cap's counter is missing, which is not zero
    SETTLED = b"SETTLED"  # the lease has ended
    PERIOD = b"PERIOD"  # our idea of the calendar was wrong, until this answer told the time


_RANKS: Mapping[Script, int] = {RESERVE: 1, START: 2, SETTLE: 3}  # of what they write into the lease's marker


_SAID: Mapping[bytes, Said] = {said.value: said for said in Said}


class Answer(msgspec.Struct, frozen=True):
    """`charge`: the one that is denied, or lost. `retry`: ms until it may be allowed, -1 never. `left`: of each
    charge in turn what remains (less than 0: debt), and in how many ms all is back.
    """

    said: Said
    charge: Charge | None
    retry: int
    left: Sequence[int]


class Wire:
    """One namespace of one Redis. Times in ms: `lease_ms`, `started_ms` until a lease expires, `retention_ms`
    for which one that has ended is known. `ledger`: whether there is one to rebuild a lost counter from.
    """

    def __init__(
        self,
        redis: Any,
        key: Keyspace,
        clock: Clock,
        timeout: float,
        *,
        lease_ms: int,
        started_ms: int,
        retention_ms: int,
        ledger: bool,
    ) -> None:
        require_fit(redis)
        self._redis = redis
        self._line = Line(redis, anew=self._anew)
        self.anew: Callable[[], Awaitable[None]] | None = None
        """Called before anything is decided by a server that may be another one by now."""
        self._key = key
        self._epoch = key("epoch").encode()
        self._leases = key("lease", "*")[:-1].encode()  # what their names begin with
        self._clock = clock
        self._timeout = timeout
        self._limit = self._line.limit(timeout)
        self._lease_ms, self._started_ms, self._retention_ms = lease_ms, started_ms, retention_ms
        self._ledger = ledger
        self._trusted = (
            0  # of the line's breaks: those after which the server was found to know what it had said
        )
        self._last: tuple[bytes, int] | None = (
            None  # the marker that it said last it had written, and how far
        )

    async def aclose(self) -> None:
        await self._line.aclose()

    async def reconnect(self) -> None:
        await self._line.reconnect()

    async def sync_clock(self) -> None:
        await self._clock.sync(self._line, self._timeout)

    async def ask_time(self) -> None:
        """Whether it is there: the time is asked for, though it is known."""
        async with asyncio.timeout(self._timeout):
            await self._clock.ask(self._line)

    # Deciding

    async def reserve(self, identity: str, charges: Sequence[Charge]) -> Answer:
        rules: list[str | int | float] = []
        for charge in charges:
            rules += charge.rule.reserving(charge)
        return await self._ask(RESERVE, mark_of(identity, charges), charges, self._lease_ms, rules)

    async def start(self, mark: str, caps: Sequence[Charge]) -> Answer:
        rules = [[charge.amount, charge.rule.limit, charge.end] for charge in caps]
        return await self._ask(START, mark, caps, self._started_ms, rules)

    async def settle(self, mark: str, charges: Sequence[Charge], actual: Mapping[str, int]) -> Answer:
        """`actual`: by unit."""
        rules = [charge.rule.settling(charge, actual[charge.rule.unit]) for charge in charges]
        return await self._ask(SETTLE, mark, charges, 0, rules)

    async def _ask(
        self, script: Script, mark: str, charges: Sequence[Charge], ttl: int, rules: Sequence[Any]
    ) -> Answer:
        keys = [self._leases + mark.encode(), self._epoch, *[charge.wire for charge in charges]]
        lives = self._lease_ms, self._started_ms
        packed = _PACK([mark, ttl, self._retention_ms, self._ledger, rules, *lives, SLOTS])
        sent = self._clock.monotonic()
        if self._limit is None:
            answer = await script(self._line, keys, packed)
        else:
            async with asyncio.timeout(self._limit):
                answer = await script(self._line, keys, packed)
        said, seconds, microseconds, number, *rest = answer
        self._clock.observe(sent, int(seconds), int(microseconds))
        if said == b"OK" and self._line.breaks == self._trusted:
            self._last = keys[0], _RANKS[script]
        return Answer(_SAID[said], charges[number - 1] if number else None, rest[0] if rest else 0, rest[1:])

    # Whether it is the same server, with all that it said it had written

    async def _anew(self) -> None:
        if self.anew is not None:
            await self.anew()

    @property
    def breaks(self) -> int:
        return self._line.breaks

    @property
    def in_doubt(self) -> bool:
        """An answer did not come, or another server may have taken over: one that had not heard of everything."""
        return self._line.breaks != self._trusted

    async def remembers(self) -> bool:
        """Whether it still has what it last said it had written: then it has all before that, in the order in which
        it goes to a replica and to the disk. False also if that is too long ago to tell.
        """
        if self._last is None:
            return True
        key, rank = self._last
        async with asyncio.timeout(self._timeout):
            marker: bytes | None = await self._redis.get(key)
        return marker is not None and _rank(marker) >= rank

    def trust(self, breaks: int, *, anew: bool) -> None:
        """After so many breaks; `anew`: though it has lost what it had said it had written."""
        self._trusted = breaks
        if anew:
            self._last = None

    # Caps and their counters

    @property
    def caps_begin_with(self) -> str:
        """The keys of all caps."""
        return self._key("cap", "") + ":"

    async def open_seed(self, cap: Charge) -> str | bytes | None:
        """Before the ledger is read: a token that is void once the counter was seeded or dropped by anybody.
        None: the counter is there again.
        """
        keys = [cap.key, self._seed_key(cap.key)]
        async with asyncio.timeout(self._timeout):
            token: str | bytes | None = await OPEN_SEED(self._redis, keys, uuid.uuid4().hex, _SEED_MS)
        return token

    async def seed(self, cap: Charge, token: str | bytes, account: Account) -> bool:
        """Build the counter from its account, unless the token is void."""
        fields: list[str | int] = ["d", 0]
        reserved, expiries = 0, []
        for lease, amount, at in account.open:
            expiry = int(at * 1000) + self._started_ms
            fields += [f"L:{lease}", f"B {amount} {expiry}"]
            reserved += amount
            expiries.append(expiry)
        for lease, amount, at in account.settled:
            fields += [f"T:{lease}", f"S {amount} {int(at * 1000) + self._retention_ms}"]
        fields += ["r", reserved, "n", min(expiries, default=0)]
        keys = [cap.key, self._seed_key(cap.key)]
        async with asyncio.timeout(self._timeout):
            return bool(await SEED(self._redis, keys, token, account.spent, cap.end, *fields))

    async def drop(self, caps: Sequence[str]) -> None:
        """Their counters, and what others are about to rebuild them from: they may have read it earlier."""
        await self._redis.delete(*caps, *map(self._seed_key, caps))

    def _seed_key(self, cap: str) -> str:
        return self._key("seed", digest(cap))

    async def set_epoch(self) -> None:
        await self._redis.set(self._epoch, b"1", nx=True)

    async def eviction_policy(self) -> str:
        """maxmemory-policy, or "not told"."""
        try:
            async with asyncio.timeout(self._timeout):
                memory = await self._redis.info("memory")
        except ResponseError:
            memory = {}
        return str(memory.get("maxmemory_policy", "not told"))


def _rank(marker: bytes) -> int:
    if marker == b"S":
        return _RANKS[SETTLE]
    return _RANKS[START if marker.endswith(b"W") else RESERVE]
