"""A backend whose owner set things over ours: before the first deploy, on the finished node, and at the next boot."""

import re

import pytest

from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change

ETC = "/etc/systemd/system"
DROP_INS = f"{ETC}/redis-server.service.d"
REPLACED = "/var/lib/okome/replaced"
# As `systemctl edit redis-server` writes it.
THEIRS = """[Service]
ExecStart=
ExecStart=/usr/bin/redis-server /srv/cache/redis.conf --supervised systemd --daemonize no
Restart=no
"""
# About more than what is ours: not ours to remove.
SHARED = {
    f"{ETC}/service.d/zzz.conf": "[Service]\nRestart=no\n",
    "/run/systemd/system/redis-.service.d/zzz.conf": "[Service]\nMemoryMax=1G\n",
    "/etc/cloud/cloud.cfg.d/zzz.cfg": "# ours?\npreserve_hostname: false\n",
    "/etc/sysctl.d/zzz.conf": "# ours?\nnet/core/somaxconn = 128\n",
    "/etc/apt/apt.conf": 'DPkg::Lock::Timeout "1";\n',
}
# What loses by its name, and what says nothing about ours.
LOSES = {
    "/etc/systemd/journald.conf.d/99-persistent.conf": "[Journal]\nStorage=persistent\n",
    f"{DROP_INS}/limits.conf": "[Service]\nCPUWeight=50\n",
}


def put(lab: Lab, files: dict[str, str]) -> None:
    for path, text in files.items():
        lab.execute("sh", "-ec", 'mkdir -p "${1%/*}"; printf %s "$2" >"$1"', "sh", path, text)


def assert_runs_ours(lab: Lab) -> None:
    says = lab.execute("redis-admin", "--raw", "info", "server").split()
    assert "config_file:/etc/redis/redis.conf" in says


@pytest.fixture(scope="module")
def bare(lab: Lab) -> str:
    address = lab.fresh()
    put(lab, LOSES | {"/srv/cache/redis.conf": "bind 127.0.0.1\nport 6379\nprotected-mode no\n"})
    lab.execute("sh", "-c", "echo net.core.somaxconn = 128 >>/etc/sysctl.conf")
    put(lab, {f"{ETC}/redis.service.d/override.conf": THEIRS})
    return address


@pytest.fixture(scope="module")
def refused(lab: Lab, bare: str) -> str:
    put(lab, SHARED)
    run = lab.deploy(address=bare)
    assert run.status != 0
    assert lab.execute("hostname").strip() == "raspberrypi"
    assert "okome" not in lab.execute("find", "/etc", "/var/lib", "/usr/local")
    lab.execute("rm", *SHARED)
    return run.output


@pytest.fixture(scope="module")
def finished(lab: Lab, bare: str, refused: str) -> Lab:
    run = lab.deploy(address=bare)
    assert (run.status, run.errors) == (0, 0), run.output
    assert f"{ETC}/redis.service.d/override.conf:2 sets ExecStart of redis-server.service" in run.output
    return lab


def test_what_is_about_others_too_is_named_all_at_once(refused: str) -> None:
    assert f"{ETC}/service.d/zzz.conf:2 sets Restart of redis-server.service over ours" in refused
    assert "/run/systemd/system/redis-.service.d/zzz.conf:2 sets MemoryMax of redis-server" in refused
    assert "/etc/cloud/cloud.cfg.d/zzz.cfg:2 sets preserve_hostname over ours" in refused
    assert "/etc/sysctl.d/zzz.conf:2 sets net/core/somaxconn" in refused
    assert "/etc/apt/apt.conf:1 says 'DPkg::Lock::Timeout \"1\";'" in refused
    assert "Traceback" not in refused


def test_what_was_there_before_gave_way_or_lost(finished: Lab) -> None:
    assert finished.execute("cat", f"{REPLACED}{ETC}/redis.service.d/override.conf") == THEIRS
    assert_runs_ours(finished)
    for path, text in LOSES.items():
        assert finished.execute("cat", path) == text
    assert_no_change(finished.deploy())


def test_on_a_finished_node_they_give_way_and_redis_is_told(finished: Lab) -> None:
    put(finished, {f"{DROP_INS}/override.conf": THEIRS})
    finished.execute("sh", "-ec", "systemctl daemon-reload; systemctl restart redis-server")
    says = finished.execute("redis-cli", "info", "server").split()
    assert "config_file:/srv/cache/redis.conf" in says
    dry = finished.deploy("--dry")
    assert f"{DROP_INS}/override.conf:2 sets ExecStart of redis-server.service" in dry.output
    run = finished.deploy()
    assert (run.status, run.changed, run.errors) == (0, 3, 0), run.output
    assert_runs_ours(finished)
    assert finished.execute("cat", f"{REPLACED}{DROP_INS}/override.conf") == THEIRS
    assert_no_change(finished.deploy())


def test_so_does_a_unit_of_their_own_and_what_the_running_systemd_was_told(finished: Lab) -> None:
    finished.execute(
        "sh", "-ec",
        f"sed s,/etc/redis/,/srv/cache/, /usr/lib/systemd/system/redis-server.service >{ETC}/redis-server.service;"
        " systemctl daemon-reload; systemctl set-property --runtime redis-server CPUWeight=60 MemoryMax=1G;"
        " d=/run/systemd/system.control/redis-server.service.d;"
        " printf '[Service]\\nUser=nobody\\n' >$d/zz.conf; systemctl restart redis-server || true",
    )  # fmt: skip
    run = finished.deploy()
    assert run.status == 0, run.output
    assert f"{ETC}/redis-server.service stands in for redis-server.service" in run.output
    assert (
        "/run/systemd/system.control/redis-server.service.d/zz.conf:2 sets User of redis-server" in run.output
    )
    assert re.search(r"/50-MemoryMax\.conf:\d+ sets MemoryMax of redis-server", run.output)
    assert (
        finished.execute("systemctl", "show", "-p", "MemoryMax", "--value", "redis-server").strip()
        == "infinity"
    )
    assert_runs_ours(finished)
    assert "50-CPUWeight.conf" in finished.execute("ls", "/run/systemd/system.control/redis-server.service.d")
    assert_no_change(finished.deploy())


# Each hides or changes a file of ours; what is undone is seen by systemd at the end.
HIDDEN = f"""
mkdir -p /etc/systemd/system.control/redis-server.service.d {ETC}/okome-address-revert.service.d
ln -s /dev/null /etc/systemd/system.control/redis-server.service.d/zz-okome.conf
printf '[Service]\\nExecStart=\\nExecStart=true\\n' > {ETC}/okome-address-revert.service.d/override.conf
ln -s /dev/null /etc/systemd/system.control/okome-address-revert.service
ln -s /nowhere {DROP_INS}/zzz.conf
systemctl daemon-reload
systemctl restart redis-server || true
"""


def test_what_hides_ours_gives_way(finished: Lab) -> None:
    finished.execute("sh", "-ec", HIDDEN)
    run = finished.deploy()
    assert (run.status, run.errors) == (0, 0), run.output
    control = "/etc/systemd/system.control"
    for path in (
        f"{control}/redis-server.service.d/zz-okome.conf stands in for {DROP_INS}/zz-okome.conf",
        f"{control}/okome-address-revert.service stands in for okome-address-revert.service",
        f"{DROP_INS}/zzz.conf leads nowhere",
        f"{ETC}/okome-address-revert.service.d/override.conf:2 sets ExecStart of okome-address-revert.service",
    ):
        assert path in run.output
    assert_runs_ours(finished)
    assert_no_change(finished.deploy())
    finished.verify()


def test_a_mask_is_taken_away_wherever_it_stands(finished: Lab) -> None:
    finished.execute("systemctl", "mask", "--now", "logrotate.timer")
    finished.execute("systemctl", "mask", "--runtime", "--now", "redis-server", "logrotate.timer")
    run = finished.deploy()
    assert (run.status, run.errors) == (0, 0), run.output
    active = finished.execute("systemctl", "is-active", "redis-server", "logrotate.timer")
    assert active.split() == ["active", "active"]
    assert_no_change(finished.deploy())


def test_at_the_next_boot_ours_win_and_who_is_still_starting_is_no_change(finished: Lab) -> None:
    finished("power", "cn01", "cut")
    finished("power", "cn01", "on")
    assert_no_change(finished.deploy())
    finished.verify()
