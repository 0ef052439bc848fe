"""Our server beside a stranger's: what is inherited, and what is shared."""

import contextlib
import json
import os
import shlex
import subprocess
from http.client import HTTPException
from pathlib import Path

import pytest
from crossplane.analyzer import DIRECTIVES

from facts.nginx import read_all
from facts.nginx_syntax import parse
from lab.client import FRONTEND
from operations.primitives.checkers import CHECKERS
from operations.services.nginx import SITE, nginx_config, proof
from operations.services.nginx_collisions import DEFINES, HARMLESS, Ours, inherited, ours
from operations.services.nginx_strangers import verdict
from tests.nginx.box import SUITES, Box, tree, why_not
from tests.nginx.checks.cache import authorization_is_never_shared
from tests.nginx.checks.frame import SNIPPETS, Check
from tests.nginx.checks.gate import gate_serves_stale_and_maintenance_at_once
from tests.nginx.checks.origin import (
    nobody_chooses_an_address,
    poisoning_headers_are_cleared,
    upload_is_forwarded_as_it_comes,
)
from tests.nginx.strangers import COLLIDING, COLLIDING_WITH_TLS, HTTP_MAIN, WORST, table

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"nginx in a box {why_not()}")

SHOP = "/etc/nginx/conf.d/shop.conf"


def of(suite: str, tls: bool = False) -> Ours:
    box = Box(suite, tls_certificate="/etc/ssl/okome/cn00.pem" if tls else "")
    return ours({file.path: file for file in read_all(box.files)})


@pytest.fixture(scope="module")
def known() -> set[str]:
    """All that can be said for all of http: to both releases' nginx, and to what crossplane knows."""
    programs = {name for suite in SUITES for name in table(tree(suite) / "usr/sbin/nginx")}
    assert {"open_file_cache", "http2", "map", "server"} <= programs
    return programs | {name for name, masks in DIRECTIVES.items() if any(mask & HTTP_MAIN for mask in masks)}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(("tls", "colliding"), [(False, COLLIDING), (True, COLLIDING_WITH_TLS)])
def test_no_directive_is_forgotten(known: set[str], suite: str, tls: bool, colliding: set[str]) -> None:
    """Each is said by our server itself, or does nothing to it for the reason given, or collides."""
    us = of(suite, tls)
    assert {name for name in known if inherited(name, us)} - {"http2"} == colliding
    assert inherited("http2", us) == (suite == "bookworm")  # which has no such directive


def test_reasons_are_of_something(known: set[str]) -> None:
    own = of("trixie").own
    for name, reason in HARMLESS.items():
        prefix = name if name.endswith("_") else f"{name}_"
        assert any(one == name or one.startswith(prefix) for one in known - own), name
        if reason.startswith("tunes "):
            tuned = reason.removeprefix("tunes ").partition(",")[0].partition(";")[0]
            assert tuned in own | COLLIDING | set(HARMLESS), reason
    assert not own & DEFINES - {"include"}


def test_the_worst_covers_all_that_ours_says(known: set[str]) -> None:
    said = {one.name for one in parse(WORST)} | {"http2"}
    bookworm, trixie = of("bookworm"), of("trixie")
    assert said >= (bookworm.own | trixie.own) & known - {"include"}
    assert {name for name in said if inherited(name, bookworm)} == {"http2"}


INHERITED: list[tuple[str, str, Check]] = [
    ("open_file_cache off;\n", "open_file_cache max=10000 inactive=30s; open_file_cache_valid 60s;"
     " open_file_cache_errors on;", gate_serves_stale_and_maintenance_at_once),
    ("set_real_ip_from unix:;", "set_real_ip_from 192.168.0.0/16; real_ip_header X-Forwarded-For;",
     nobody_chooses_an_address),
    ("underscores_in_headers off;", "underscores_in_headers on;", poisoning_headers_are_cleared),
    ("allow all;", "deny all;", upload_is_forwarded_as_it_comes),
    ("auth_basic off;", "auth_basic closed; auth_basic_user_file /dev/null;", upload_is_forwarded_as_it_comes),
    ("proxy_pass_request_headers on;", "proxy_pass_request_headers off;", authorization_is_never_shared),
]  # fmt: skip


@pytest.mark.parametrize(("line", "theirs", "check"), INHERITED, ids=lambda one: str(one).split()[0])
def test_without_our_own_word_it_would_be_inherited(line: str, theirs: str, check: Check) -> None:
    with Box("bookworm") as box:
        own = f"{SNIPPETS}/okome-own.conf"
        assert line in box.files[own]
        box.lay({own: box.files[own].replace(line, ""), SHOP: theirs})
        box.start()
        with pytest.raises((AssertionError, OSError, ValueError, HTTPException)):
            check(box)


SILENT = "server { listen 8080; server_name shop.example; return 204; }"


@pytest.mark.parametrize(
    ("theirs", "log"),
    [(SILENT, "access.log"), (f"access_log /var/log/nginx/shop.log;\n{SILENT}", "shop.log")],
)
def test_each_request_is_in_the_log_of_its_site_once(theirs: str, log: str) -> None:
    """Also of a site that names none, in Debian's own; and none of ours, on whichever of our servers it ends."""
    with Box("bookworm") as box:
        box.lay({SHOP: theirs})
        box.start()
        assert box.client.ask("/v1/models").status == 200
        assert box.client.ask("/assets/public/x").status == 200
        assert box.client.ask("/okome/status").status == 200
        with box.client.connect() as nonsense:
            nonsense.sendall(b"nonsense\r\n\r\n")
            assert nonsense.recv(65536)
        with box.client.connect(port=8080) as shop:
            shop.sendall(b"GET /theirs HTTP/1.0\r\n\r\n")
            assert b" 204 " in shop.recv(65536)
        assert box.nginx
        box.end(box.nginx)  # which writes what it still has
        paths = [json.loads(line)["path"] for line in box.log().splitlines()]
        assert sorted(paths) == ["", "/assets/public/x", "/okome/status", "/v1/models"]
        (line,) = (box.root / "var/log/nginx" / log).read_text().splitlines()
        assert '"GET /theirs HTTP/1.0" 204 0 "-" "-"' in line


LISTENS = (
    "80",
    "[::]:80",
    "[::]:80 proxy_protocol reuseport",
    "unix:/run/shop.sock",
    "127.0.0.2:80",
    "127.0.0.2:80 backlog=64",
    "[::]:80 ipv6only=off",
    "80 http2",
    "80 proxy_protocol",
    "127.0.0.1:80",
)


@pytest.mark.parametrize("listen", LISTENS)
def test_a_shared_socket_is_judged_by_what_nginx_does(listen: str) -> None:
    """`nginx -t` has nothing against any of them."""
    with Box("bookworm") as box:
        shop = {SHOP: f"server {{ listen {listen}; server_name shop; return 204; }}"}
        config = nginx_config("bookworm", "CN00", box.data)
        refused = verdict(read_all(shop), config, box.data).refused
        box.lay(shop)
        assert "successful" in box.check()
        nginx = subprocess.Popen(
            box.command("/usr/sbin/nginx", "-g", "daemon off;"), stderr=subprocess.DEVNULL
        )
        box.stack.callback(box.end, nginx)
        listening = False
        while nginx.poll() is None and not listening:
            with contextlib.suppress(OSError):
                box.client.connect().close()
                listening = True
        asked = ["nsenter", f"--net=/proc/{box.holder.pid}/ns/net", "sh", "-c", proof(FRONTEND, tls=False)]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        assert (said.returncode == 0) == (not refused), (refused, said.stderr)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("gzip_types text/html text/css; server { listen 8080; return 204; }", ""),
        ("include mime.types; server { listen 8443 http2; return 204; }", ""),
        ("server { listen 80; server_name cn00; return 204; }", 'conflicting server name "cn00"'),
        ("server { listen 8080 ssl; }", 'no "ssl_certificate" is defined'),
    ],
)
def test_nginx_may_warn_of_lines_that_are_not_ours(tmp_path: Path, theirs: str, said: str) -> None:
    checker = CHECKERS["nginx"]
    with Box("trixie") as box:
        box.lay({SHOP: theirs})
        nginx = tmp_path / "nginx"
        nginx.write_text(f'#!/bin/sh\nexec {shlex.join(box.command("/usr/sbin/nginx"))} "$@"\n')
        nginx.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

        def checked() -> str:
            command = ["sh", "-c", checker, "check", *box.files]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert bool(done.returncode) == bool(done.stdout), done
            return done.stdout

        assert said in checked()
        assert bool(checked()) == bool(said)
        box.lay({SITE: f"{box.files[SITE]}types {{ a/b html; }}\n"})  # a warning about a line of ours
        assert said or f"in {SITE}:" in checked()
