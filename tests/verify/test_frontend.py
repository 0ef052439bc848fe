"""What a finished frontend is, from the LAN where it can be, and as root of the node where it must be."""

import json
import re
import runpy
import warnings
from pathlib import Path

import httpx
import pytest
from testinfra.host import Host

from operations.services.hit_ratio import STATE
from operations.services.nginx import ACCESS_LOG
from operations.services.probe import CACHE, DOWN_FLAG
from tests.verify.conftest import assert_drop_in_prevails

GROUP = "frontends"
DATA = runpy.run_path(str(Path(__file__).parents[2] / "group_data/frontends.py"))
HEADERS = ("X-Cache-Status", "X-OKOME-Node", "X-Upstream", "X-Request-ID")
UPSTREAM_DOWN = (502, 503, 504)


def address(node: Host) -> str:
    return str(node.backend.host.name)


def ask(node: Host, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """A request from the LAN; 10 s for each of connecting, sending and reading."""
    return httpx.request(
        method,
        f"http://{address(node)}{path}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=10,
    )


def test_it_is_up_and_says_whether_its_upstream_is(node: Host) -> None:
    answer = ask(node, "/health")
    name = answer.headers["X-OKOME-Node"]
    if answer.status_code in UPSTREAM_DOWN:
        warnings.warn(f"{name}: up, upstream down ({answer.status_code})", stacklevel=1)
        assert answer.headers["Retry-After"].isdigit()
    else:
        assert answer.is_success, f"{name}: {answer.status_code}"
        assert answer.headers["X-Upstream"] == DATA["orchestrator"]


@pytest.mark.parametrize("path", ["/", "/okome/health", "/okome/status", "/assets/none", "/%ff%00"])
def test_every_answer_carries_the_headers(node: Host, path: str) -> None:
    answer = ask(node, path)
    for name in HEADERS:
        assert answer.headers.get(name), (path, name)
    assert answer.headers["X-OKOME-Node"] == node.check_output("hostname")


@pytest.mark.parametrize("unit", ["nginx.service", "prometheus-nginx-exporter.service", "logrotate.timer"])
def test_units_are_debians_with_our_word_last(node: Host, unit: str) -> None:
    assert_drop_in_prevails(node, unit)


def test_a_request_keeps_its_name(node: Host) -> None:
    assert ask(node, "/health", X_Request_ID="verify-12345").headers["X-Request-ID"] == "verify-12345"
    assert ask(node, "/health", X_Request_ID="no").headers["X-Request-ID"] != "no"


def test_a_host_that_is_not_ours_gets_no_answer(node: Host) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask(node, "/", Host="evil.example")


def test_the_answer_fits_who_asks(node: Host) -> None:
    """Only to be seen while the upstream is down, or its switch says so."""
    page, program = ask(node, "/health", Accept="text/html"), ask(node, "/health", Accept="*/*")
    if page.status_code in UPSTREAM_DOWN:
        assert page.headers["Content-Type"].startswith("text/html")
    if program.status_code in UPSTREAM_DOWN:
        assert program.json()["error"]["request_id"] == program.headers["X-Request-ID"]


def test_nginx_runs_from_boot_with_what_its_files_say(node: Host) -> None:
    said = node.run("nginx -t")
    assert said.rc == 0
    theirs = re.compile(r" in (?!/etc/nginx/nginx\.conf:|\S*/okome)/.+:\d+$")  # lines that are not ours
    assert not [line for line in said.stderr.splitlines() if "[warn]" in line and not theirs.search(line)]
    for name in ("nginx", "okome-probe", "okome-hitratio.timer", "prometheus-nginx-exporter"):
        assert node.service(name).is_enabled, name
        assert node.service(name).is_running, name
        assert node.service(name).systemd_properties["NeedDaemonReload"] == "no", name


def test_nothing_else_listens(node: Host) -> None:
    listening = {line.split()[3] for line in node.check_output("ss -Hltn").splitlines()}
    assert "0.0.0.0:80" in listening
    lan = {where for where in listening if not where.startswith(("127.", "[::1]"))}
    ours = {"0.0.0.0:80", "0.0.0.0:22", "[::]:22", DATA["nginx_exporter_listen"]}
    assert lan <= (ours | {"0.0.0.0:443"} if DATA["tls_certificate"] else ours)


def test_nothing_of_the_older_system_is_left(node: Host) -> None:
    assert node.check_output("find /etc/nginx -name 'kome-cache*'") == ""
    configuration = node.check_output("nginx -T 2>/dev/null")
    assert len(re.findall(r"^\s*limit_req_zone .*zone=api_limit:", configuration, re.MULTILINE)) == 1
    assert len(re.findall(r"default_server", configuration)) == (2 if DATA["tls_certificate"] else 1)


def test_the_gate_is_up_by_default_and_its_flag_is_in_ram(node: Host) -> None:
    assert "set $okome_upstream_ok 1;" in node.file("/etc/nginx/okome/health_state.conf").content_string
    assert node.check_output("findmnt -no FSTYPE -T %s", str(Path(DOWN_FLAG).parent)) == "tmpfs"
    flagged = node.file(DOWN_FLAG).exists
    assert json.loads(ask(node, "/okome/health").text)["upstream_ok"] == (0 if flagged else 1)


def test_streams_may_finish(node: Host) -> None:
    unit = node.service("nginx").systemd_properties
    assert f"QUIT/{DATA['drain_timeout_s']}" in unit["ExecStop"]
    patience = node.check_output("systemd-analyze timespan %ss", str(DATA["drain_timeout_s"] + 10))
    stop = node.check_output("systemctl show -P TimeoutStopUSec nginx")
    assert patience.endswith(f" Human: {stop}")
    assert f"\nworker_shutdown_timeout {DATA['drain_timeout_s']}s;" in node.check_output(
        "nginx -T 2>/dev/null"
    )


@pytest.mark.parametrize("unit", ["nginx", "okome-probe", "okome-hitratio"])
def test_the_sandbox_is_closed(node: Host, unit: str) -> None:
    verdict = node.check_output("systemd-analyze security --no-pager %s | tail -n 1", f"{unit}.service")
    assert float(re.findall(r": ([0-9.]+) ", verdict)[0]) <= 3.0, verdict


def test_the_probe_is_watched_and_has_a_user_of_its_own(node: Host) -> None:
    unit = node.service("okome-probe").systemd_properties
    assert (unit["Type"], unit["WatchdogUSec"], unit["Restart"]) == ("notify", "10s", "always")
    assert node.check_output("ps -o user= -p %s", unit["MainPID"]) not in ("root", "www-data")


def test_the_cache_is_where_and_as_big_as_it_should_be(node: Host) -> None:
    folder = node.file(CACHE)
    assert (folder.user, oct(folder.mode)) == ("www-data", "0o700")
    configuration = node.check_output("nginx -T 2>/dev/null")
    for words in (
        f"max_size={DATA['cache_max_mb']}m",
        f"min_free={DATA['cache_min_free_mb']}m",
        f"inactive={DATA['cache_inactive']}",
    ):
        assert words in configuration


def test_the_log_is_json_rotated_and_counted(node: Host) -> None:
    log = node.file(ACCESS_LOG)
    assert (log.user, log.group, oct(log.mode)) == ("www-data", "adm", "0o640")
    ask(node, "/okome/health")
    last = node.check_output(f"sleep 2; tail -n 1 {ACCESS_LOG}")
    assert json.loads(last)["node"] == node.check_output("hostname")
    assert "USR1" in node.file("/etc/logrotate.d/okome-nginx").content_string
    hours = node.check_output("systemctl show -P TimersCalendar logrotate.timer")
    assert hours.count("OnCalendar=") == 1, hours
    assert "OnCalendar=*-*-* *:00:00" in hours
    assert node.service("logrotate.timer").is_running
    node.check_output("systemctl start okome-hitratio.service")  # ends when the count does
    assert node.service("okome-hitratio.service").systemd_properties["Result"] == "success"
    # Not that it is 0: a power cut may leave half a line.
    assert "okome_log_unreadable_lines_total" in node.check_output(f"cat {STATE}/okome.prom")
    assert "all" in json.loads(node.check_output("runuser -u nobody -- okome-hitratio --json"))


def test_nginxs_numbers_are_exported(node: Host) -> None:
    url = f"http://{DATA['nginx_exporter_listen']}/metrics"
    script = f"import urllib.request as r; print(r.urlopen('{url}', timeout=10).read().decode())"
    assert "\nnginx_up 1" in node.check_output("python3 -c %s", script)
