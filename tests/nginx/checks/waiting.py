"""Who waits for whom, when several ask for the same."""

import select
import time
from functools import partial

from tests.nginx.checks.frame import SNIPPETS, Frontend, trap


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
