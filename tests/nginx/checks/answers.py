"""What every answer carries, who gets one at all, and the log's line of it."""

import json
import re
import time

import pytest

from lab.client import STRANGER
from tests.nginx.checks.frame import SNIPPETS, Frontend, trap


@trap(f"{SNIPPETS}/okome-maintenance.conf", "    include /etc/nginx/snippets/okome-headers.conf;\n", "")
def every_answer_carries_the_four_headers(box: Frontend) -> None:
    wanted = ("X-Cache-Status", "X-OKOME-Node", "X-Upstream", "X-Request-ID")
    big = {"Cookie": "x" * 40_000}
    answers = [
        box.client.ask("/v1/models"),
        box.client.ask("/nothing?status=404"),
        box.client.ask("/assets/public/headers"),
        box.client.ask("/assets/public/headers"),
        box.client.ask("/okome/status"),
        box.client.ask("/okome/status", source=STRANGER),
        box.client.ask("/okome/health"),
        box.client.ask("/okome/maintenance"),
        box.client.ask("/v1/models", **big),
        box.client.ask("/%ff%00"),
        box.client.ask("/v1/models", "TRACE"),
        box.client.ask("/x?h=X-OKOME-Node:fake&h=X-Request-ID:fake&h=X-Upstream:fake&h=X-Cache-Status:fake"),
    ]
    box.origin(mode="503")
    answers += [
        box.client.ask("/v1/models"),
        box.client.ask("/assets/new.css"),
        box.client.ask("/assets/new.css", Accept="text/html"),
    ]
    box.origin(mode="down")
    answers += [
        box.client.ask("/v1/models"),
        box.client.ask("/v1/models", "POST", body="{}"),
        box.client.ask("/assets/new.css"),
    ]
    assert [answer.status for answer in answers] == [
        200, 404, 200, 200, 200, 403, 200, 404, 400, 400, 405, 200, 503, 503, 503, 503, 503, 503,
    ]  # fmt: skip
    for answer in answers:
        for name in wanted:
            assert answer.header(name), (answer, name)
        assert answer.header("X-OKOME-Node") == "CN00"


@trap("/etc/nginx/conf.d/okome-request.conf", '"~^[A-Za-z0-9._-]{8,64}$"', '"~."')
@trap(f"{SNIPPETS}/okome-proxy.conf", "X-Request-ID $okome_request_id;", "X-Request-ID $request_id;")
def request_id_is_the_clients_if_it_is_harmless(box: Frontend) -> None:
    answer = box.client.ask("/v1/models", X_Request_ID="trace-1234.a_B")
    assert answer.header("X-Request-ID") == "trace-1234.a_B"
    assert ["x-request-id", "trace-1234.a_B"] in json.loads(answer.body)["headers"]
    for bad in ("short", "x" * 65, 'quote"quote', "space here you are", "a<script>b"):
        made = box.client.ask("/v1/models", X_Request_ID=bad).header("X-Request-ID")
        assert made
        assert re.fullmatch("[0-9a-f]{32}", made)


@trap(f"{SNIPPETS}/okome-maintenance.conf", "    types { }  # the answer to /assets/x.css is JSON, too\n", "")
def maintenance_is_a_page_or_json(box: Frontend) -> None:
    box.origin(mode="down")
    for path in ("/v1/models", "/assets/gone/x.css"):
        for method in ("GET", "POST"):
            answer = box.client.ask(path, method, body="{}")
            assert answer.status == 503
            assert answer.header("Content-Type") == "application/json"
            assert answer.header("Retry-After") == "5"
            assert json.loads(answer.body)["error"]["request_id"] == answer.header("X-Request-ID")
            page = box.client.ask(
                path, method, body="{}", Accept="text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
            )
            assert page.status == 503
            assert page.header("Content-Type") == "text/html; charset=utf-8"
            assert page.header("Retry-After") == "5"
            assert page.body.startswith(b"<!doctype html>")


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_intercept_errors on;\n", "")
def origins_own_errors_become_maintenance_for_an_asset(box: Frontend) -> None:
    for status in ("502", "503", "504"):
        box.origin(mode=status)
        answer = box.client.ask("/assets/public/own-error")
        assert (answer.status, answer.header("Retry-After")) == (503, "5")
    box.origin(mode="500")
    assert box.client.ask("/assets/public/own-error").body == b"the origin says 500\n"


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_intercept_errors off;", "proxy_intercept_errors on;")
def origins_own_errors_are_answers_to_a_call(box: Frontend) -> None:
    """With body and headers, after a GET was tried again, too. What nobody answered is maintenance."""
    for method in ("GET", "POST"):
        for status in (500, 502, 503, 504):
            own = "h=Retry-After:77&h=x-ratelimit-remaining-tokens:0&echo=X-Request-ID"
            answer = box.client.ask(
                f"/v1/own?status={status}&{own}", method, body="{}", X_Request_ID="own-error"
            )
            assert answer.status == status
            assert answer.body.endswith(b" X-Request-ID=own-error")
            assert answer.header("Content-Type") == "application/json"
            assert answer.header("Retry-After") == "77"
            assert answer.header("x-ratelimit-remaining-tokens") == "0"
            assert answer.header("X-OKOME-Node") == "CN00"
    box.origin(mode="down")
    assert json.loads(box.client.ask("/v1/own").body)["error"]["type"] == "upstream_unavailable"


@trap(f"{SNIPPETS}/okome-proxy.conf", "proxy_buffer_size 36k;\n", "")
def long_heads_pass(box: Frontend) -> None:
    """32 kB of status line and headers, of a call that has run, and of an asset, from the cache, too."""
    for path in ("/v1/models", "/assets/public/head"):
        for _ in range(2):
            with box.client.open(
                "POST" if path == "/v1/models" else "GET", f"{path}?head={32 * 1024}"
            ) as answer:
                assert answer.status == 200
                padding = "".join(answer.headers.get_all("X-Padding", []))
                assert 31_000 < len(padding) < 32 * 1024
                assert set(padding) == {"x"}
                assert answer.read()


@trap(
    "/etc/nginx/conf.d/okome-server.conf",
    "        limit_req_status 429;  # 503 would be taken for an outage\n",
    "",
)
@trap("/etc/nginx/conf.d/okome-server.conf", "limit_req zone=api_limit burst=100 nodelay;", "")
def limit_is_429_and_not_an_outage(box: Frontend) -> None:
    statuses = [box.client.ask("/v1/limited", source=STRANGER) for _ in range(160)]
    refused = [answer for answer in statuses if answer.status != 200]
    assert refused
    for answer in refused:
        assert (answer.status, answer.header("Retry-After")) == (429, "1")
        assert answer.header("X-OKOME-Node") == "CN00"
    assert box.client.ask("/assets/public/limit", source=STRANGER).status == 200  # assets have no limit


@trap("/etc/nginx/conf.d/okome-server.conf", "    return 444;\n", "    location / { return 200; }\n")
def strange_hosts_are_closed(box: Frontend) -> None:
    for host in ("evil.example", "192.168.86.25", "CN00.evil.example"):
        with pytest.raises(ConnectionError):
            box.client.ask("/v1/models", Host=host)
    for host in ("cn00", "CN00", "192.168.86.20", "192.168.86.20:80"):
        assert box.client.ask("/v1/models", Host=host).status == 200


@trap("/etc/nginx/conf.d/okome-server.conf", "        deny all;\n", "")
@trap("/etc/nginx/conf.d/okome-server.conf",
      "        if ($okome_from_lan = 0) {  # `deny` would come too late: `return` answers before it is asked\n"
      "            return 403;\n        }\n",
      "        allow 192.168.86.0/24;\n        deny all;\n")  # fmt: skip
def status_is_for_the_lan(box: Frontend) -> None:
    for path in ("/okome/status", "/okome/health"):
        assert box.client.ask(path).status == 200
        assert box.client.ask(path, source=STRANGER).status == 403
    assert json.loads(box.client.ask("/okome/health").body) == {"node": "CN00", "upstream_ok": 1}
    box.set_flag(down=True)
    assert json.loads(box.client.ask("/okome/health").body) == {"node": "CN00", "upstream_ok": 0}


@trap("/etc/nginx/conf.d/okome-log.conf", "escape=json", "escape=default")
def log_is_json_whatever_is_asked(box: Frontend) -> None:
    name = f"log-{time.monotonic_ns()}"
    box.client.ask(
        f"/{name}-%22%5c%0a-%ff-%c3%bc?key=in-the-arguments",
        User_Agent='say "hi"\\',
        X_Request_ID=name,
    )
    box.client.ask(f"/assets/public/{name}", X_Request_ID=f"{name}-2")
    deadline = time.monotonic() + 10
    while f"{name}-2" not in box.log():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    text = box.log()
    assert "in-the-arguments" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    call, asset = (
        next(line for line in lines if line["request_id"] == wanted) for wanted in (name, f"{name}-2")
    )
    assert call["agent"] == 'say "hi"\\'
    assert (call["location"], call["cache"], call["status"], call["upstream"]) == (
        "api",
        "",
        200,
        "192.168.86.25:8000",
    )
    assert (asset["location"], asset["cache"], asset["node"]) == ("/assets/", "MISS", "CN00")
    assert asset["bytes"] > 0
    for name in ("duration", "msec"):
        assert isinstance(asset[name], float)
    assert float(asset["upstream_response"]) >= 0
