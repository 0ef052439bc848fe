"""What every answer carries, who gets one at all, and the log's line of it."""

import contextlib
import json
import re
import time
from http.client import HTTPResponse
from typing import Any

import pytest

from lab.client import STRANGER, Answer
from tests.nginx.checks.frame import SNIPPETS, Frontend, trap

BROWSER = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"


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
    for path, method in (("/v1/models", "GET"), ("/v1/models", "POST"), ("/assets/gone/x.css", "GET")):
        answer = box.client.ask(path, method, body="{}")
        assert answer.status == 503
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("Retry-After") == "5"
        assert json.loads(answer.body)["error"]["request_id"] == answer.header("X-Request-ID")
        page = box.client.ask(path, method, body="{}", Accept=BROWSER)
        assert page.status == 503
        assert page.header("Content-Type") == "text/html; charset=utf-8"
        assert page.header("Retry-After") == "5"
        assert page.body.startswith(b"<!doctype html>")


def unread(box: Frontend, request: bytes) -> Answer:
    """What comes back for bytes that no client library would send."""
    with box.client.connect() as connection:
        connection.sendall(request)
        with HTTPResponse(connection) as response:
            response.begin()
            headers = [(name.lower(), value) for name, value in response.getheaders()]
            return Answer(response.status, headers, response.read())


REFUSED = f"{SNIPPETS}/okome-refused.conf"


@trap(REFUSED, "error_page 400 414 501 505 /okome/refused;", "error_page 400 414 501 505 @okome_refused;")
@trap(REFUSED, "error_page 400 414 501 505", "error_page 400 414")
@trap(REFUSED, "error_page 494 497 =400", "error_page 497 =400")
@trap(REFUSED, "error_page 403 404 405 413 429", "error_page 403 404 405 429")
@trap(REFUSED, "error_page 403 404 405 413 429", "error_page 405 413 429")
@trap(REFUSED, "    include /etc/nginx/snippets/okome-headers.conf;\n", "")
def refusals_are_a_page_or_json(box: Frontend) -> None:
    """The same words as in an outage, with nginx's own status: of what can't be read, too, which has no Host yet."""
    long = b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: cn00\r\n\r\n"
    large = b"POST /assets.css HTTP/1.1\r\nHost: cn00\r\nContent-Length: 999999999\r\n"
    for answer, status, kind in (
        (unread(box, b"nonsense\r\n\r\n"), 400, "invalid_request"),
        (unread(box, b"POST /x.css HTTP/1.1\r\nHost: cn00\r\nno header\r\n\r\n"), 400, "invalid_request"),
        (box.client.ask("/v1/models", Cookie="x" * 40_000), 400, "invalid_request"),
        (unread(box, large + b"\r\n"), 413, "request_too_large"),
        (unread(box, long), 414, "uri_too_long"),
        (unread(box, b"GET / HTTP/2.0\r\nHost: cn00\r\n\r\n"), 505, "http_version_not_supported"),
        (
            unread(box, b"POST / HTTP/1.1\r\nHost: cn00\r\nTransfer-Encoding: gzip\r\n\r\n"),
            501,
            "not_implemented",
        ),
        (box.client.ask("/okome/refused"), 404, "not_found"),
        (box.client.ask("/okome/status", source=STRANGER), 403, "forbidden"),
        (box.client.ask("/okome/health", source=STRANGER), 403, "forbidden"),
    ):
        assert answer.status == status
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("X-OKOME-Node") == "CN00"
        assert answer.header("Allow") is None
        error = json.loads(answer.body)["error"]
        assert (error["type"], error["request_id"]) == (kind, answer.header("X-Request-ID"))
    page = unread(box, large + f"Accept: {BROWSER}\r\n\r\n".encode())
    assert (page.status, page.header("Content-Type")) == (413, "text/html; charset=utf-8")
    assert b"<h1>413</h1>" in page.body


@trap("/etc/nginx/conf.d/okome-server.conf", "        if ($request_method !~ ^(GET|HEAD)$) {  # a body would be lost\n"
      "            return 405;\n        }\n", "")  # fmt: skip
@trap(REFUSED, "    add_header Allow $okome_allow always;\n", "")
def an_asset_is_only_read(box: Frontend) -> None:
    assert box.client.ask("/assets/public/read", "HEAD").status == 200
    box.origin(reset=True)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "M-SEARCH"):
        answer = box.client.ask("/assets/public/read", method, body="lost")
        assert (answer.status, answer.header("Allow")) == (405, "GET, HEAD"), method
        assert json.loads(answer.body)["error"]["type"] == "method_not_allowed"
    assert box.origin()["counts"] == {}


@trap("/etc/nginx/conf.d/okome-request.conf", '"~^405 [/s]"', "~^405")
def a_method_that_nobody_passes_on_is_refused_with_those_that_are(box: Frontend) -> None:
    for method in ("TRACE", "CONNECT"):
        answer = box.client.ask("/v1/models", method)
        assert (answer.status, answer.header("Allow")) == (
            405,
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        )
        assert json.loads(answer.body)["error"]["type"] == "method_not_allowed"
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert json.loads(box.client.ask("/v1/models", method).body)["method"] == method
    assert box.client.ask("/okome/status", "POST").header("Allow") == "GET, HEAD"


@trap(f"{SNIPPETS}/okome-origin.conf", "proxy_hide_header Upgrade;\n", "")
@trap("/etc/nginx/okome/freshness.js", "delete r.headersOut[name];", "")
def headers_of_one_hop_stay_behind(box: Frontend) -> None:
    """RFC 9110, 7.6.1."""
    names = ("Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "TE", "Trailer", "Upgrade")
    for path in ("/v1/hop", "/assets/public/hop", "/assets/public/hop"):
        answer = box.client.ask(f"{path}?" + "&".join(f"h={name}:one-hop" for name in names))
        assert answer.status == 200
        assert "one-hop" not in {value for _name, value in answer.headers}
    for _ in range(2):
        answer = box.client.ask(
            "/assets/public/named?h=Connection:x-one,%20X-Two&h=X-One:1&h=x-two:2&h=X-Three:3"
        )
        assert [answer.header(name) for name in ("X-One", "X-Two", "X-Three")] == [None, None, "3"]


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_intercept_errors on;\n", "")
@trap(
    f"{SNIPPETS}/okome-static.conf",
    "error_page 405 413 @okome_refused;\n",
    "error_page 400 429 @okome_refused;\n",
)
def origins_own_errors_become_maintenance_for_an_asset(box: Frontend) -> None:
    for status in ("502", "503", "504"):
        box.origin(mode=status)
        answer = box.client.ask("/assets/public/own-error")
        assert (answer.status, answer.header("Retry-After")) == (503, "5")
    box.origin(mode="500")
    assert box.client.ask("/assets/public/own-error").body == b"the origin says 500\n"
    box.origin(mode="up")
    for own in (400, 404, 429):
        assert box.client.ask(f"/assets/no-store/own?status={own}").body.startswith(b"asset "), own


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


@trap(f"{SNIPPETS}/okome-origin.conf", "proxy_buffer_size 36k;\n", "")
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
        assert json.loads(answer.body)["error"]["type"] == "rate_limited"
        assert (answer.status, answer.header("Retry-After")) == (429, "1")
        assert answer.header("X-OKOME-Node") == "CN00"
    assert box.client.ask("/assets/public/limit", source=STRANGER).status == 200  # assets have no limit


@trap("/etc/nginx/conf.d/okome-server.conf", "return 444;", "return 204;")
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


LOG = "/etc/nginx/conf.d/okome-log.conf"


@trap(LOG, "escape=json", "escape=default")
@trap(LOG, '"agent":"$okome_agent"', '"agent":"$http_user_agent"')
@trap(LOG, '"host":"$okome_host"', '"host":"$host"')
@trap(LOG, '"path":"$okome_path"', '"path":"$uri"')
@trap(LOG, '"method":"$okome_method"', '"method":"$request_method"')
def log_is_json_whatever_is_asked(box: Frontend) -> None:
    """And UTF-8: what is none ends in U+FFFD."""
    name = f"log-{time.monotonic_ns()}"
    box.client.ask(
        f"/{name}-%22%5c%0a-%ff-%c3%bc?key=in-the-arguments",
        User_Agent='say "hi"\\',
        X_Request_ID=name,
    )
    for host in (b"cn00", b"\xffcn00"):
        with contextlib.suppress(ConnectionError):
            unread(box, b"GET /%s/\xc3\xbc\xe2\x82\xac\xed\xa0\x80x?\xff HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
                   b"User-Agent: \xf0\x9f\x8d\x9a\xc2\x85\xf4\x90\x80\x80\r\nX-Request-ID: %s-raw\r\n\r\n"
                   % (name.encode(), host, name.encode()))  # fmt: skip
    unread(box, b"PUT /x HTTP/1.1\r\nHost: cn00\r\nX-Request-ID: %s-400\r\nno header\r\n\r\n" % name.encode())
    box.client.ask(f"/assets/public/{name}", X_Request_ID=f"{name}-2")
    deadline = time.monotonic() + 10
    while (text := box.log()).count(f'"{name}') < 5:  # each worker writes its own within a second
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "in-the-arguments" not in text
    lines = [json.loads(line) for line in text.strip().split("\n")]

    def logged(wanted: str) -> list[dict[str, Any]]:
        return [line for line in lines if line["request_id"] == wanted]

    (call,), (asset,), raw = (logged(wanted) for wanted in (name, f"{name}-2", f"{name}-raw"))
    assert call["agent"] == 'say "hi"\\'
    assert (call["location"], call["cache"], call["status"], call["upstream"]) == (
        "api",
        "",
        200,
        "192.168.86.25:8000",
    )
    # (In the order in which their workers wrote.)
    assert sorted((line["host"], line["path"], line["agent"]) for line in raw) == [
        (host, f"/{name}/ü€\ufffd", "🍚\x85\ufffd") for host in ("cn00", "\ufffd")
    ]
    (unreadable,) = logged(f"{name}-400")
    assert (unreadable["method"], unreadable["status"]) == ("PUT", 400)
    assert (asset["location"], asset["cache"], asset["node"]) == ("/assets/", "MISS", "CN00")
    assert asset["bytes"] > 0
    for name in ("duration", "msec"):
        assert isinstance(asset[name], float)
    assert float(asset["upstream_response"]) >= 0
