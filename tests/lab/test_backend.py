"""Redis on a booted node: half-configured before, refused, drifted, interrupted, without its address."""

import tomllib
from pathlib import Path

import pytest

from operations.primitives.checkers import CHECKERS
from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change

STAMP = "/var/lib/okome/applied/redis-server.service.restart"


OLD_REDIS = """
apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy redis-server
redis-cli set old 1; redis-cli save; redis-cli config set appendonly yes
redis-cli config set requirepass old-secret; REDISCLI_AUTH=old-secret redis-cli config rewrite
timeout 60 sh -c 'until REDISCLI_AUTH=old-secret redis-cli info persistence | grep -q aof_rewrite_in_progress:0 &&
    test -e /var/lib/redis/appendonlydir/appendonly.aof.manifest; do sleep 0.1; done'
test -e /var/lib/redis/dump.rdb; head -c 3000000 /dev/zero >/var/lib/redis/big
echo 'user default on nopass ~* +@all' >/etc/redis/users.acl
"""
# Another's server on the port, and a disk for what is to be kept that has less room than that takes.
IN_THE_WAY = """
systemctl stop redis-server
systemd-run -q --unit=valkey-server -- python3 -m http.server 6379
timeout 30 sh -c 'until ss -Hltn "sport = :6379" | grep -q .; do sleep 0.1; done'
mkdir -p /var/lib/okome && mount -t tmpfs -o size=2M tmpfs /var/lib/okome
"""
OUT_OF_THE_WAY = "umount /var/lib/okome; systemctl stop valkey-server; systemctl start redis-server"
# It can't save at first: then Redis does not stop, and has to be asked again.
CAN_NOT_SAVE = """
REDISCLI_AUTH=old-secret redis-cli set unsaved 1
chown root: /var/lib/redis
systemd-run -q -- sh -c 'until grep -q "can.t exit" /var/log/redis/redis-server.log; do sleep 0.1; done
    chown redis: /var/lib/redis'
systemctl mask redis-server
"""
REPLACED = "/var/lib/okome/replaced"


@pytest.fixture(scope="module")
def backend(lab: Lab) -> Lab:
    """CN01, made of a node where somebody ran Debian's Redis with all that we don't want: itself a test."""
    address = lab.fresh()
    lab.execute("sh", "-ec", OLD_REDIS + IN_THE_WAY)
    before = files(lab)
    refused = lab.deploy(address=address)
    assert refused.status != 0
    for sentence in (
        "port 6379, which Redis needs, is taken by python3 (pid ",
        "`systemctl disable --now valkey-server.service`, or choose another redis_port",
        "what is in /var/lib/redis (2 MiB) is to be kept below /var/lib/okome/replaced, and there is room for",
    ):
        assert sentence in refused.output
    assert "Starting operation" not in refused.output
    assert "Traceback" not in refused.output
    assert files(lab) == before

    lab.execute("sh", "-ec", OUT_OF_THE_WAY)
    old = lab.execute("sh", "-c", "sha256sum /etc/redis/redis.conf; cat /etc/redis/users.acl")
    lab.execute("sh", "-ec", CAN_NOT_SAVE)
    run = lab.deploy(address=address)
    assert run.status == 0, run.output
    assert lab.execute("grep", "-c", "exit", "/var/log/redis/redis-server.log").strip() != "0"
    assert (
        "another Redis gives way; /etc/redis/redis.conf and /etc/redis/users.acl and /var/lib/redis are kept"
        f" below {REPLACED}"
    ) in run.output
    assert lab.execute("redis-admin", "exists", "old").strip() == "0"
    assert lab.execute("find", "/var/lib/redis", "-mindepth", "1") == ""
    # Both are there, root's alone, and what was in memory only has been saved.
    assert lab.execute("stat", "-c", "%a %U", REPLACED).split() == ["700", "root"]
    kept = f"cd {REPLACED}; sha256sum /$PWD/etc/redis/redis.conf; cat etc/redis/users.acl"
    assert lab.execute("sh", "-ec", kept).replace(f"/{REPLACED}", "") == old
    data = f"{REPLACED}/var/lib/redis"
    assert lab.execute("ls", data).split() == ["appendonlydir", "big", "dump.rdb"]
    assert lab.execute("grep", "-rlF", "unsaved", f"{data}/appendonlydir")

    again = lab.deploy()
    assert_no_change(again)
    assert "gives way" not in again.output
    return lab


def started(lab: Lab) -> str:
    """Names this start of Redis."""
    return lab.execute("systemctl", "show", "-p", "InvocationID", "redis-server")


def files(lab: Lab) -> list[str]:
    """Mode, owner, path and content of everything that a deploy of the backend could have changed."""
    listing = lab.execute(
        "find", "/etc/redis", "/var/lib/okome", "/usr/local", "/etc/systemd/system",
        "-type", "f", "-printf", "%m %u %g %p ", "-exec", "sha256sum", "{}", ";",
    )  # fmt: skip
    return sorted(listing.splitlines())


def test_debians_configuration_never_runs(lab: Lab) -> None:
    """Nothing is loaded, saved or listened on before our configuration is there."""
    run = lab.deploy(address=lab.fresh())
    assert run.status == 0, run.output
    journal = lab.execute("journalctl", "-q", "--no-pager", "-o", "cat", "-u", "redis-server").splitlines()
    assert "skipped because of an unmet condition" in journal[0]
    assert sum("Redis is starting" in line for line in journal) == 1
    assert not any("DB saved" in line or "RDB" in line for line in journal)
    assert "redis-server" not in lab.execute("find", "/var/log/redis", "-type", "f")


def test_finished(backend: Lab) -> None:
    backend.verify("tests/verify/test_backend.py")


THEIRS = """
mkdir -p /srv/cache; echo 'port 6379' >/srv/cache/redis.conf
printf '[Service]\nExecStart=\nExecStart=/usr/bin/redis-server /srv/cache/redis.conf --supervised systemd\n' \
    >/etc/systemd/system/redis-server.service.d/zzz.conf
systemctl daemon-reload; systemctl restart redis-server
"""
OURS = "rm /etc/systemd/system/redis-server.service.d/zzz.conf; systemctl daemon-reload; systemctl restart redis-server"


def test_verification_sees_that_another_configuration_runs(backend: Lab) -> None:
    """Every file of ours is as it should be; a drop-in that came later says what runs."""
    question = [
        "tests/verify/test_backend.py",
        "-k",
        "with_our_configuration or persistent or without_a_password",
    ]
    backend.execute("sh", "-ec", THEIRS)
    try:
        said = backend.verify(*question, check=False)
    finally:
        backend.execute("sh", "-ec", OURS)
    for failed in (
        "what_runs_is_debians_server",
        "nothing_is_persistent",
        "let_in_without_a_password[cn01-PING]",
    ):
        assert f"{failed}" in said.partition("short test summary")[2]
    backend.verify(*question)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("redis_application_rights=a b", "/etc/redis/users.acl:4: Syntax error"),
        ("redis_maxmemory=900gb", "redis_maxmemory = '900gb' does not fit"),
        ("redis_maxmemory=plenty", "it has to be an amount such as"),
    ],
)
def test_what_redis_or_the_node_can_not_take_is_refused_and_changes_nothing(
    backend: Lab, data: str, sentence: str
) -> None:
    before, start = files(backend), started(backend)
    run = backend.deploy("--data", data)
    assert run.status != 0
    assert sentence in run.output
    assert "Traceback" not in run.output
    assert files(backend) == before
    assert started(backend) == start


def test_without_secrets_one_sentence_and_nothing_changes(backend: Lab) -> None:
    before = files(backend)
    words = [
        "env",
        "OKOME_SECRETS=/nonexistent/secrets.toml",
        "pyinfra",
        "-y",
        "inventory.py",
        "deploys/cn01.py",
    ]
    output = backend("run", "--", *words, check=False)
    assert "no secrets: run `make secrets`" in output
    assert "Traceback" not in output
    assert "Beginning operation run" not in output
    assert files(backend) == before


def test_drift_is_put_right_and_redis_restarted(backend: Lab) -> None:
    """Also where Redis was told of the drift: the stamp alone would say that all is well."""
    before = files(backend)
    backend.execute(
        "sh", "-c", "echo 'maxmemory 1gb' >> /etc/redis/redis.conf && systemctl restart redis-server"
    )
    assert "1073741824" in backend.execute("redis-admin", "config", "get", "maxmemory")
    run = backend.deploy()
    assert (run.status, run.changed) == (0, 2), run.output
    assert "4294967296" in backend.execute("redis-admin", "config", "get", "maxmemory")
    assert files(backend) == before
    assert_no_change(backend.deploy())


def test_a_restart_that_was_missed_is_made_good(backend: Lab) -> None:
    """The run died after the files were swapped: on disk nothing differs, in the process it does."""
    backend.execute("rm", STAMP)
    start = started(backend)
    run = backend.deploy()
    assert (run.status, run.changed) == (0, 1), run.output
    assert started(backend) != start
    assert_no_change(backend.deploy())


def test_a_swap_that_was_cut_short_is_undone_and_done_again(backend: Lab) -> None:
    """The journal says "swapping": redis.conf is the new one already, and was never checked."""
    before = files(backend)
    backend.execute(
        "sh", "-ec",
        "cd /etc/redis; cp -p redis.conf .redis.conf.okome.dpkg-old; echo '# old' >> .redis.conf.okome.dpkg-old;"
        " echo '{\"phase\": \"swapping\", \"files\": [[\"/etc/redis/redis.conf\", true]]}'"
        " > /var/lib/okome/journal",
    )  # fmt: skip
    run = backend.deploy()
    assert run.status == 0, run.output
    assert files(backend) == before
    assert_no_change(backend.deploy())


@pytest.mark.parametrize("words", ["stop", "disable --now", "mask --now"])
def test_a_service_that_was_turned_off_runs_again(backend: Lab, words: str) -> None:
    backend.execute("systemctl", *words.split(), "redis-server")
    run = backend.deploy()
    assert (run.status, run.changed) == (0, 1), run.output
    assert backend.execute("systemctl", "is-enabled", "redis-server").strip() == "enabled"
    assert backend.execute("redis-admin", "ping").strip() == "PONG"
    assert_no_change(backend.deploy())


LATE_ADDRESS = r"""
link=$(ip -o -4 route show default | sed 's/.* dev \([^ ]*\).*/\1/')
systemctl stop redis-server
nmcli device disconnect "$link" >&2
systemctl start --no-block redis-server
tries=0
while [ "$(systemctl show -p NRestarts --value redis-server)" -lt 6 ] && [ $((tries += 1)) -le 300 ]; do
    ss -Hltn sport = :6379
    sleep 0.1
done
systemctl show -p NRestarts --value redis-server
nmcli device connect "$link" >&2
timeout 60 sh -c 'until systemctl is-active -q redis-server; do sleep 0.2; done'
"""


def test_the_address_may_be_late(backend: Lab) -> None:
    """Redis waits for it, longer than systemd's start limit would let it, and never on loopback alone."""
    said = backend.execute("sh", "-ec", LATE_ADDRESS).splitlines()
    assert len(said) == 1, f"listened without its address: {said}"
    assert int(said[0]) >= 6
    backend.verify("tests/verify/test_backend.py", "-k", "listens or application_has_its_cache")
    assert_no_change(backend.deploy())


def test_no_secret_is_ever_shown(backend: Lab) -> None:
    """Not at the loudest, not while the files that come of them are changed."""
    file = next(
        word.partition("=")[2]
        for word in backend("run", "--", "env").split("\n")
        if word.startswith("OKOME_SECRETS=")
    )
    secrets = tomllib.loads(Path(file).read_text()).values()
    assert secrets
    backend.execute("rm", "/etc/redis/users.acl")
    command = ["run", "--", "pyinfra", "inventory.py", "deploys/cn01.py", "-vvv", "--debug", "--diff"]
    output = backend(*command, "--debug-operations", check=False) + backend(*command, "-y", check=False)
    assert output.count("Redis configuration") > 2
    assert not any(secret in output for secret in secrets)
    hashes = [word for word in backend.execute("cat", "/etc/redis/users.acl").split() if word.startswith("#")]
    assert len([word for word in hashes if len(word) == 65]) == len(secrets)
    assert not any(word[1:] in output for word in hashes if len(word) == 65)
    assert_no_change(backend.deploy())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("Restrat=always", "zz-bad.conf:2: Unknown key"),
        ("RestartSec=soon", "zz-bad.conf:2: Failed to parse"),
    ],
)
def test_a_bad_drop_in_is_refused(backend: Lab, line: str, complaint: str) -> None:
    path = "/etc/systemd/system/redis-server.service.d/zz-bad.conf"
    check = ["sh", "-c", CHECKERS["systemd"], "check", path]
    assert backend.execute(*check) == ""
    backend.execute("sh", "-c", f"printf '[Service]\\n%s\\n' '{line}' > {path}")
    try:
        assert complaint in backend.execute(*check, check=False)
    finally:
        backend.execute("rm", path)


UNIT_DEPLOY = "tests/lab/unit/cn01.py"
DOOMED = {
    "dies": ("Type=simple", "echo famous last words; sleep 1; exit 1"),
    "never-ready": ("Type=notify\nTimeoutStartSec=60", "echo famous last words; exec sleep 60"),
}


@pytest.mark.parametrize("name", DOOMED)
def test_a_unit_that_does_not_stay_up_is_told_of_with_its_last_words(backend: Lab, name: str) -> None:
    kind, script = DOOMED[name]
    text = f"[Service]\n{kind}\nExecStart=/bin/sh -c '{script}'\n[Install]\nWantedBy=multi-user.target\n"
    backend.execute("sh", "-c", f'printf %s "$1" > /etc/systemd/system/{name}.service', "sh", text)
    try:
        run = backend.deploy(deploy=UNIT_DEPLOY, env=(f"UNIT={name}",))
        assert run.status != 0
        assert f"{name}.service did not stay up after a restart; its last words:" in run.output
        assert "famous last words" in run.output
        assert "Traceback" not in run.output
    finally:
        backend.execute("systemctl", "disable", "--now", name)
        backend.execute("rm", f"/etc/systemd/system/{name}.service")


def test_an_alias_is_the_unit_that_it_names(backend: Lab) -> None:
    assert_no_change(backend.deploy(deploy=UNIT_DEPLOY, env=("UNIT=redis",)))


def test_a_unit_that_does_not_exist_is_named(backend: Lab) -> None:
    run = backend.deploy(deploy=UNIT_DEPLOY, env=("UNIT=nonsuch",))
    assert run.status != 0
    assert "nonsuch.service does not exist" in run.output
