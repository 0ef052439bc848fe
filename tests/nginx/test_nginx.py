"""The rendered configuration in real nginx: each known trap, and the naive edit that falls into it."""

import inspect
import json
import ssl
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException

import pytest

from tests.nginx import checks
from tests.nginx.box import SUITES, Box, why_not
from tests.nginx.checks import CHECKS, TRAPS, Check, Trap
from tests.nginx.checks.frame import SNIPPETS
from tests.nginx.checks.origin import POISON
from tests.nginx.strangers import WORST

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"nginx in a box {why_not()}")


@pytest.fixture(scope="module", params=SUITES)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """Beside a stranger who says the worst for all of http. (In the lab it stands alone.)"""
    with Box(request.param) as running:
        running.lay({"/etc/nginx/conf.d/shop.conf": WORST})
        running.start()
        yield running


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nginx(box: Box, check: Check) -> None:
    box.fresh()
    check(box)


def test_every_check_is_in_the_lists() -> None:
    """A function of one frontend alone is a check, and one without a trap would be asked of nobody."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{checks.__name__}.")]
    written = {
        one
        for module in modules
        for one in vars(module).values()
        if inspect.isfunction(one) and [*inspect.signature(one).parameters] == ["box"]
    }
    assert written == set(CHECKS)
    assert len(CHECKS) == len(written)


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_naive_configuration_falls_into(trap: Trap) -> None:
    with Box(trap.suite) as box:
        text = box.files[trap.file]
        assert trap.old in text, "the naive edit no longer applies"
        box.lay({trap.file: text.replace(trap.old, trap.new)})
        box.start()
        with pytest.raises((AssertionError, OSError, ValueError, HTTPException, pytest.fail.Exception)):
            trap.check(box)


@pytest.fixture(scope="module")
def credulous() -> Iterator[Box]:
    """A frontend that clears nothing."""
    with Box("bookworm") as running:
        file = f"{SNIPPETS}/okome-proxy.conf"
        text = running.files[file]
        for name, ours in POISON.items():
            line = f"proxy_set_header {name} {ours};\n"
            assert line in text
            text = text.replace(line, "")
        running.lay({file: text})
        running.start()
        yield running


@pytest.mark.parametrize("name", POISON)
@pytest.mark.parametrize("path", ["/v1/models", "/assets/no-store/x"])
def test_poisoning_header_would_reach_the_origin(credulous: Box, name: str, path: str) -> None:
    """Each line that clears one is needed."""
    assert b"evil" in credulous.client.ask(f"{path}?echo={name}", **{name: "evil"}).body


@pytest.mark.parametrize("suite", SUITES)
def test_what_must_not_be_stale_is_not_served_in_an_outage(suite: str) -> None:
    with Box(suite) as box:
        box.start()
        for directive in ("must-revalidate", "Proxy-Revalidate"):
            path = f"/assets/own/{directive}?h=Cache-Control:public,%20max-age=1,%20{directive}"
            box.origin(mode="up")
            assert box.client.ask(path).status == 200
            time.sleep(2.1)
            box.origin(mode="down")
            assert box.client.ask(path).status == 503


@pytest.mark.parametrize("suite", SUITES)
def test_the_log_knows_calls_without_a_status_and_what_was_asked(suite: str) -> None:
    """A call that hangs while its worker ends gets no status; a page for people is a rewrite."""
    with Box(suite, drain_timeout_s=1) as box:
        box.start()
        box.origin(mode="down")
        assert box.client.ask("/v1/a%20page?key=1", Accept="text/html").status == 503
        box.origin(mode="hanging")
        with box.client.connect() as connection:
            connection.sendall(b"GET /v1/cut%20off HTTP/1.1\r\nHost: cn00\r\n\r\n")
            deadline = time.monotonic() + 20
            while "GET /v1/cut%20off" not in box.origin()["counts"]:
                assert time.monotonic() < deadline
            box.reload()
            while "cut%20off" not in box.log():
                assert time.monotonic() < deadline, box.log()
                time.sleep(0.05)
        page, cut_off = map(json.loads, box.log().splitlines())
        assert (page["path"], page["status"]) == ("/v1/a%20page", 503)
        assert (cut_off["path"], cut_off["status"]) == ("/v1/cut%20off", 0)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nginx_has_nothing_to_complain_of(suite: str, tls: bool) -> None:
    with Box(suite, tls_certificate="/etc/ssl/cn00.pem" if tls else "") as box:
        certificate = box.make_certificate() if tls else None
        said = box.check()
        assert "successful" in said
        assert "warn" not in said, said
        if certificate:
            box.start()
            context = ssl.create_default_context(cafile=certificate)
            context.set_alpn_protocols(["http/1.1"])
            with context.wrap_socket(box.client.connect(port=443), server_hostname="cn00") as secured:
                secured.sendall(b"GET /okome/health HTTP/1.1\r\nHost: cn00\r\nConnection: close\r\n\r\n")
                assert b"X-OKOME-Node: CN00" in secured.recv(65536)
                assert secured.version() == "TLSv1.3"
            with box.client.connect(port=443) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: cn00\r\n\r\n")
                said = plain.recv(65536).decode()
                assert said.startswith("HTTP/1.1 400 ")
                assert '"type":"invalid_request"' in said
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(box.client.connect(port=443), server_hostname="cn00")
            assert box.client.ask("/v1/models").status == 200
