"""CN00 on a booted node: from bare to finished beside what the older system left, and its nginx in its sandbox."""

import contextlib
import json
import shlex
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from lab.client import FRONTEND, Client
from operations.services.hit_ratio import STATE
from operations.services.nginx import ACCESS_LOG, SITE
from operations.services.probe import CACHE
from tests.lab.conftest import Lab
from tests.lab.frontend import DEPLOY, NODE, Frontend, Stream, needs_root
from tests.nginx.box import make_certificate
from tests.nginx.checks import CHECKS, Check
from tests.unit.operations.services.etc_nginx import KOME_CACHE

pytestmark = [needs_root, pytest.mark.timeout(900)]

# Of each kind that stops a deploy one: what is defined twice, what is inherited, what is shared, what would be lost.
STRANGERS = {
    "nginx.conf": "events {}\nhttp {\n include conf.d/*.conf;\n include sites-enabled/*;\n"
    " include\n  vhosts/*.conf;\n}\nstream {\n include stream.d/*.conf;\n}\n",
    "conf.d/shop.conf": "\nlimit_req_zone $uri zone=api_limit:1m rate=1r/s;\nlimit_req zone=api_limit;\n",
    "conf.d/proxied.conf": "server { listen 80 proxy_protocol; server_name shop.example; return 204; }",
    "conf.d/both.conf": "server { listen [::]:80 ipv6only=off; server_name shop.example; return 204; }",
    "conf.d/status.conf": "server { listen 127.0.0.1:80; server_name _; location /x { stub_status; } }",
    "sites-enabled/default": "server { listen 80; root /var/www/family;"
    " location /api/ { proxy_pass http://192.168.86.25:8000/; } }",
    "vhosts/shop.conf": "server { listen 8080; return 204; }",
    "stream.d/mqtt.conf": "server { listen 1883; proxy_pass 10.0.0.9:1883; }",
}
SENTENCES = (
    "conf.d/shop.conf:2 defines zone 'api_limit'",
    "conf.d/shop.conf:3 sets limit_req for every server",
    "conf.d/proxied.conf:1 listens on 80 proxy_protocol",
    "conf.d/both.conf:1 listens on [::]:80 ipv6only=off",
    "conf.d/status.conf:1 listens on 127.0.0.1:80",
    "sites-enabled/default is not Debian's own",
    "vhosts/shop.conf is read through /etc/nginx/nginx.conf:5 alone",
    "stream.d/mqtt.conf is read through /etc/nginx/nginx.conf:9 alone",
)

# Not nginx's own, which on bookworm has port 80 already.
# And rules of logrotate: one for our log, and one whose mistake is nobody's but its own.
IN_THE_WAY = """
printf '/var/log/nginx/*/*.log {\n}\n' >/etc/logrotate.d/all
printf '/var/log/gone.log {\n}\n' >/etc/logrotate.d/gone
systemd-run -q --unit=numbers -- python3 -m http.server 9113
systemd-run -q --unit=fetch -- python3 -m http.server --bind 127.0.0.1 8010
timeout 30 sh -c 'until [ "$(ss -Hltn "sport = :9113 or sport = :8010" | wc -l)" = 2 ]; do sleep 0.1; done'
"""


def put(lab: Lab, path: str, text: str) -> None:
    lab.execute(
        "sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "sh", path, text, node=NODE
    )


def put_kome_cache_in_five_places(lab: Lab) -> None:
    put(lab, "/etc/nginx/conf.d/kome-cache.conf", KOME_CACHE)
    put(lab, "/etc/nginx/sites-enabled/kome-cache.conf", KOME_CACHE)
    put(lab, "/etc/nginx/sites-available/kome-cache.conf", KOME_CACHE)
    put(lab, "/etc/nginx/conf.d/proxy.conf", KOME_CACHE)
    link = "ln -s ../sites-available/kome-cache.conf /etc/nginx/sites-enabled/kome"
    lab.execute("sh", "-c", link, node=NODE)


def assert_no_change(lab: Lab) -> None:
    again = lab.deploy(deploy=DEPLOY)
    assert (again.status, again.changed, again.errors) == (0, 0, 0), again.output


# What differs between the releases is nginx and systemd's sandbox; the rest is bookworm's alone.
BOTH = (
    "test_the_older_system_gave_way_and_is_kept_aside",
    "test_it_verifies",
    "test_nginx_in_its_sandbox",
    "test_a_change_of_configuration_reloads_once",
    "test_a_long_stream_lost_nothing",
)
# Every stream is held until all has happened to it. Trixie's tests are fewer: three minutes would be waiting.
STREAM_SECONDS = {"bookworm": 180, "trixie": 60}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        suites = ["bookworm", "trixie"] if metafunc.function.__name__ in BOTH else ["bookworm"]
        metafunc.parametrize("suite", suites, indirect=True, scope="module")


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def bare(lab: Lab, suite: str) -> str:
    """The DHCP address of a bare node; on bookworm nginx was installed by hand, and runs with its welcome page."""
    address = lab.fresh(suite=suite, node=NODE)
    if suite == "bookworm":
        install = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy nginx"
        lab.execute("sh", "-c", f"{install} && systemctl is-active nginx", node=NODE)
    return address


@pytest.fixture(scope="module")
def stopped(lab: Lab, bare: str) -> str:
    """Strangers' files, met before anything was changed; what the deploy said."""
    lab.execute("sh", "-c", "mkdir -p /etc/nginx && cp -a /etc/nginx /root/before", node=NODE)
    for path, text in STRANGERS.items():
        lab.execute("rm", "-f", f"/etc/nginx/{path}", node=NODE)
        put(lab, f"/etc/nginx/{path}", text)
    lab.execute("sh", "-ec", IN_THE_WAY, node=NODE)
    run = lab.deploy(deploy=DEPLOY, address=bare)
    assert run.status != 0
    lab.execute("sh", "-c", "systemctl stop numbers fetch; rm /etc/logrotate.d/all", node=NODE)
    assert lab.execute("hostname", node=NODE).strip() == "raspberrypi"
    assert "okome" not in lab.execute("find", "/etc", "/var/lib", "/usr/local", node=NODE)
    lab.execute("sh", "-c", "rm -r /etc/nginx && mv /root/before /etc/nginx", node=NODE)
    return run.output


@pytest.fixture(scope="module")
def finished(lab: Lab, bare: str, stopped: str) -> Iterator[Frontend]:
    """CN00, on a node where the older system was everywhere."""
    put_kome_cache_in_five_places(lab)
    dry = lab.deploy("--dry", deploy=DEPLOY, address=bare)
    assert (dry.status, dry.changed) == (0, -1), dry.output
    assert lab.execute("sh", "-c", "find /etc/nginx -name 'kome*' | wc -l", node=NODE).strip() == "4"
    run = lab.deploy(deploy=DEPLOY, address=bare)
    assert (run.status, run.errors) == (0, 0), run.output
    frontend = Frontend(lab)
    with frontend.client:
        yield frontend


@pytest.fixture(scope="module")
def long_stream(finished: Frontend, suite: str) -> Stream:
    """Three minutes at least, through everything that the other tests do."""
    finished.until_gate(up=True)
    return Stream(finished.client, STREAM_SECONDS[suite], hold=f"long-{suite}")


@pytest.fixture
def under_stream(long_stream: Stream) -> Iterator[Stream]:
    """It goes on when the test is over, whatever that did."""
    yield long_stream
    long_stream.assert_goes_on()


def test_strangers_are_named_with_their_lines_all_at_once(stopped: str) -> None:
    for sentence in SENTENCES:
        assert f"/etc/nginx/{sentence}" in stopped
    assert "port 9113, which the nginx exporter needs, is taken by python3 (pid " in stopped
    assert "port 80," not in stopped
    assert "/etc/logrotate.d/all:1 rotates /var/log/nginx/*/*.log, our " in stopped
    assert "`systemctl disable --now fetch.service`, or choose another fetch_port" in stopped
    assert "Traceback" not in stopped


def test_the_older_system_gave_way_and_is_kept_aside(lab: Lab, finished: Frontend) -> None:
    assert finished.run("find /etc/nginx -name 'kome*' -o -name proxy.conf").strip() == ""
    kept = finished.run("cd /var/lib/okome/replaced && find ./etc/nginx -type f -exec sha256sum {} +").split()
    assert sorted(kept[1::2]) == [
        "./etc/nginx/conf.d/kome-cache.conf",
        "./etc/nginx/conf.d/proxy.conf",
        "./etc/nginx/sites-available/kome-cache.conf",
        "./etc/nginx/sites-enabled/kome",
        "./etc/nginx/sites-enabled/kome-cache.conf",
    ]
    assert len(set(kept[::2])) == 1
    assert_no_change(lab)


def test_it_verifies(lab: Lab, finished: Frontend, under_stream: Stream) -> None:
    lab.verify(node=NODE)


@pytest.fixture(scope="class")
def unwatched(finished: Frontend, long_stream: Stream) -> Iterator[Frontend]:
    with finished.without_probe():
        yield finished


class TestWithoutProbe:
    """The checks that every nginx of ours passes; they close and open the gate themselves."""

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_nginx_in_its_sandbox(self, unwatched: Frontend, under_stream: Stream, check: Check) -> None:
        unwatched.set_flag(down=False)
        unwatched.set_full(full=False)
        unwatched.origin(mode="up", reset=True)
        check(unwatched)


def test_kome_cache_that_comes_back_goes_again(lab: Lab, finished: Frontend, under_stream: Stream) -> None:
    put(lab, "/etc/nginx/conf.d/kome-cache.conf", KOME_CACHE)
    run = lab.deploy(deploy=DEPLOY)
    assert (run.status, run.errors) == (0, 0), run.output
    assert run.changed == 3, run.output  # the copy, the file, and so the reload
    assert_no_change(lab)


def test_a_stranger_on_a_finished_node_changes_nothing(
    lab: Lab, finished: Frontend, under_stream: Stream
) -> None:
    put(lab, "/etc/nginx/sites-enabled/shop", "\n\nupstream okome_down { server 10.0.0.9; }")
    run = lab.deploy(deploy=DEPLOY)
    assert run.status != 0
    assert "/etc/nginx/sites-enabled/shop:3 defines upstream 'okome_down'" in run.output
    lab.execute("rm", "/etc/nginx/sites-enabled/shop", node=NODE)
    assert_no_change(lab)


TAKES_443 = f"""
import http.server, pathlib, time
while " 443 ssl" not in pathlib.Path({SITE!r}).read_text():
    time.sleep(0.01)
http.server.test(port=443)
"""


def test_what_nginx_does_not_do_after_a_reload_is_put_back(
    lab: Lab, finished: Frontend, under_stream: Stream, tmp_path: Path
) -> None:
    """Somebody else takes port 443 in the last moment, so that the preflight could not see it: `nginx -t` does not see
    that either, and nobody else says that nginx kept its old sites."""
    make_certificate(tmp_path / "cn00.pem")
    for suffix in (".pem", ".key"):
        put(lab, f"/etc/ssl/okome/cn00{suffix}", (tmp_path / "cn00").with_suffix(suffix).read_text())
    finished.run(f"systemd-run -q --unit=stranger --collect python3 -c {shlex.quote(TAKES_443)}")
    files = "find /etc/nginx -type f -exec sha256sum {} + | sort"
    before = finished.run(files)
    run = lab.deploy("--data", "tls_certificate=/etc/ssl/okome/cn00.pem", deploy=DEPLOY)
    assert run.status != 0
    assert f"https://{FRONTEND}/okome/status: " in run.output
    assert finished.run(files) == before
    assert finished.client.ask("/v1/models").status == 200
    finished.run("systemctl stop stranger && rm -r /etc/ssl/okome")
    again = lab.deploy(deploy=DEPLOY)
    assert (again.status, again.changed, again.errors) == (0, 1, 0), again.output  # it is told once more


def test_a_reload_that_nginx_would_refuse_is_a_failure(lab: Lab, finished: Frontend) -> None:
    """Root's `nginx -t` may write the log; nginx in its unit may not, would say so in its own log, and go on as before,
    until the next boot."""
    shop = "/etc/nginx/conf.d/shop.conf"
    put(lab, shop, "server { listen 8080; access_log /srv/shop.log; return 204; }")
    try:
        assert "test is successful" in finished.run("nginx -t 2>&1")
        assert "failed" in finished.run("! systemctl reload nginx 2>&1")
    finally:
        finished.run(f"rm {shop}")
    finished.run("systemctl reload nginx")


def test_a_full_cache_goes_on_answering(lab: Lab, finished: Frontend, under_stream: Stream) -> None:
    """The limit is lowered by hand; the next deploy puts it back."""
    finished.run("sed -i s/max_size=2048m/max_size=4m/ /etc/nginx/conf.d/okome-cache.conf && nginx -s reload")
    for number in range(150):
        answer = finished.client.ask(f"/assets/public/full-{number}?size=200000")
        assert (answer.status, len(answer.body)) == (200, 200_000)
    limit = time.monotonic() + 60
    while int(finished.run(f"du -sk {CACHE}").split()[0]) > 6 * 1024:
        assert time.monotonic() < limit, "nothing is evicted"
        time.sleep(0.5)
    run = lab.deploy(deploy=DEPLOY)
    assert (run.status, run.errors) == (0, 0), run.output
    assert run.changed == 2, run.output  # the file, the reload


class Load:
    """Clients that ask for one asset on kept connections until they are told to end; each request has a name."""

    CLIENTS, LIMIT = 8, 20000  # the limit is per client

    def __init__(self, client: Client, path: str) -> None:
        self.client, self.path = client, path
        self.ended = threading.Event()
        self.answered = [0] * self.CLIENTS
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.CLIENTS)]

    def _ask(self, number: int) -> None:
        try:
            with contextlib.closing(HTTPConnection(FRONTEND)) as connection:
                while not self.ended.is_set():
                    assert self.answered[number] < self.LIMIT, "the load ended before the test did"
                    name = f"rotation-{number}-{self.answered[number]}"
                    if connection.sock is None:  # nginx closes it after a thousand requests
                        connection.sock = self.client.connect()
                    connection.request("GET", self.path, headers={"X-Request-ID": name})
                    answer = connection.getresponse()
                    answer.read()
                    got = answer.status, answer.getheader("X-Cache-Status")
                    assert got == (200, "HIT"), f"{name}: {got}"
                    self.answered[number] += 1
        except (AssertionError, OSError, HTTPException) as error:
            self.failures.append(repr(error))

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(30)


# Reads logs; prints how many lines are no JSON, how many are of the load, and of how many requests.
COUNT = """
import json, sys
torn, ids = 0, []
for line in sys.stdin.buffer:
    try:
        ids.append(json.loads(line)["request_id"])
    except ValueError:
        torn += 1
ids = [one for one in ids if one.startswith("rotation-")]
print(torn, len(ids), len(set(ids)))
"""


def test_no_line_of_the_log_is_lost_or_torn_in_a_rotation(finished: Frontend, under_stream: Stream) -> None:
    count = "systemctl start okome-hitratio.service; okome-hitratio --json"
    before = json.loads(finished.run(count)).get("/assets/", {"hits": 0})["hits"]
    path = "/assets/immutable/rotation"
    finished.client.ask(path, Accept_Encoding="identity")  # as http.client asks
    with Load(finished.client, path) as load:
        for _ in range(3):
            seen = sum(load.answered)
            finished.run(
                "logrotate -f /etc/logrotate.d/okome-nginx && systemctl start okome-hitratio.service"
            )
            assert sum(load.answered) > seen, load.failures
            time.sleep(2)  # systemd starts nothing more than five times in ten seconds
    assert not load.failures, load.failures
    # Each rotation found something: nginx did not go on in the file that it had.
    assert len(finished.run(f"ls {ACCESS_LOG}*").split()) >= 4
    requests = sum(load.answered)
    limit = time.monotonic() + 60
    while True:
        logged = finished.run(f"zcat -f {ACCESS_LOG}* | python3 -c '{COUNT}'").split()
        hits = json.loads(finished.run(count))["/assets/"]["hits"] - before
        if (logged, hits) == (["0", str(requests), str(requests)], requests):
            break
        assert time.monotonic() < limit, (logged, hits, requests)
        time.sleep(2)
    assert finished.run(f"stat -c '%U:%G %a' {ACCESS_LOG}").strip() == "www-data:adm 640"


def test_a_change_of_configuration_reloads_once(lab: Lab, finished: Frontend, under_stream: Stream) -> None:
    with finished.client.websocket("/socket") as websocket:
        for burst in (101, 100):
            run = lab.deploy("--data", f"api_burst={burst}", deploy=DEPLOY)
            assert (run.status, run.changed, run.errors) == (0, 2, 0), run.output
            under_stream.assert_goes_on()
            assert websocket.echo(b"still there") == b"still there"


def test_a_long_stream_lost_nothing(finished: Frontend, long_stream: Stream) -> None:
    """It went through the deploys, reloads, log rotations and flips above; the probe's own flips are here."""
    finished.reload()
    long_stream.assert_goes_on()
    for mode in ("down", "up"):
        finished.origin(mode=mode)
        finished.until_gate(up=mode == "up")
        long_stream.assert_goes_on()
    assert finished.run("pgrep -f 'nginx: worker process is [s]hutting down'"), "no old worker drains"
    finished.origin(release=long_stream.hold)
    long_stream.assert_whole()


def test_the_operator_sees_it_at_a_glance(lab: Lab, finished: Frontend) -> None:
    """CN01 is off in this lab, and that is what the exit status says."""
    finished.until_gate(up=True)
    finished.client.ask("/assets/immutable/glance")
    finished.run("sleep 1.5; systemctl start okome-hitratio.service")
    said = lab("run", "--", "okome", "status", "--json", check=False)
    nodes = json.loads(said[: said.rindex("}") + 1])["nodes"]
    assert nodes[NODE]["healthy"], nodes
    assert nodes[NODE]["upstream"] == "up"
    assert 0 < nodes[NODE]["hit_ratio"] < 1
    assert "\n" not in nodes["cn01"]["trouble"]
    finished.origin(mode="killed")
    finished.until_gate(up=False)
    assert NODE in (table := lab("run", "--", "okome", "status", check=False))
    assert "all 5 well" in table
    assert " down " in table
    finished.origin(mode="up")


def test_the_operator_sees_that_hits_are_not_counted(lab: Lab, finished: Frontend) -> None:
    """The timer stays active, and the old numbers stay readable."""
    numbers = f"{STATE}/okome.prom"
    count = "systemctl start okome-hitratio.service; systemctl is-active okome-hitratio.timer"
    assert finished.run(f"rm -f {numbers} && mkdir {numbers}; {count}").strip() == "active"
    try:
        table = lab("run", "--", "okome", "status", check=False)
        assert "  okome-hitratio.service failed  " in table
    finally:
        assert finished.run(f"rmdir {numbers}; {count}").strip() == "active"
    assert "all 5 well" in lab("run", "--", "okome", "status", check=False)


def test_a_restart_lets_a_stream_finish(finished: Frontend) -> None:
    finished.until_gate(up=True)
    stream = Stream(finished.client, 12)
    finished.run("timeout 60 systemctl restart nginx")
    stream.assert_whole()
    finished.until_it_answers()


def test_it_comes_back_from_a_reboot_and_a_power_cut(lab: Lab, finished: Frontend) -> None:
    for how in (("reboot",), ("cut", "on")):
        for state in how:
            lab("power", NODE, state)
        finished.until_it_answers()
        assert finished.client.ask("/v1/models").status == 200
    lab.verify(node=NODE)
    assert_no_change(lab)
