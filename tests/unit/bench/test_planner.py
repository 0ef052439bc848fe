"""The planner's bench: what it makes of what wrk saw, and a short run of its own servers with the real wrk."""

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench import planner, planner_parts
from bench.planner import BARE, HITS, MISSES, OURS, THEIRS, measures
from bench.ports import free_port
from bench.redis_server import RedisServer
from bench.served import KEYS, Load, load, memory_mb, serving

SEEN = {
    (BARE, HITS): [Load(1000, 1.0, 2.0), Load(3000, 2.0, 4.0)],
    (OURS, HITS): [Load(1400, 3.0, 5.0), Load(1200, 4.0, 6.0)],
    (OURS, MISSES): [Load(660, 10.0, 20.0)],
    (THEIRS, HITS): [Load(50, 80.0, 90.0), Load(52, 80.0, 90.0)],
    (THEIRS, MISSES): [Load(60, 100.0, 150.0)],
}


def test_what_it_makes_of_what_was_seen() -> None:
    listed = measures(SEEN, {OURS: 40.0, THEIRS: 400.0})
    found = {(one.measure, one.against): one for one in listed}
    assert found[f"{BARE}: answers", "asked directly, by 8 connections of wrk"].value == 2000
    assert found["hits: p50 added by okome", "the server itself: 1.50 ms"].value == 2.0
    assert found["misses: p99 added by LiteLLM", "the server itself: 3.00 ms"].value == 147.0
    goals = {key: (one.value, one.goal, one.holds) for key, one in found.items() if one.goal is not None}
    assert goals == {
        ("hits", "LiteLLM's"): (pytest.approx(1300 / 51), 25, True),
        ("hits", BARE): (0.65, 0.6, True),
        ("misses", "LiteLLM's"): (11.0, 10, True),
        ("memory", "LiteLLM's"): (0.1, 0.2, True),
    }


def test_a_goal_that_is_missed_is_said() -> None:
    slow = {**SEEN, (OURS, HITS): [Load(600, 3.0, 5.0)], (OURS, MISSES): [Load(500, 10.0, 20.0)]}
    listed = measures(slow, {OURS: 90.0, THEIRS: 400.0})
    assert [one.holds for one in listed if one.goal is not None] == [False] * 4


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but LiteLLM, whose environment takes minutes to make: the bare server stands in for it."""
    monkeypatch.setattr(planner, "SECONDS", 1.0)  # wrk counts in whole ones
    monkeypatch.setattr(planner, "ROUNDS", 1)
    monkeypatch.setattr(planner_parts, "_TIMES", 3)
    port, behind, ours = free_port(), free_port(), free_port()
    bare = [sys.executable, "-m", "uvicorn", "bench.bare:app", "--log-level", "warning"]
    with RedisServer("--bind", "127.0.0.1", "--port", str(port)) as server:
        url, _ = server.at(port)
        upstream = f"http://127.0.0.1:{behind}/v1"
        with (
            serving([*bare, "--port", str(behind)], behind, {}),
            serving(planner.planner(ours, upstream, tmp_path), ours, {"OKOME_REDIS_URL": url}) as pid,
        ):
            found = planner.loads({BARE: behind, OURS: ours, THEIRS: behind})
            assert memory_mb(pid) > 10
            with pytest.raises(RuntimeError, match="answers failed"):
                load(ours, 1.0, prefix='"', keys=1)
        parts = asyncio.run(planner_parts.parts(url, tmp_path, 100.0, 300.0, 200.0))
    assert found.keys() == SEEN.keys()
    assert all(one.rate > 0 and 0 < one.p50 <= one.p99 for some in found.values() for one in some)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        (paid,) = ledger.execute("SELECT count(*) FROM entries WHERE event = 'settle'").fetchone()
    assert paid > KEYS, "misses are paid for, each"
    values = {one.measure: one.value for one in parts}
    assert all(value > 0 for name, value in values.items() if "the rest" not in name)
    of_a_hit = [value for name, value in values.items() if name.startswith("a hit: ")]
    assert sum(of_a_hit) == pytest.approx(300.0)
    assert "a miss: ledger: one durable write" in values
