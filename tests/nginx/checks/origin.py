"""The path to the origin: what is sent there, how often, over which connections."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator

from lab.client import FRONTEND
from lab.origin import chunk
from tests.nginx.checks.frame import SNIPPETS, Frontend, trap

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


@trap("/etc/nginx/conf.d/okome-upstream.conf", "    server 192.168.86.25:8000 max_fails=0;\n" * 2,
      "    server 192.168.86.25:8000;\n")  # fmt: skip
def get_is_tried_twice(box: Frontend) -> None:
    box.origin(mode="502")
    assert box.client.ask("/v1/models").status == 502
    assert box.origin()["counts"] == {"GET /v1/models": 2}
    box.origin(mode="up")
    assert box.client.ask("/v1/models").status == 200, "no live upstreams after a failure"


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_next_upstream error", "proxy_next_upstream non_idempotent error")
def post_is_never_sent_twice(box: Frontend) -> None:
    for mode in ("500", "502", "503", "504"):
        box.origin(mode=mode, reset=True)
        answer = box.client.ask("/v1/chat/completions", "POST", body="{}")
        assert answer.status == int(mode)
        assert box.origin()["counts"] == {"POST /v1/chat/completions": 1}
    for mode in ("502", "503", "504"):  # without a body nginx could send it again
        box.origin(mode=mode, reset=True)
        assert box.client.ask("/v1/models/reload", "POST", body="").status == int(mode)
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


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_set_header Connection $okome_connection;\n", "")
def connections_to_the_origin_are_kept(box: Frontend) -> None:
    for _ in range(20):
        box.client.ask("/v1/models")
    assert box.origin()["connections"] <= 4  # one for each worker that took part


@trap("/etc/nginx/conf.d/okome-upstream.conf", "default okome_orchestrator;", "default okome_fetch;")
@trap(
    f"{SNIPPETS}/okome-api.conf",
    "proxy_buffering off;",
    "proxy_buffering off; js_header_filter okome_freshness.pass;",
)
def calls_do_not_pass_through_njs(box: Frontend) -> None:
    """It would make one line of two, and leave out what Connection names."""
    said = box.client.ask("/v1/models?h=Vary:Accept&h=Vary:Origin&h=Connection:X-Hop&h=X-Hop:1")
    assert [value for name, value in said.headers if name == "vary"] == ["Accept", "Origin"]
    assert said.header("X-Hop") == "1"


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
    answer = box.client.ask("/upload", "POST", body=document)
    assert answer.status == 200
    assert json.loads(answer.body)["bytes"] == len(document)


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_set_header Host $okome_server;", "proxy_set_header Host $host;")
@trap(
    f"{SNIPPETS}/okome-proxy.conf",
    "X-Forwarded-For $remote_addr;",
    "X-Forwarded-For $proxy_add_x_forwarded_for;",
)
@trap(f"{SNIPPETS}/okome-own.conf", "underscores_in_headers off;", "underscores_in_headers on;")
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


@trap(f"{SNIPPETS}/okome-proxy.conf", 'proxy_set_header Proxy-Connection "";\n', "")
@trap(f"{SNIPPETS}/okome-proxy.conf", 'proxy_set_header Trailer "";\n', "")
def what_a_client_says_to_this_node_only_stays_here(box: Frontend) -> None:
    """RFC 9110, 7.6.1."""
    names = ("Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade")
    for path in ("/v1/models", f"/assets/no-store/hop?echo={'&echo='.join(names)}"):
        answer = box.client.ask(path, **{name.replace("-", "_"): "one-hop" for name in names})
        assert answer.status == 200
        assert b"one-hop" not in answer.body, path


@trap(f"{SNIPPETS}/okome-api.conf", "proxy_set_header Upgrade $okome_upgrade;\n", "")
@trap(f"{SNIPPETS}/okome-api.conf", "proxy_read_timeout 600s;", "proxy_read_timeout 200ms;")
def websockets_pass(box: Frontend) -> None:
    """In both directions, past a reload and an outage of the others; one that says nothing is not cut."""
    frame = bytes([0x82, 0x84, 1, 2, 3, 4, 5, 6, 7, 8])  # masked, of four bytes (RFC 6455, 5.2)
    with box.client.websocket("/socket") as websocket:
        assert websocket.echo(frame) == frame
        box.set_flag(down=True)
        box.reload()
        time.sleep(0.5)
        assert websocket.echo(frame) == frame
        box.set_flag(down=False)
        assert websocket.echo(frame) == frame


@trap(
    "/etc/nginx/conf.d/okome-request.conf",
    '    default "";\n    "~*^websocket$" websocket;',
    "    default $http_upgrade;",
)
def no_other_protocol_passes(box: Frontend) -> None:
    """Of h2c nginx would see nothing but bytes: no limit, no header, no log (h2c smuggling)."""
    answer = box.client.ask(
        "/v1/models", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMA"
    )
    assert "upgrade" not in {name for name, _value in json.loads(answer.body)["headers"]}


@trap(
    f"{SNIPPETS}/okome-own.conf",
    "set_real_ip_from unix:;",
    "set_real_ip_from 0.0.0.0/0; real_ip_header X-Forwarded-For;",
)
def nobody_chooses_an_address(box: Frontend) -> None:
    """It is what limits, the log and the status location's list go by."""
    seen = json.loads(box.client.ask("/v1/models", X_Forwarded_For="10.9.8.7").body)["headers"]
    assert ["x-real-ip", box.client_address] in seen
    assert box.client.ask("/okome/health", X_Forwarded_For="10.9.8.7").status == 200
