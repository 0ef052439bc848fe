"""The path through both nodes: client, CN00, the example planner at .25, Redis on CN01 with its real users."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import machine
from lab.client import Answer, Client
from tests.lab.conftest import NAME, Lab
from tests.lab.frontend import needs_root
from tests.unit.okome.test_acl import FORBIDDEN

pytestmark = [needs_root, pytest.mark.timeout(900)]
QUESTION = {
    "model": "demo",
    "temperature": 0,
    "messages": [{"role": "user", "content": "how does rice cook?"}],
}
KEY = {"Authorization": "Bearer of-the-test", "Content_Type": "application/json"}


@pytest.fixture(scope="module")
def tier(lab: Lab) -> Lab:
    """Both nodes finished, the planner between them: nginx 1.22 and Redis 8.0 (the unit tests have Redis 7.0)."""
    for node, suite in (("cn00", "bookworm"), ("cn01", "trixie")):
        lab("up", node, "--fresh", "--suite", suite, timeout=1500)
        run = lab.deploy(deploy=f"deploys/{node}.py", address=lab.address(node))
        assert run.status == 0, run.output
    lab("origin", "planner")
    lab.execute("redis-admin", "acl", "log", "reset")
    return lab


@pytest.fixture
def client(tier: Lab) -> Iterator[Client]:
    with Client(Path(f"/run/netns/okome-{NAME}")) as client:
        limit = time.monotonic() + 30
        while not json.loads(client.ask("/okome/health").body)["upstream_ok"]:
            assert time.monotonic() < limit, "CN00 does not see the planner"
            time.sleep(0.1)
        yield client


def ask(client: Client, **more: Any) -> Answer:
    return client.ask("/v1/chat/completions", method="POST", body=json.dumps(QUESTION | more), **KEY)


def without_ids(answer: Answer) -> bytes:
    """Each answer has one of its own."""
    return re.sub(rb'"id":"chatcmpl-[0-9a-f]+"', b'"id":""', answer.body)


def tokens_left(client: Client) -> int:
    """What a question that nobody asked before leaves of the day's tokens, as CN00's client sees it."""
    answer = ask(client, messages=[{"role": "user", "content": str(time.time_ns())}])
    return int(answer.header("x-ratelimit-remaining-tokens") or 0)


def test_a_hit_is_seen_through_the_frontend_and_costs_no_tokens(client: Client) -> None:
    first = ask(client)
    assert (first.status, first.header("X-OKOME-Cache")) == (200, "MISS")
    assert first.header("X-OKOME-Node") == "CN00"
    before = tokens_left(client)
    for _ in range(5):
        again = ask(client)
        assert (again.header("X-OKOME-Cache"), without_ids(again)) == ("HIT", without_ids(first))
        assert str(again.header("Cache-Status")).startswith("okome; hit; ttl=")
    one_question = before - tokens_left(client)
    cost = json.loads(first.body)["usage"]["total_tokens"]
    assert 0 < one_question < 2 * cost, "six questions of which five were hits cost what one does"


def test_a_stream_comes_through_and_is_replayed(client: Client) -> None:
    asked = {"stream": True, "messages": [{"role": "user", "content": "in pieces"}]}
    first = ask(client, **asked)
    limit = time.monotonic() + 10
    # Readers get it before Redis does, so the very next question may still join the first.
    while (second := ask(client, **asked)).header("X-OKOME-Cache") == "COALESCED":
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert str(first.header("Content-Type")).startswith("text/event-stream")
    assert first.body.rstrip().endswith(b"data: [DONE]")
    assert second.header("X-OKOME-Cache") == "HIT"
    assert without_ids(second) == without_ids(first)


def test_the_application_user_was_refused_nothing_and_wrote_under_its_prefix(
    tier: Lab, client: Client
) -> None:
    ask(client, messages=[{"role": "user", "content": "anything"}])
    assert tier.execute("redis-admin", "acl", "log").strip() == ""
    keys = tier.execute("redis-admin", "--scan").split()
    assert keys
    assert all(key.startswith("okome:") for key in keys)


AS_THE_APPLICATION = """
import asyncio, pathlib, sys
import okome.wake
from tests.unit.okome import test_acl
okome.wake.SILENCE = test_acl.SILENCE
url = pathlib.Path(sys.argv[1]).read_text().strip()
asyncio.run(test_acl.everything(url, pathlib.Path(sys.argv[2])))
print("allowed")
for command in test_acl.FORBIDDEN:
    asyncio.run(test_acl.refused(url, command))
print("refused", len(test_acl.FORBIDDEN))
"""


def test_the_application_user_may_do_what_the_library_does_and_nothing_else(
    tier: Lab, client: Client, tmp_path: Path
) -> None:
    """From the orchestrator's place, with its password, on the node as the deploy left it."""
    url = machine.state_dir().parent / NAME / "operator" / "redis-url"
    place = f"--net=/run/netns/okome-{NAME}-orchestrator"
    done = subprocess.run(
        ["nsenter", place, sys.executable, "-c", AS_THE_APPLICATION, url, tmp_path],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    tier.execute("redis-admin", "acl", "log", "reset")
    assert done.stdout.split() == ["allowed", "refused", str(len(FORBIDDEN))], done.stderr


def test_the_operator_sees_both_nodes_well_and_what_redis_uses(tier: Lab, client: Client) -> None:
    ask(client)
    nodes = json.loads(tier("run", "--", "okome", "status", "--json"))["nodes"]
    assert [nodes[name]["healthy"] for name in ("cn00", "cn01")] == [True, True], nodes
    assert nodes["cn00"]["upstream"] == "up"
    assert 0 < nodes["cn01"]["redis_used"] < nodes["cn01"]["redis_max"], nodes


def test_without_redis_the_ledger_decides_over_a_hard_cap(tier: Lab, client: Client) -> None:
    """At once; and what was spent meanwhile is spent when Redis is back."""
    before = tokens_left(client)
    tier.execute("systemctl", "stop", "redis-server")
    try:
        away = ask(client, messages=[{"role": "user", "content": "while it is away"}])
        assert (away.status, away.header("X-OKOME-Cache")) == (200, "DEGRADED")
        left = int(away.header("x-ratelimit-remaining-tokens") or 0)
        assert 0 < left < before
        # A million a day: the most words that fit into a request, and the most and longest answers.
        much = [{"role": "user", "content": "a " * 480_000}]
        refused = ask(client, messages=much, max_tokens=4096, n=128)
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (429, "insufficient_quota")
        said = json.loads(client.ask("/health").body)
        assert (said["status"], said["mode"]) == ("degraded", "ledger")
    finally:
        tier.execute("systemctl", "start", "redis-server")
    limit = time.monotonic() + 30
    while ask(client, messages=[{"role": "user", "content": "it is back"}]).header("X-OKOME-Cache") != "HIT":
        assert time.monotonic() < limit
        time.sleep(0.5)
    assert 0 < tokens_left(client) < left
