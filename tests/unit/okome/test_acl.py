"""The application user may do what the library does, and nothing else."""

import asyncio
import runpy
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from bench.ports import free_port
from bench.redis_server import RedisServer
from okome import Budgets, Bytes, Cache, CachePolicy, Cap, Ledger, Rate, Rule, connect
from okome.acl import APPLICATION_COMMANDS
from tests.unit.okome.waiting import until

pytestmark = pytest.mark.anyio


ROOT = Path(__file__).parents[3]
SILENCE = 0.5  # s, instead of okome.wake's


@pytest.fixture(autouse=True)
def _soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okome.wake.SILENCE", SILENCE)


async def everything(url: str, folder: Path) -> None:
    """Each thing that the library does with Redis, once at least."""
    client = connect(url, timeout=30)
    policy = CachePolicy(lock_ttl=0.6, poll=0.05, redis_timeout=30, write_timeout=30)

    async def slow() -> bytes:
        await asyncio.sleep(0.5)  # more than a heartbeat
        return b"x"

    async def broken() -> bytes:
        raise ValueError("x")

    async with (
        Cache(client, namespace="all", codec=Bytes(), policy=policy) as one,
        Cache(client, namespace="all", codec=Bytes(), policy=policy) as two,
    ):
        await asyncio.gather(*(cache.get_or_compute("k", slow, tags=["t"]) for cache in (one, two)))
        await asyncio.gather(*(one.get_or_compute("k", slow, tags=["t"]) for _ in range(3)))
        with pytest.raises(ValueError, match="x"):
            await one.get_or_compute("broken", broken, tags=["t"])
        await one.put("p", b"x", tags=["t"])
        await one.get("p")
        assert await one.invalidate("p")
        assert await one.invalidate_tag("t")
        await asyncio.sleep(2 * SILENCE)  # until the subscription asks whether the server is still there
        await until(lambda: one.available)
    ledger = Ledger(folder / "ledger.sqlite")
    rules: list[Rule] = [
        Rate(name="r", by=("u",), unit="tokens", limit=100),
        Cap(name="c", by=("u",), unit="tokens", limit=1000),
    ]
    budgets = Budgets(client, rules=rules, ledger=ledger, retention=0.01, redis_timeout=30)
    for actual in (0, 20, 5):
        decision = await budgets.reserve({"u": "ann"}, {"tokens": 10})
        assert decision.lease is not None
        assert await budgets.start(decision.lease)
        await budgets.commit(decision.lease, {"tokens": actual})
    hasty = Budgets(client, rules=rules, ledger=ledger, lease_ttl=1, retention=0.01, redis_timeout=30)
    await hasty.reserve({"u": "bob"}, {"tokens": 10})
    await asyncio.sleep(1.5)
    await hasty.reserve({"u": "bob"}, {"tokens": 10})  # sweeps the first, which has expired
    await budgets.initialise()
    await hasty.aclose()
    await budgets.aclose()
    ledger.close()
    await client.aclose()


FORBIDDEN = [
    ("FLUSHALL",),
    ("KEYS", "*"),
    ("CONFIG", "GET", "*"),
    ("GET", "another:key"),
    ("SET", "another:key", "x"),
    ("PUBLISH", "another:channel", "x"),
    ("EVAL", "return redis.call('GET', KEYS[1])", "1", "another:key"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("INFO",),
    ("SCRIPT", "FLUSH"),
]


async def refused(url: str, command: tuple[str, ...]) -> None:
    client: Redis = Redis.from_url(url)
    try:
        with pytest.raises(Exception, match=r"(?i)permission|no access|can't run this command"):
            await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
    finally:
        await client.aclose()


async def test_exactly_these_commands(server: RedisServer, tmp_path: Path) -> None:
    """None of them is refused, and each is used; what the test itself sends as admin is left out."""
    server.forget_calls()
    await everything(server.url, tmp_path)
    used = set(server.calls()) - {"auth", "hello", "info", "config|resetstat", "acl|log"}
    assert used == set(APPLICATION_COMMANDS)
    assert server.denied() == []


async def test_no_connection_asks_for_what_an_older_or_newer_redis_refuses(
    server: RedisServer, tmp_path: Path
) -> None:
    """CLIENT SETINFO, say: Redis 7.0 does not know it, later ones do not let our user."""
    await everything(server.url, tmp_path)
    assert {"ERR", "NOPERM"} & set(server.errors()) == set()


async def test_the_prefix_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed there, it is changed for the library, for the server's ACL, and for the node's."""
    monkeypatch.setattr("okome.acl.PREFIX", "elsewhere:")
    node = runpy.run_path(str(ROOT / "group_data" / "backends.py"))["redis_application_rights"]
    assert node.startswith("~elsewhere:* &elsewhere:* +get ")
    assert node.split()[2:] == [f"+{command}" for command in APPLICATION_COMMANDS]
    with RedisServer() as server:
        await everything(server.url, tmp_path)
        assert server.denied() == []
        assert server.matching("*")
        assert server.matching("elsewhere:*") == server.matching("*")


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
async def test_and_nothing_else(server: RedisServer, command: tuple[str, ...]) -> None:
    try:
        await refused(server.url, command)
    finally:
        server.admin.acl_log_reset()


async def test_everything_works_on_a_node_of_a_cluster(tmp_path: Path) -> None:
    """Which refuses whatever spans two slots; the client is all that a cluster changes."""
    port = free_port()
    options = (
        *("--bind", "127.0.0.1", "--port", str(port)),
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
    )
    with RedisServer(*options) as server:
        server.admin.cluster("ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 20
        while server.admin.cluster("INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await everything(server.at(port)[0], tmp_path)
        assert server.denied() == []


async def test_without_any_one_of_them_something_is_refused(tmp_path: Path) -> None:
    """So the test above would notice a command that is missing."""
    commands = tuple(command for command in APPLICATION_COMMANDS if command != "pttl")
    with RedisServer(commands=commands) as server:
        await asyncio.gather(everything(server.url, tmp_path), return_exceptions=True)
        assert server.denied()
