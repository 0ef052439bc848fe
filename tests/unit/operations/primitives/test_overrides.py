"""What of a stranger's files wins over ours, told from the files alone."""

from types import SimpleNamespace

import pytest

import operations.primitives.overrides as module
from facts.overrides import NOWHERE, VENDOR, parse
from operations.primitives.config_set import ConfigFile
from operations.primitives.managed import MARK
from operations.primitives.overrides import Setting, look, overriding, prevailing, settings
from operations.services import redis
from operations.services.journal import JOURNALD as JOURNALD_SET
from operations.services.kernel import SYSCTL as SYSCTL_SET

UNIT = "redis-server.service"
ETC = "/etc/systemd/system"
DROP_IN = f"{ETC}/{UNIT}.d/zz-okome.conf"
OURS = {
    DROP_IN: f"{MARK}\n[Unit]\nConditionPathExists=/a\nAfter=b.target\n"
    "[Service]\nExecStartPre=+/c\nRestart=always\nReadWritePaths=\nReadWritePaths=/d\n"
}
# Of what Debian's unit says, a part.
PACKAGED = {
    f"{VENDOR}/{UNIT}": "[Unit]\nAfter=network.target\n[Service]\nType=notify\nExecStart=/usr/bin/redis-server \\\n"
    "  ProtectHome=no\nUser=redis\nProtectSystem=strict\nMemoryDenyWriteExecute=true\n"
    "Restart=always\nReadWritePaths=-/e\n"
}


def wins(path: str, text: str, packaged: dict[str, str] = PACKAGED) -> list[tuple[str, bool]]:
    found = overriding({**packaged, DROP_IN: OURS[DROP_IN], path: text}, OURS, ("redis.service",))
    return [(str(one), one.own) for one in found]


# As `systemctl edit` writes it.
CASE = "# by hand\n[Service]\nExecStart=\nExecStart=/usr/bin/redis-server /srv/redis.conf\nRestart=no\n"


@pytest.mark.parametrize(
    "root",
    ["/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/transient"],
)
@pytest.mark.parametrize("unit", [UNIT, "redis.service"])
def test_what_runs_is_ours_to_say_wherever_a_drop_in_stands(root: str, unit: str) -> None:
    path = f"{root}/{unit}.d/override.conf"
    assert wins(path, CASE) == [(f"{path}:3 sets ExecStart of {UNIT}", True)]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        # Ours is read later, so what both say is ours …
        ("override.conf", "[Service]\nRestart=no\n", None),
        ("override.conf", "[Service]\nReadWritePaths=/x\n", None),
        # … but not in a list that ours adds to, or in another section, or of the package's that ours leaves alone.
        ("override.conf", "[Service]\nExecStartPre=/x\n", 2),
        ("override.conf", "[Unit]\nConditionPathExists=/x\n", 2),
        ("override.conf", "[Service]\nProtectSystem=no\n", 2),
        ("override.conf", "\n; a\n[Service]\n# b\nNice=1\nType=simple\n", 6),
        ("override.conf", "[Service]\nMemoryDenyWriteExecute=no\n", 2),
        # Read after ours.
        ("zzz.conf", "[Service]\nRestart=no\n", 2),
        ("zzz.conf", "[Service]\nReadWritePaths=/x\n", 2),
        ("zzz.conf", "[Unit]\nAfter=x.target\nWants=x.target\n", None),
        # Nobody's business but theirs.
        ("zzz.conf", "[Service]\nMemoryLow=6G\nNice=1\nStartupCPUWeight=10\nIOAccounting=yes\n", None),
        ("zzz.conf", "[Service]\nExecReload=/x\n", 2),
        ("zzz.conf", "[Service]\nNice=1\\\nRestart=no\n", None),
        ("zzz.conf", f"{MARK}\n[Service]\nRestart=no\n", None),  # another set of ours
    ],
)  # fmt: skip
def test_a_drop_in_wins_by_its_name_and_by_what_it_says(name: str, text: str, line: int | None) -> None:
    path = f"{ETC}/{UNIT}.d/{name}"
    found = wins(path, text)
    assert [one.partition(" ")[0] for one, _ in found] == ([f"{path}:{line}"] if line else [])
    assert all(own for _, own in found)


def test_before_the_package_is_there_nobody_knows_what_it_will_say() -> None:
    path = f"{ETC}/{UNIT}.d/a.conf"
    assert wins(path, "[Service]\nUser=x\n", packaged={}) == [(f"{path}:2 sets User of {UNIT}", True)]
    assert wins(path, "[Service]\nMemoryLow=6G\nCPUWeight=50\n", packaged={}) == []
    assert wins(f"{ETC}/service.d/a.conf", "[Service]\nUser=x\n", packaged={}) == []


@pytest.mark.parametrize("packaged", [PACKAGED, {}])
@pytest.mark.parametrize(
    ("setting", "win"),
    [
        ("MemoryMax=1G", True),
        ("MemoryHigh=80%", True),
        ("MemorySwapMax=0", True),
        ("CPUQuota=20%", True),
        ("AllowedCPUs=0", True),
        ("TasksMax=10", True),
        ("IOReadBandwidthMax=/dev/mmcblk0 1M", True),
        ("LimitNOFILE=256", True),
        ("RuntimeMaxSec=1d", True),
        ("Slice=small.slice", True),
        ("MemoryMax=infinity", False),
        ("CPUQuota=", False),
    ],
)
def test_a_limit_wins_whatever_its_files_name(packaged: dict[str, str], setting: str, win: bool) -> None:
    """As `systemctl set-property` leaves it, too."""
    key = setting.partition("=")[0]
    for folder, own in ((f"{UNIT}.d", True), ("redis-.service.d", False)):
        path = f"/etc/systemd/system.control/{folder}/50-{key}.conf"
        told = [(f"{path}:2 sets {key} of {UNIT}", own)] if win else []
        assert wins(path, f"[Service]\n{setting}\n", packaged) == told


@pytest.mark.parametrize("folder", ["service.d", "redis-.service.d"])
def test_what_is_about_others_too_is_not_ours_to_remove(folder: str) -> None:
    path = f"{ETC}/{folder}/zzz.conf"
    assert wins(path, "[Service]\nRestart=no\n") == [(f"{path}:2 sets Restart of {UNIT}", False)]
    assert wins(path.replace("zzz", "a"), "[Service]\nRestart=no\n") == []
    assert wins(path.replace("zzz", "zz-okome"), "[Service]\nRestart=no\n") == []  # hidden by ours


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (f"{ETC}/{UNIT}", True),
        ("/run/systemd/system/redis.service", True),
        (f"/etc/systemd/system.control/{UNIT}.d/zz-okome.conf", True),
    ],
)
def test_a_file_may_stand_in_for_the_whole(path: str, own: bool) -> None:
    ((sentence, found),) = wins(path, "")
    assert sentence.startswith(f"{path} stands in for ")
    assert found == own


@pytest.mark.parametrize(
    "path",
    [
        f"/run/systemd/system/{UNIT}.d/zz-okome.conf",
        "/etc/systemd/system.control/service.d/zz-okome.conf",
        f"{ETC}/nginx.service.d/zzz.conf",
        f"{ETC}/timer.d/zzz.conf",
        f"{ETC}/x.service",
        f"/srv/{UNIT}",
    ],
)
def test_what_is_hidden_or_about_something_else_does_not_win(path: str) -> None:
    assert wins(path, "[Service]\nExecStart=/x\nRestart=no\n") == []


@pytest.mark.parametrize("folder", [f"{UNIT}.d", "service.d"])
def test_what_its_owner_hides_behind_another_of_its_name_is_not_read(folder: str) -> None:
    """As a link to /dev/null does."""
    later = f"/run/systemd/system/{folder}/zzz.conf"
    assert wins(later, "[Service]\nRestart=no\n") != []
    assert wins(later, "[Service]\nRestart=no\n", {**PACKAGED, f"{ETC}/{folder}/zzz.conf": ""}) == []


def test_a_link_to_nowhere_goes_or_is_named() -> None:
    """systemd takes a unit for changed as long as there is one."""
    told = f"leads nowhere, which {UNIT} would have to be told of for ever"
    for folder, own in ((f"{UNIT}.d", True), ("service.d", False)):
        path = f"{ETC}/{folder}/a.conf"
        assert wins(path, NOWHERE) == [(f"{path} {told}", own)]
    path = f"{ETC}/service.d/a.conf"
    looked = look({"redis_port": 1}, redis.SERVICE, aliases=redis.ALIASES)
    assert looked.findings({path: NOWHERE}) == [f"{path} {told}: remove it"]


def test_over_a_unit_of_our_own_any_drop_in_wins() -> None:
    whole = {f"{ETC}/okome-probe.service": "[Service]\nRestart=always\n"}
    path = f"{ETC}/okome-probe.service.d/a.conf"
    (again,) = overriding({path: "[Service]\nRestart=no\n"}, whole)
    assert str(again) == f"{path}:2 sets Restart of okome-probe.service"
    (one,) = overriding({**whole, path: "[Service]\nUMask=0\n"}, whole)
    assert (str(one), one.own) == (f"{path}:2 sets UMask of okome-probe.service", True)
    assert overriding({path: "[Unit]\nAfter=x\n"}, whole) == ()


JOURNALD = {"/etc/systemd/journald.conf.d/zz-okome.conf": "[Journal]\nStorage=volatile\n"}


def test_the_journal_is_kept_where_the_last_name_says() -> None:
    persistent = "[Journal]\nStorage=persistent\n"
    assert overriding({"/etc/systemd/journald.conf.d/99-persistent.conf": persistent}, JOURNALD) == ()
    for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib"):
        path = f"{folder}/systemd/journald.conf.d/zzz.conf"
        ((one),) = overriding({path: persistent}, JOURNALD)
        assert (str(one), one.own) == (f"{path}:2 sets Storage", True)
        assert overriding({path: "[Journal]\nAudit=no\n"}, JOURNALD) == ()
    hidden = {"/usr/lib/systemd/journald.conf.d/zzz.conf": persistent}
    assert overriding({"/etc/systemd/journald.conf.d/zzz.conf": ""} | hidden, JOURNALD) == ()
    assert overriding({"/etc/sysctl.d/zzz.conf": ""} | hidden, JOURNALD) != ()


RESOLVED = {"/etc/systemd/resolved.conf.d/zz-okome.conf": "[Resolve]\nLLMNR=no\n"}


def test_so_are_names_looked_for() -> None:
    for name, win in (("99-local", False), ("zzz", True)):
        path = f"/etc/systemd/resolved.conf.d/{name}.conf"
        found = overriding({path: "[Resolve]\nLLMNR=yes\n"}, RESOLVED)
        assert [(str(one), one.own) for one in found] == ([(f"{path}:2 sets LLMNR", True)] if win else [])


KERNEL = {"/etc/sysctl.d/zz-okome.conf": "net.core.somaxconn = 4096\nnet.ipv4.conf.eth0/1.rp_filter = 1\n"}


@pytest.mark.parametrize(
    ("name", "line", "win"),
    [
        ("99-sysctl.conf", "net.core.somaxconn = 128", False),
        ("zz-okome.conf", "net.core.somaxconn = 128", False),  # hidden by ours, which is in /etc
        ("zzz.conf", "net.core.somaxconn = 128", True),
        ("zzz.conf", "-net/core/somaxconn = 128", True),
        ("zzz.conf", "net.core.* = 128", True),
        ("zzz.conf", "net/ipv4/conf/eth0.1/rp_filter=0", True),
        ("zzz.conf", "net.core.somaxconn_else = 128", False),
        ("zzz.conf", "# net.core.somaxconn = 128", False),
    ],
)
def test_a_kernel_setting_is_the_last_files_however_its_key_is_written(
    name: str, line: str, win: bool
) -> None:
    path = f"/run/sysctl.d/{name}"
    found = overriding({path: f"{line}\n"}, KERNEL)
    key = line.split("=")[0].strip()
    assert [(str(one), one.own) for one in found] == ([(f"{path}:1 sets {key}", False)] if win else [])


APT = {"/etc/apt/apt.conf.d/zz-okome": ""}


@pytest.mark.parametrize(
    ("path", "line", "win"),
    [
        ("/etc/apt/apt.conf", 'DPkg::Lock::Timeout "1";', True),
        ("/etc/apt/apt.conf", 'DPkg { Options { "--force-confnew"; }; };', True),
        ("/etc/apt/apt.conf", '// DPkg::Lock::Timeout "1";', False),
        ("/etc/apt/apt.conf", 'Acquire::Retries "3";', False),
        ("/etc/apt/apt.conf.d/zzz", 'dpkg::lock::timeout "1";', True),
        ("/etc/apt/apt.conf.d/99local", 'DPkg::Options { "--force-confnew"; };', False),
    ],
)
def test_apt_reads_its_own_file_after_the_folder(path: str, line: str, win: bool) -> None:
    found = overriding({path: f"\n{line}\n"}, APT)
    assert [(str(one), one.own) for one in found] == ([(f"{path}:2 says {line!r}", False)] if win else [])


def test_the_preflight_says_what_is_not_ours_to_remove_and_what_to_do() -> None:
    found = {
        "/etc/sysctl.d/zzz.conf": "vm.swappiness=60\n",
        "/etc/systemd/journald.conf.d/zzz.conf": "[Journal]\nStorage=none\n",
    }
    looked = look({"sysctl_settings": {"vm.swappiness": "1"}, "journal_max": "1M"}, JOURNALD_SET, SYSCTL_SET)
    assert looked.findings(found) == [
        "/etc/sysctl.d/zzz.conf:1 sets vm.swappiness over ours, and says more than that:"
        " take it out, or give the file a name that sorts before ours"
    ]


def test_all_that_wins_is_told_once_for_each_file() -> None:
    found = {f"{ETC}/{UNIT}.d/{name}.conf": CASE for name in "ab"}
    assert [one.path for one in overriding({**PACKAGED, **found}, OURS)] == list(found)


def test_lines_of_a_unit() -> None:
    assert list(settings("[A]\n b = c=d \n[B]\n;x=1\ne=\\\n # f\\\n g=1\nh=2\n")) == [
        Setting("A", "b", "c=d", 2),
        Setting("B", "e", "\\", 5),
        Setting("B", "h", "2", 8),
    ]


def test_a_file_is_its_lines() -> None:
    assert parse(["/a", " x", " ", "  y", "/b", "/c c", " z"]) == {"/a": "x\n\n y\n", "/b": "", "/c c": "z\n"}


def test_what_is_ours_to_remove_goes_with_our_set_and_a_copy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{ETC}/{UNIT}.d/override.conf"
    found = {own: CASE, f"{ETC}/service.d/zzz.conf": "[Service]\nRestart=no\n"}
    copies: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "seen", lambda *_, **__: found)
    monkeypatch.setattr(module, "host_data", lambda: {"redis_port": 1})
    monkeypatch.setattr(module, "host", SimpleNamespace(print_prefix=""))
    monkeypatch.setattr(module, "kept_aside", lambda name, paths: copies.append(paths))
    config = prevailing(redis.SERVICE, redis.ALIASES)
    assert config.files == (*redis.SERVICE.files, ConfigFile(own, absent=True))
    assert copies == [(own,)]
    found.clear()
    assert prevailing(redis.SERVICE, redis.ALIASES) == redis.SERVICE
    assert len(copies) == 1
