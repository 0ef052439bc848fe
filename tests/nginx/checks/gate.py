"""The gate: what is answered while the origin is away."""

import json
import time

from lab.origin import chunk
from tests.nginx.checks.frame import SNIPPETS, Frontend, trap


@trap(f"{SNIPPETS}/okome-health.conf", "    set $okome_upstream_ok 0;\n", "    return 503;\n")
def gate_serves_stale_and_maintenance_at_once(box: Frontend) -> None:
    assert box.client.ask("/assets/short/gate").cache == "MISS"
    time.sleep(2.1)  # nginx counts whole seconds
    box.origin(mode="hanging", reset=True)
    box.set_flag(down=True)
    stale = box.client.ask("/assets/short/gate")
    assert (stale.status, stale.cache) == (200, "STALE")
    assert box.client.ask("/assets/short/not-there").status == 503
    assert box.client.ask("/v1/models").status == 503
    assert box.client.ask("/v1/chat/completions", "POST", body="{}").status == 503
    assert box.origin()["counts"] == {}, "a request reached the origin although the gate is closed"
    box.origin(mode="up")
    box.set_flag(down=False)
    assert box.client.ask("/v1/models").status == 200


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_cache_use_stale error timeout",
    "proxy_cache_use_stale off; #",
)
def outage_without_a_probe_serves_stale(box: Frontend) -> None:
    path = "/assets/short/outage"
    box.client.ask(path)
    time.sleep(2.1)
    for mode in ("down", "500", "502", "503", "504"):
        box.origin(mode=mode)
        answer = box.client.ask(path)
        assert (answer.status, answer.cache) == (200, "STALE"), mode


@trap("/etc/nginx/okome/health_state.conf", "set $okome_upstream_ok 1;", "set $okome_upstream_ok 0;")
@trap(f"{SNIPPETS}/okome-health.conf", "if (-f /run/okome/upstream/down)", "if (!-f /run/okome/upstream/up)")
def unknown_state_is_up(box: Frontend) -> None:
    """No probe ever said a word."""
    assert box.client.ask("/v1/models").status == 200
    assert json.loads(box.client.ask("/okome/health").body)["upstream_ok"] == 1


@trap("/etc/nginx/nginx.conf", "worker_shutdown_timeout 630s;", "worker_shutdown_timeout 200ms;")
def streams_survive_flips_and_reloads(box: Frontend) -> None:
    with box.client.open("GET", "/stream?chunks=30&interval=0.05") as response:
        assert response.read(1) == b"d"
        box.set_flag(down=True)
        box.reload()
        time.sleep(0.3)
        box.set_flag(down=False)
        box.reload()
        assert b"d" + response.read() == b"".join(chunk(number, events=True) for number in range(30))
