"""The path that a client's request takes, from the LAN through each frontend to the orchestrator."""

import json
import time
import warnings

import httpx
from testinfra.host import Host

from tests.verify.test_frontend import DATA, UPSTREAM_DOWN, ask

GROUP = "frontends"


def test_the_orchestrator_answers_through_the_frontend(node: Host) -> None:
    """A frontend whose upstream is down is healthy: said, and passed."""
    answer = ask(node, "/health", X_Request_ID="verify-path-1")
    name = answer.headers["X-OKOME-Node"]
    if answer.status_code in UPSTREAM_DOWN:
        warnings.warn(f"path through {name}: up, upstream down", stacklevel=1)
        return
    assert answer.status_code == 200
    assert answer.headers["X-Upstream"] == DATA["orchestrator"]
    assert answer.headers["X-Cache-Status"] == "BYPASS"
    assert answer.headers["X-Request-ID"] == "verify-path-1"


def test_the_gate_agrees_with_the_orchestrator(node: Host) -> None:
    """As seen from the node itself, within the time that the probe takes to make up its mind."""
    url = f"http://{DATA['orchestrator']}/health"
    script = f"import urllib.request as r; print(r.urlopen('{url}', timeout=5).status)"
    limit = time.monotonic() + 30
    while True:
        alive = node.run("python3 -c %s", script).stdout.strip() == "200"
        gate = json.loads(ask(node, "/okome/health").text)["upstream_ok"] == 1
        if gate == alive:
            break
        assert time.monotonic() < limit, f"the orchestrator is {'up' if alive else 'down'}, the gate is not"
        time.sleep(0.5)


def test_calls_are_never_cached(node: Host) -> None:
    answers: list[httpx.Response] = [ask(node, "/health") for _ in range(2)]
    assert {answer.headers["X-Cache-Status"] for answer in answers} == {"BYPASS"}
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 2


def test_an_outage_is_answered_at_once_not_with_a_time_out(node: Host) -> None:
    answer = ask(node, "/v1/models", "POST")
    if answer.status_code in UPSTREAM_DOWN:
        assert answer.headers["Retry-After"].isdigit()
        assert answer.headers["Cache-Control"] == "no-store"
