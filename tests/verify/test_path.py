"""The path that a client's request takes, from the LAN through each frontend to the orchestrator."""

import time
import warnings

import httpx
from testinfra.host import Host

from tests.verify.test_frontend import DATA, UPSTREAM_DOWN, ask

GROUP = "frontends"
# What the probe asks, as it asks: within its limit, on a connection of its own, no redirect followed.
ASK = (
    "import http.client as h, sys; c = h.HTTPConnection(sys.argv[1], timeout=float(sys.argv[2]));"
    " c.request('GET', '/health'); print(c.getresponse().status)"
)


def test_the_orchestrator_answers_through_the_frontend(node: Host) -> None:
    """A frontend whose upstream is down is healthy: said, and passed."""
    answer = ask(node, "/health", X_Request_ID="verify-path-1")
    name = answer.headers["X-OKOME-Node"]
    if answer.status_code in UPSTREAM_DOWN:
        warnings.warn(f"path through {name}: up, upstream down", stacklevel=1)
        return
    assert answer.is_success, answer.status_code
    assert answer.headers["X-Upstream"] == DATA["orchestrator"]
    assert answer.headers["X-Cache-Status"] == "BYPASS"
    assert answer.headers["X-Request-ID"] == "verify-path-1"


def test_the_gate_agrees_with_the_orchestrator(node: Host) -> None:
    """As seen from the node itself. An orchestrator slower than the probe's limit is down, and that is said."""
    limit = time.monotonic() + 30
    while True:
        asked = node.run("python3 -c %s %s %s", ASK, DATA["orchestrator"], str(DATA["probe_timeout_s"]))
        healthy = asked.stdout.strip().startswith("2")
        state = ask(node, "/okome/health").json()
        gate = state["upstream_ok"] == 1
        if gate == healthy:
            break
        assert time.monotonic() < limit, f"the orchestrator is {'up' if healthy else 'down'}, the gate is not"
        time.sleep(0.5)
    if not gate:
        warnings.warn(f"gate of {state['node']}: up, upstream down", stacklevel=1)


def test_calls_are_never_cached(node: Host) -> None:
    answers: list[httpx.Response] = [ask(node, "/health") for _ in range(2)]
    assert {answer.headers["X-Cache-Status"] for answer in answers} == {"BYPASS"}
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 2


def test_an_outage_is_answered_at_once_not_with_a_time_out(node: Host) -> None:
    answer = ask(node, "/v1/models", "POST")
    if answer.status_code in UPSTREAM_DOWN:
        assert answer.headers["Retry-After"].isdigit()
        assert answer.headers["Cache-Control"] == "no-store"
