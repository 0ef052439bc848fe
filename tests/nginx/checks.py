"""The known traps of this nginx configuration, each as a check of a frontend that is up, whatever it runs in.

`TRAPS` names for many of them the naive edit of one file that must make the check fail.
"""

import hashlib
import json
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pytest

from lab.client import FRONTEND, STRANGER, Client
from lab.origin import DATE, chunk

SNIPPETS = "/etc/nginx/snippets"


class Frontend(Protocol):
    """A frontend without a probe, the test origin behind it, and a client on the LAN."""

    client: Client
    client_address: str

    def origin(self, **words: Any) -> dict[str, Any]: ...
    def reload(self) -> None: ...
    def set_flag(self, down: bool) -> None: ...
    def set_full(self, full: bool) -> None: ...
    def log(self) -> str: ...


Check = Callable[[Frontend], None]

# Headers that servers and frameworks believe instead of the request, and what the origin gets in their place.
# None is part of the cache's key, so an answer made from one would be everybody's (param-miner's list has more,
# of products that can't stand here).
POISON = {
    # who asks
    "X-Forwarded-For": "$remote_addr",
    "X-Real-IP": "$remote_addr",
    "Client-IP": '""',
    "X-Client-IP": '""',
    "X-Cluster-Client-IP": '""',
    "True-Client-IP": '""',
    # which site
    "Forwarded": '""',
    "X-Forwarded-Host": '""',
    "X-Forwarded-Port": '""',
    "X-Forwarded-Proto": "$scheme",
    "X-Forwarded-Scheme": '""',
    "X-Forwarded-Server": '""',
    "X-Forwarded-Ssl": '""',
    "X-Forwarded-Protocol": '""',
    "X-Url-Scheme": '""',
    "Front-End-Https": '""',
    "X-Host": '""',
    "X-HTTP-Host-Override": '""',
    "X-Original-Host": '""',
    # which page
    "X-Forwarded-Prefix": '""',
    "X-Forwarded-Path": '""',
    "X-Forwarded-Uri": '""',
    "X-Original-URL": '""',
    "X-Original-URI": '""',
    "X-Rewrite-URL": '""',
    "X-Script-Name": '""',
    # to do what
    "X-HTTP-Method-Override": '""',
    "X-HTTP-Method": '""',
    "X-Method-Override": '""',
    "X-Forwarded-Method": '""',
    # a CGI's outgoing proxy
    "Proxy": '""',
}


@dataclass(frozen=True)
class Trap:
    """A check, and the naive edit of one file (old, new) with which it must fail on `suite`'s nginx."""

    check: Check
    file: str
    old: str
    new: str
    suite: str = "bookworm"

    def __str__(self) -> str:
        edit = " ".join(self.new.split()) or f"without {' '.join(self.old.split())}"
        return f"{self.check.__name__}: {edit}"


TRAPS: list[Trap] = []


def trap(file: str, old: str, new: str, suite: str = "bookworm") -> Callable[[Check], Check]:
    def remember(check: Check) -> Check:
        TRAPS.append(Trap(check, file, old, new, suite))
        return check

    return remember


# --- the path to the origin ---------------------------------------------------------------------------------


@trap("/etc/nginx/conf.d/okome-upstream.conf", "    server 192.168.86.25:8000 max_fails=0;\n" * 2,
      "    server 192.168.86.25:8000;\n")  # fmt: skip
def get_is_tried_twice(box: Frontend) -> None:
    box.origin(mode="502")
    assert box.client.ask("/v1/models").status == 503
    assert box.origin()["counts"] == {"GET /v1/models": 2}
    box.origin(mode="up")
    assert box.client.ask("/v1/models").status == 200, "no live upstreams after a failure"


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_next_upstream error", "proxy_next_upstream non_idempotent error")
def post_is_never_sent_twice(box: Frontend) -> None:
    for mode in ("500", "502", "503", "504"):
        box.origin(mode=mode, reset=True)
        answer = box.client.ask("/v1/chat/completions", "POST", body="{}")
        assert answer.status == (500 if mode == "500" else 503)
        assert box.origin()["counts"] == {"POST /v1/chat/completions": 1}
    for mode in ("502", "503", "504"):  # without a body nginx could send it again
        box.origin(mode=mode, reset=True)
        assert box.client.ask("/v1/models/reload", "POST", body="").status == 503
        assert box.origin()["counts"] == {"POST /v1/models/reload": 1}
    box.origin(mode="closing", reset=True)
    statuses = []
    for _ in range(10):
        box.client.ask("/warm")  # leaves a kept connection, on which the next request finds the door closed
        statuses.append(box.client.ask("/v1/chat/completions", "POST", body="{}").status)
    assert 503 in statuses, "no call met a connection that was being closed"
    assert box.origin()["counts"]["POST /v1/chat/completions"] == len(statuses)


@trap(
    f"{SNIPPETS}/okome-api.conf",
    "proxy_next_upstream error timeout http_502",
    "proxy_next_upstream http_502",
)
def get_survives_a_closed_connection(box: Frontend) -> None:
    box.origin(mode="closing", reset=True)
    assert [box.client.ask("/v1/models").status for _ in range(20)] == [200] * 20
    assert box.origin()["counts"]["GET /v1/models"] > 20, "no request met a connection that was being closed"


@trap("/etc/nginx/conf.d/okome-upstream.conf", "keepalive_timeout 4s;", "keepalive_timeout 60s;")
def kept_connections_end_before_the_origin_ends_them(box: Frontend) -> None:
    """As the origin sees it: the connection that it would close after 5 s is gone before that."""
    box.client.ask("/v1/models")
    deadline = time.monotonic() + 20
    while box.origin()["idle"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert box.origin()["timed_out"] == 0


@trap(f"{SNIPPETS}/okome-proxy.conf", 'proxy_set_header Connection "";\n', "")
def connections_to_the_origin_are_kept(box: Frontend) -> None:
    for _ in range(20):
        box.client.ask("/v1/models")
    assert box.origin()["connections"] <= 4  # one for each worker that took part


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_buffering off;", "proxy_buffering on;")
def first_chunk_arrives_before_the_second_exists(box: Frontend) -> None:
    for path in ("/stream", "/chunked", "/trickle"):
        events = path == "/stream"
        gate = f"{path}-{time.monotonic_ns()}"
        with box.client.open("GET", f"{path}?chunks=3&gate={gate}", timeout=3) as response:
            assert (response.getheader("Transfer-Encoding") == "chunked") == (path != "/trickle")
            for number in range(3):
                assert response.read(len(chunk(number, events=events))) == chunk(number, events=events)
                box.origin(release=f"{gate}/{number + 1}")
            assert response.read() == b""


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_request_buffering off;", "proxy_request_buffering on;")
def upload_is_forwarded_as_it_comes(box: Frontend) -> None:
    first_arrived = threading.Event()
    part = b"x" * 200_000

    def body() -> Iterator[bytes]:
        yield part
        assert first_arrived.wait(5), "nothing reached the origin before the upload was complete"
        yield part

    def watch() -> None:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline and not first_arrived.is_set():
            if box.origin()["received"] >= len(part):
                first_arrived.set()
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with box.client.open("POST", "/upload", body=body()) as response:
            assert json.loads(response.read()) == {
                "bytes": 2 * len(part),
                "sha256": hashlib.sha256(part * 2).hexdigest(),
            }
    finally:
        watcher.join()


@trap("/etc/nginx/conf.d/okome-server.conf", "    client_max_body_size 100m;\n", "")  # nginx's own is 1 MB
@trap("/etc/nginx/conf.d/okome-server.conf", "client_max_body_size 100m;", "client_max_body_size 0;")
def body_size_is_limited(box: Frontend) -> None:
    with box.client.open("POST", "/upload", {"Content-Length": str(101 * 2**20)}, timeout=3) as response:
        assert response.status == 413
        assert response.getheader("X-OKOME-Node") == "CN00"
    assert box.origin()["counts"] == {}
    document = "x" * 3 * 2**20
    assert json.loads(box.client.ask("/upload", "POST", body=document).body)["bytes"] == len(document)


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_set_header Host $okome_server;", "proxy_set_header Host $host;")
@trap(
    f"{SNIPPETS}/okome-proxy.conf",
    "X-Forwarded-For $remote_addr;",
    "X-Forwarded-For $proxy_add_x_forwarded_for;",
)
@trap("/etc/nginx/nginx.conf", "    sendfile on;\n", "    sendfile on;\n    underscores_in_headers on;\n")
def poisoning_headers_are_cleared(box: Frontend) -> None:
    """Nothing that stands for the request itself, or for its sender, reaches the origin from a client."""
    spellings = [*POISON, *(name.replace("-", "_") for name in POISON)]  # to a WSGI server they are the same
    sent = dict.fromkeys(spellings, "evil")
    for path in ("/v1/models", f"/assets/no-store/x?echo={'&echo='.join(POISON)}"):
        with box.client.open("GET", path, sent) as response:
            body = response.read().decode()
        assert response.status == 200
        assert "evil" not in body.lower(), path
    seen = json.loads(box.client.ask("/v1/models", **dict.fromkeys(POISON, "evil")).body)["headers"]
    for name, ours in (
        ("host", FRONTEND), ("x-forwarded-for", box.client_address), ("x-real-ip", box.client_address),
        ("x-forwarded-proto", "http"),
    ):  # fmt: skip
        assert [value for key, value in seen if key == name] == [ours], name
    for host in (FRONTEND, "cn00"):
        assert box.client.ask("/assets/no-store/x?echo=Host", Host=host).body.endswith(
            f"={FRONTEND}".encode()
        )


# --- every answer -------------------------------------------------------------------------------------------


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
    answers += [box.client.ask("/v1/models"), box.client.ask("/v1/models", Accept="text/html")]
    box.origin(mode="down")
    answers += [
        box.client.ask("/v1/models"),
        box.client.ask("/v1/models", "POST", body="{}"),
        box.client.ask("/assets/new.css"),
    ]
    assert [answer.status for answer in answers] == [
        200, 404, 200, 200, 200, 403, 200, 404, 400, 400, 405, 200, 503, 503, 503, 503, 503,
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


@trap(f"{SNIPPETS}/okome-proxy.conf", "proxy_intercept_errors on;\n", "")
def origins_own_errors_become_maintenance(box: Frontend) -> None:
    for mode in ("502", "503", "504"):
        box.origin(mode=mode)
        answer = box.client.ask("/v1/models")
        assert (answer.status, answer.header("Retry-After")) == (503, "5")
    box.origin(mode="500")
    assert box.client.ask("/v1/models").body == b"the origin says 500\n"


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


# --- the gate -----------------------------------------------------------------------------------------------


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


# --- the cache ----------------------------------------------------------------------------------------------


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_valid 200 1s;",
      "proxy_cache_valid 200 10m; proxy_ignore_headers Cache-Control Expires;")  # fmt: skip
@trap(f"{SNIPPETS}/okome-static.conf", "proxy_pass_header Date;\n", "")
def freshness_is_the_origins(box: Frontend) -> None:
    for kind in ("immutable", "public", "shared", "short", "swr"):
        first, second = (box.client.ask(f"/assets/{kind}/fresh") for _ in range(2))
        assert (first.cache, second.cache) == ("MISS", "HIT"), kind
        assert first.body == second.body
        assert first.header("Date") == second.header("Date") == DATE, "an age that nobody can tell"
    for kind in ("private", "no-cache", "no-store", "revalidate"):
        assert [box.client.ask(f"/assets/{kind}/fresh").cache for _ in range(2)] == ["MISS", "MISS"], kind


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_valid 200 1s;", "proxy_cache_valid 200 10m;")
def unstated_freshness_is_short_but_bridges_an_outage(box: Frontend) -> None:
    first = box.client.ask("/assets/unstated/a")
    time.sleep(2.1)
    second = box.client.ask("/assets/unstated/a")
    assert first.body != second.body, "ten minutes of somebody's guess"
    time.sleep(2.1)
    box.origin(mode="down")
    assert box.client.ask("/assets/unstated/a").cache == "STALE"


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_revalidate on;\n", "")
def revalidation_costs_no_body(box: Frontend) -> None:
    path = "/assets/short/etag?etag=v1"
    box.client.ask(path)
    time.sleep(2.1)
    answer = box.client.ask(path)
    assert (answer.status, answer.cache) == (200, "REVALIDATED")
    assert box.origin()["counts"]["304 /assets/short/etag"] == 1


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_cache okome;",
    "proxy_cache okome; proxy_ignore_headers Set-Cookie;",
)
def set_cookie_is_never_shared(box: Frontend) -> None:
    path = "/assets/public/cookie?h=Set-Cookie:session=one"
    first, second = box.client.ask(path), box.client.ask(path)
    assert (first.cache, second.cache) == ("MISS", "MISS")
    assert first.body != second.body


@trap(f"{SNIPPETS}/okome-static.conf", "$okome_authorized", '""')
@trap(f"{SNIPPETS}/okome-static.conf", "$okome_authorized", "$http_authorization")
def authorization_is_never_shared(box: Frontend) -> None:
    zero = "/assets/public/zero?echo=Authorization"  # "0" means no to nginx
    assert b"Authorization=0" in box.client.ask(zero, Authorization="0").body
    assert b"Authorization=0" not in box.client.ask(zero).body
    path = "/assets/public/secret?echo=Authorization"
    mine = box.client.ask(path, Authorization="Bearer mine")
    assert b"Bearer mine" in mine.body
    other = box.client.ask(path)
    assert b"Bearer" not in other.body
    assert box.client.ask(path).cache == "HIT"
    again = box.client.ask(path, Authorization="Bearer mine")
    assert again.cache == "BYPASS"
    assert b"Bearer mine" in again.body
    assert b"Bearer" not in box.client.ask(path).body


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_cache okome;",
    "proxy_cache okome; proxy_ignore_headers Vary;",
    "trixie",
)
def vary_is_honoured(box: Frontend) -> None:
    path = "/assets/public/vary?h=Vary:Accept-Language&echo=Accept-Language"
    for language in ("en", "de", "en", "de"):
        answer = box.client.ask(path, Accept_Language=language)
        assert answer.body.endswith(f"Accept-Language={language}".encode())
    assert answer.cache == "HIT"


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "$http_accept\\n$http_accept_encoding\\n$http_accept_language\\n$http_origin",
    "",
)
def two_vary_lines_are_both_honoured(box: Frontend) -> None:
    varies = "h=Vary:Accept-Language&h=Vary:Accept-Encoding"
    path = f"/assets/public/two?{varies}&echo=Accept-Language&echo=Accept-Encoding"
    for language in ("en", "de"):
        for coding in ("gzip", "br"):
            for _ in range(2):
                answer = box.client.ask(path, Accept_Language=language, Accept_Encoding=coding)
                assert answer.body.endswith(f"Accept-Language={language} Accept-Encoding={coding}".encode())
            assert answer.cache == "HIT"


@trap("/etc/nginx/conf.d/okome-cache.conf", '    "~\\*" 1;', '    "never" 1; "~." 0;')
def unusual_vary_is_not_confused(box: Frontend) -> None:
    kinds = (
        "h=Vary:X-Tenant&h=Vary:Accept",
        "h=Vary:Accept,X-Tenant&h=Vary:Accept",
        "h=Vary:*",
        "h=Vary:Accept,*",
        "h=Vary:*&h=Vary:Accept",
    )
    for number, vary in enumerate(kinds):
        path = f"/assets/public/tenant{number}?{vary}&echo=X-Tenant"
        for tenant in ("one", "two"):
            for _ in range(2):
                answer = box.client.ask(path, X_Tenant=tenant)
                assert answer.body.endswith(f"X-Tenant={tenant}".encode()), (vary, tenant)


@trap(f"{SNIPPETS}/okome-static.conf", "$okome_cdn_refused $okome_age_refused", '""')
def directives_for_shared_caches_are_obeyed(box: Frontend) -> None:
    for extra in ("h=CDN-Cache-Control:no-store", "h=CDN-Cache-Control:private", "h=Age:200000"):
        path = f"/assets/public/cdn?{extra}"
        assert [box.client.ask(path).cache for _ in range(2)] == ["MISS", "MISS"], extra


KEY = 'proxy_cache_key "$scheme://$okome_server $args'


@trap(f"{SNIPPETS}/okome-static.conf", KEY, 'proxy_cache_key "$scheme://$okome_server$uri$is_args$args"; # ')
def no_two_requests_have_one_key(box: Frontend) -> None:
    """A path is decoded in the key: what it then contains must not look like the rest of another's."""
    for one, another in (
        ("/assets/public/k%3fv=1", "/assets/public/k?v=1"),
        ("/assets/public/k?a%20/assets/public/k", "/assets/public/k%20/assets/public/k?a"),
    ):
        first = box.client.ask(one)
        second = box.client.ask(another)
        assert (first.cache, second.cache) == ("MISS", "MISS"), another
        assert [box.client.ask(path).cache for path in (one, another)] == ["HIT", "HIT"]
    headers = ["Accept", "Accept-Encoding", "Accept-Language", "Origin"]
    for name in headers:  # what one header says is not what its neighbour says
        answers = [
            box.client.ask(
                "/assets/public/fields?h=Vary:" + ",".join(headers) + f"&echo={name}",
                **{name.replace("-", "_"): value},
            )
            for value in ("x", "y")
        ]
        assert answers[0].body != answers[1].body


@trap(f"{SNIPPETS}/okome-static.conf", 'rewrite "(?s)^(.*)$" $1 break;', "")
def key_and_request_are_normalised(box: Frontend) -> None:
    first = box.client.ask("/assets/public/key%20x.css")
    for spelling in (
        "/assets//public/./key%20x.css",
        "/assets/public/%6bey%20x.css",
        "/assets/a/../public/key%20x.css?",
    ):
        for host in (FRONTEND, "cn00", "CN00"):
            answer = box.client.ask(spelling, Host=host)
            assert (answer.cache, answer.body) == ("HIT", first.body), (spelling, host)
    assert box.client.ask("/assets/public/key%20x.css", "HEAD").cache == "HIT"
    assert box.origin()["counts"] == {"GET /assets/public/key%20x.css": 1}
    box.client.ask("/x/..%2fassets/public/deep%3fx%23y%25z")
    assert "GET /assets/public/deep%3Fx%23y%25z" in box.origin()["counts"]
    # A line feed in the path: still the resolved path, not the client's spelling, and another entry.
    box.client.ask("/api/me/..%2f..%2fassets/public/feed%0a.css")
    assert "GET /assets/public/feed%0A.css" in box.origin()["counts"]
    assert not [line for line in box.origin()["counts"] if "/api/me" in line]
    box.client.ask("/assets/public/split%20HTTP/1.1%0d%0aEvil:1")
    assert all("\n" not in line and "split HTTP" not in line for line in box.origin()["counts"])


@trap("/etc/nginx/conf.d/okome-server.conf", "location ^~ /assets/ {", "location ~ \\.css$ {")
def static_is_a_prefix_not_an_extension(box: Frontend) -> None:
    deceptions = (
        "/api/me/x.css",
        "/assets/..%2fapi/me.css",
        "/assets/../api/me.css",
        "/api/me;x.css",
        "/api/assets/x.css",
    )
    for path in deceptions:
        answers = [
            box.client.ask(f"{path}?h=Cache-Control:public,max-age=60&echo=Cookie", Cookie=who)
            for who in ("a", "b")
        ]
        assert [answer.cache for answer in answers] == ["BYPASS", "BYPASS"], path
        assert answers[1].body.endswith(b"Cookie=b")
    assert box.client.ask("/assets/public/app.css").cache == "MISS"


@trap("/etc/nginx/conf.d/okome-server.conf", "proxy_cache_lock on;", "proxy_cache_lock off;")
@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_lock_age 60s;\n", "")
@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_lock_timeout 60s;\n", "")
def one_miss_asks_the_origin_once(box: Frontend) -> None:
    """Of an origin that takes longer than the 5 s after which nginx, left alone, would let everybody through."""
    box.origin(mode="slow:6")
    path = "/assets/public/crowd"
    connections = [box.client.connect() for _ in range(10)]
    try:
        for connection in connections:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\nConnection: close\r\n\r\n".encode())
        limit = time.monotonic() + 20
        while not select.select(connections, [], [], 0.1)[0]:
            assert box.origin()["counts"].get(f"GET {path}", 0) <= 1
            assert time.monotonic() < limit
        answers = [b"".join(iter(partial(one.recv, 65536), b"")) for one in connections]
    finally:
        for connection in connections:
            connection.close()
    (body,) = {answer.partition(b"\r\n\r\n")[2] for answer in answers}
    assert body.startswith(b"asset ")
    assert box.origin()["counts"] == {f"GET {path}": 1}


def under_way(box: Frontend, path: str, count: int) -> None:
    """Wait until the origin has been asked so often."""
    limit = time.monotonic() + 5
    while box.origin()["counts"].get(f"GET {path}", 0) < count:
        assert time.monotonic() < limit, box.origin()
        time.sleep(0.02)


@trap(
    f"{SNIPPETS}/okome-api.conf",
    "proxy_buffering off;\nproxy_request_buffering off;\nproxy_cache off;",
    "proxy_request_buffering off;\nproxy_cache okome;\nproxy_cache_lock on;",
)
def calls_are_not_serialised(box: Frontend) -> None:
    """Ten equal calls are at the origin at the same time: none waits for another's answer."""
    box.origin(mode="hanging")
    connections = [box.client.connect() for _ in range(10)]
    try:
        for connection in connections:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: cn00\r\n\r\n")
        under_way(box, "/v1/models", 10)
    finally:
        for connection in connections:
            connection.close()


@trap("/etc/nginx/conf.d/okome-server.conf", 'rewrite "(?s)^(.*)$" /okome/alone$1 last;', "")
def nobody_waits_for_an_answer_that_may_never_come(box: Frontend) -> None:
    """A miss is at an origin that hangs when the gate closes: the next one for it is answered before it is."""
    box.origin(mode="hanging")
    path = "/assets/public/never"
    with box.client.connect() as first:
        first.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\n\r\n".encode())
        under_way(box, path, 1)
        box.set_flag(down=True)
        assert box.client.ask(path).status == 503
        assert not select.select([first], [], [], 0)[0], "it waited for the other's answer"


@trap("/etc/nginx/conf.d/okome-server.conf", 'rewrite "(?s)^(.*)$" /okome/alone$1 last;', "")
def with_a_full_disk_nobody_waits_for_another(box: Frontend) -> None:
    box.set_full(full=True)
    box.origin(mode="hanging")
    path = "/assets/public/three"
    with box.client.connect() as one, box.client.connect() as two, box.client.connect() as three:
        for connection in (one, two, three):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\n\r\n".encode())
        under_way(box, path, 3)


def expired_in_a_hang(box: Frontend, path: str) -> None:
    """An asset that lives for a second is stored and over, and the origin hangs."""
    assert box.client.ask(path).cache == "MISS"
    time.sleep(2.1)
    box.origin(mode="hanging", reset=True)


@trap(
    f"{SNIPPETS}/okome-static.conf",
    "proxy_next_upstream error http_502",
    "proxy_next_upstream error timeout http_502",
)
def a_hanging_origin_is_waited_for_once(box: Frontend) -> None:
    """Who asks for an expired asset before the probe has noticed."""
    path = "/assets/short/expired"
    expired_in_a_hang(box, path)
    assert box.client.ask(path).cache == "STALE"
    assert sum(box.origin()["counts"].values()) == 1


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_background_update on;", "")
def who_may_be_served_stale_does_not_wait(box: Frontend) -> None:
    """stale-while-revalidate: the old one is there while the origin is still being asked."""
    path = "/assets/swr/old"
    expired_in_a_hang(box, path)
    with box.client.connect() as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\n\r\n".encode())
        assert select.select([asking], [], [], 4)[0], "it waits for the origin"  # which would take 8 s
    under_way(box, path, 1)


@trap(
    f"{SNIPPETS}/okome-static.conf",
    'proxy_pass_request_body off;\nproxy_set_header Content-Length "";\n',
    "",
)
def a_body_has_no_say_in_an_asset(box: Frontend) -> None:
    """It is not in the key, so the origin does not get it."""
    answer = box.client.ask("/assets/public/fat?echo=Content-Length", body="poison")
    assert answer.status == 200
    assert b"Content-Length=6" not in answer.body


@trap(
    f"{SNIPPETS}/okome-proxy.conf",
    "proxy_ignore_headers X-Accel-Redirect X-Accel-Buffering",
    "proxy_ignore_headers X-Accel-Buffering",
)
def the_origin_has_no_say_in_how_the_node_works(box: Frontend) -> None:
    for path in ("/assets/public/accel", "/v1/accel"):
        answer = box.client.ask(f"{path}?h=X-Accel-Redirect:/okome/maintenance")
        assert answer.status == 200, path


@trap(f"{SNIPPETS}/okome-static.conf", "$okome_cache_full", '""')
def a_full_disk_is_not_written_to(box: Frontend) -> None:
    assert [box.client.ask("/assets/public/kept").cache for _ in range(2)] == ["MISS", "HIT"]
    box.set_full(full=True)
    answers = [box.client.ask("/assets/public/large?size=3000000") for _ in range(2)]
    assert [(answer.cache, len(answer.body)) for answer in answers] == [("MISS", 3_000_000)] * 2
    assert box.client.ask("/assets/public/kept").cache == "HIT"
    box.set_full(full=False)
    assert [box.client.ask("/assets/public/large?size=3000000").cache for _ in range(2)] == ["MISS", "HIT"]


# --- the log ------------------------------------------------------------------------------------------------


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


CHECKS: list[Check] = [
    get_is_tried_twice,
    post_is_never_sent_twice,
    get_survives_a_closed_connection,
    connections_to_the_origin_are_kept,
    kept_connections_end_before_the_origin_ends_them,
    first_chunk_arrives_before_the_second_exists,
    upload_is_forwarded_as_it_comes,
    body_size_is_limited,
    poisoning_headers_are_cleared,
    every_answer_carries_the_four_headers,
    request_id_is_the_clients_if_it_is_harmless,
    maintenance_is_a_page_or_json,
    origins_own_errors_become_maintenance,
    limit_is_429_and_not_an_outage,
    strange_hosts_are_closed,
    status_is_for_the_lan,
    gate_serves_stale_and_maintenance_at_once,
    outage_without_a_probe_serves_stale,
    unknown_state_is_up,
    streams_survive_flips_and_reloads,
    freshness_is_the_origins,
    unstated_freshness_is_short_but_bridges_an_outage,
    revalidation_costs_no_body,
    set_cookie_is_never_shared,
    authorization_is_never_shared,
    vary_is_honoured,
    two_vary_lines_are_both_honoured,
    unusual_vary_is_not_confused,
    directives_for_shared_caches_are_obeyed,
    no_two_requests_have_one_key,
    key_and_request_are_normalised,
    static_is_a_prefix_not_an_extension,
    one_miss_asks_the_origin_once,
    calls_are_not_serialised,
    nobody_waits_for_an_answer_that_may_never_come,
    with_a_full_disk_nobody_waits_for_another,
    a_hanging_origin_is_waited_for_once,
    who_may_be_served_stale_does_not_wait,
    a_body_has_no_say_in_an_asset,
    the_origin_has_no_say_in_how_the_node_works,
    a_full_disk_is_not_written_to,
    log_is_json_whatever_is_asked,
]
