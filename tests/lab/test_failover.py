"""An orchestrator that is killed, hangs, flaps or is slow, seen from the LAN through CN00 with its probe."""

import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from group_data.frontends import probe_fall
from lab import machine
from lab.origin import chunk
from tests.lab.conftest import Lab
from tests.lab.frontend import DEPLOY, NAMESPACE, NODE, Frontend, Stream, needs_root

pytestmark = [needs_root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def frontend(lab: Lab) -> Iterator[Frontend]:
    """CN00, on a node where somebody had installed nginx: Debian's welcome page is not a stranger's."""
    address = lab.fresh(node=NODE)
    install = (
        "apt-get -q update && apt-get -qy install --no-install-recommends nginx && systemctl is-active nginx"
    )
    lab.execute("sh", "-c", install, node=NODE)
    run = lab.deploy(deploy=DEPLOY, address=address)
    assert (run.status, run.errors) == (0, 0), run.output
    assert lab.execute("sh", "-c", "find /var/lib/okome/replaced/etc 2>/dev/null; true", node=NODE) == ""
    frontend = Frontend(lab)
    with frontend.client:
        yield frontend


@pytest.fixture(autouse=True)
def _up(frontend: Frontend) -> Iterator[None]:
    frontend.origin(mode="up", reset=True)
    frontend.until_gate(up=True)
    yield
    frontend.origin(mode="up")


@pytest.mark.parametrize("mode", ["killed", "down", "hanging", "slow:5", "500", "503"])
def test_outage_and_recovery(frontend: Frontend, mode: str) -> None:
    asset = f"/assets/public/outage-{mode.replace(':', '')}"
    body = frontend.client.ask(asset).body
    frontend.origin(mode=mode, reset=True)
    frontend.until_gate(up=False)
    if mode not in ("killed", "down"):  # which the origin does not hear
        assert frontend.origin()["counts"]["GET /health"] >= probe_fall
    frontend.origin(reset=True)
    for _ in range(3):
        kept = frontend.client.ask(asset)
        assert (kept.status, kept.cache, kept.body) == (200, "HIT", body)
        answer = frontend.client.ask("/v1/chat/completions", "POST", body="{}")
        assert (answer.status, answer.header("Retry-After")) == (503, "5")
        assert json.loads(answer.body)["error"]["type"] == "upstream_unavailable"
        assert frontend.client.ask("/", Accept="text/html").body.startswith(b"<!doctype html>")
    assert set(frontend.origin()["counts"]) <= {"GET /health"}, "only the probe asks while the gate is closed"
    frontend.origin(mode="up")
    frontend.until_gate(up=True)
    assert frontend.client.ask("/v1/models").status == 200


@pytest.mark.parametrize("mode", ["killed", "hanging", "slow:2"])
def test_an_outage_of_the_orchestrator_is_no_fault_of_the_frontend(
    lab: Lab, frontend: Frontend, mode: str
) -> None:
    frontend.origin(mode=mode)
    frontend.until_gate(up=False)
    said = lab.verify(node=NODE)
    for what in ("path through CN00: up, upstream down", "gate of CN00: up, upstream down"):
        assert what in said, said


def test_stale_assets_bridge_an_outage(frontend: Frontend) -> None:
    frontend.client.ask("/assets/short/bridge")
    time.sleep(2.1)  # its second of freshness is over
    frontend.origin(mode="killed")
    statuses = set()
    limit = time.monotonic() + 4
    while time.monotonic() < limit:
        answer = frontend.client.ask("/assets/short/bridge")
        statuses.add((answer.status, answer.cache))
    assert statuses == {(200, "STALE")}


def test_flapping_fails_no_cached_asset_and_reloads_nothing(frontend: Frontend) -> None:
    assets = ("/assets/public/flap", "/assets/short/flap")
    for asset in assets:
        frontend.client.ask(asset)
    its_processes = "pgrep -f '^nginx: (master|worker) process'"  # the cache loader ends by itself
    workers = frontend.run(its_processes)
    assert len(workers.split()) > 1
    failures: list[tuple[str, int]] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            for asset in assets:
                answer = frontend.client.ask(asset)
                if answer.status != 200:
                    failures.append((asset, answer.status))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for seconds in (0, 2.1, 0):  # the longer outage is the end of the one asset's freshness
            frontend.origin(mode="killed")
            frontend.until_gate(up=False)
            time.sleep(seconds)
            frontend.origin(mode="up")
            frontend.until_gate(up=True)
    finally:
        ended.set()
        asking.join(30)
    assert failures == []
    assert frontend.run(its_processes) == workers


def stays_up_for(frontend: Frontend, probes: int) -> None:
    """The gate is open until the origin has seen so many more probes."""
    wanted = frontend.origin()["counts"].get("GET /health", 0) + probes
    limit = time.monotonic() + 30
    while frontend.origin()["counts"].get("GET /health", 0) < wanted:
        assert frontend.gate()
        assert time.monotonic() < limit


def test_one_failed_probe_is_not_an_outage(frontend: Frontend) -> None:
    for _ in range(5):
        frontend.origin(mode="hanging")
        stays_up_for(frontend, 1)
        frontend.origin(mode="up")
        stays_up_for(frontend, 4)


def test_an_origin_that_is_a_bit_slow_is_up(frontend: Frontend) -> None:
    frontend.origin(mode="slow:0.1")
    stays_up_for(frontend, 10)


def test_a_stream_outlives_an_outage_of_the_others(frontend: Frontend) -> None:
    stream = Stream(frontend.client, 15)
    frontend.origin(mode="down")
    frontend.until_gate(up=False)
    assert frontend.client.ask("/v1/models").status == 503
    frontend.origin(mode="up")
    frontend.until_gate(up=True)
    stream.assert_whole()


def test_a_deploy_that_changes_the_unit_refuses_nobody(lab: Lab, frontend: Frontend) -> None:
    """A stream is open: no restart, and a sentence. It is not: a restart."""
    changed = ("--data", "drain_timeout_s=631")
    before = frontend.run("systemctl show -P MainPID nginx")
    refused: list[OSError] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.05):
            try:
                frontend.client.ask("/okome/health")
            except OSError as error:
                refused.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with frontend.client.open("GET", "/stream?chunks=2&gate=deploy", timeout=120) as stream:
            assert stream.read(len(chunk(0, events=True))) == chunk(0, events=True)
            run = lab.deploy(*changed, deploy=DEPLOY)
            assert (run.status, run.errors) == (0, 0), run.output
            assert "nginx.service is not restarted now, open requests: 1" in run.output
            assert frontend.run("systemctl show -P MainPID nginx") == before
            assert frontend.run("nginx -T 2>/dev/null | grep worker_shutdown").split()[1] == "631s;"
            frontend.origin(release="deploy/1")
            assert stream.read() == chunk(1, events=True)
    finally:
        ended.set()
        asking.join(30)
    assert refused == []
    run = lab.deploy(*changed, deploy=DEPLOY)
    assert (run.status, run.changed, run.errors) == (0, 1, 0), run.output
    assert frontend.run("systemctl show -P MainPID nginx") != before
    run = lab.deploy(*changed, deploy=DEPLOY)
    assert (run.status, run.changed, run.errors) == (0, 0, 0), run.output
    assert lab.deploy(deploy=DEPLOY).status == 0


def test_tls_in_the_sandbox_and_a_renewed_certificate(lab: Lab, frontend: Frontend) -> None:
    path = "/etc/ssl/okome/cn00.pem"
    tls = ("--data", f"tls_certificate={path}")

    def make(days: int) -> str:
        """Another one; what a client that trusts it has to know."""
        frontend.run(
            "mkdir -p /etc/ssl/okome && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            f" -days {days} -subj /CN=cn00 -addext subjectAltName=DNS:cn00"
            f" -out {path} -keyout {path.replace('.pem', '.key')} 2>&1"
        )
        return frontend.run(f"cat {path}")

    def answer(certificate: str) -> bytes:
        context = ssl.create_default_context(cadata=certificate)
        with context.wrap_socket(frontend.client.connect(port=443), server_hostname="cn00") as secured:
            secured.sendall(b"GET /v1/models HTTP/1.1\r\nHost: cn00\r\nConnection: close\r\n\r\n")
            return secured.recv(65536)

    first = make(1)
    run = lab.deploy(*tls, deploy=DEPLOY)
    assert (run.status, run.changed, run.errors) == (0, 2, 0), run.output  # the site, the reload
    assert answer(first).startswith(b"HTTP/1.1 200 ")
    second = make(2)
    run = lab.deploy(*tls, deploy=DEPLOY)
    assert (run.status, run.changed, run.errors) == (0, 2, 0), run.output
    assert answer(second).startswith(b"HTTP/1.1 200 ")
    run = lab.deploy(deploy=DEPLOY)
    assert (run.status, run.changed, run.errors) == (0, 2, 0), run.output
    with pytest.raises(ConnectionRefusedError):
        frontend.client.connect(port=443)


def test_without_a_probe_everything_counts_as_up(frontend: Frontend) -> None:
    frontend.origin(mode="killed")
    frontend.until_gate(up=False)
    frontend.run("systemctl stop okome-probe")
    assert frontend.gate()
    frontend.origin(mode="up")
    assert frontend.client.ask("/v1/models").status == 200
    frontend.run("systemctl start okome-probe")


def test_a_probe_that_hangs_or_dies_is_started_again(frontend: Frontend) -> None:
    for end in ("KILL", "STOP"):
        before = frontend.run("systemctl show -P MainPID okome-probe")
        frontend.run(f"kill -{end} {before.strip()}")
        limit = time.monotonic() + 60
        while frontend.run("systemctl show -P MainPID okome-probe").strip() in (before.strip(), "0"):
            assert time.monotonic() < limit
            time.sleep(0.5)
        frontend.origin(mode="killed")
        frontend.until_gate(up=False)
        frontend.origin(mode="up")
        frontend.until_gate(up=True)


def test_the_origin_is_switched_from_the_command_line(lab: Lab, frontend: Frontend) -> None:
    assert json.loads(lab("origin", "slow:2"))["mode"] == "slow:2"
    assert json.loads(lab("origin"))["mode"] == "slow:2"
    for bad in ("slow", "sideways", "slow:soon"):
        said = lab("origin", bad, check=False)
        assert said.startswith("lab: "), said
        assert said.count("\n") == 1
    assert frontend.origin()["mode"] == "slow:2"


def test_an_origin_that_was_killed_is_put_back_by_the_next_command(lab: Lab, frontend: Frontend) -> None:
    for pid in machine.run(["ip", "netns", "pids", f"{NAMESPACE.name}-orchestrator"]).split():
        os.kill(int(pid), signal.SIGKILL)
    assert json.loads(lab("origin", "up"))["mode"] == "up"
    assert set(frontend.origin()["counts"]) <= {"GET /health"}, "a new one, which the probe may have found"
