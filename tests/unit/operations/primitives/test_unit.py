"""What a unit has to be told, from what systemd and the stamps say; and the shell that tells it, run for real."""

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.api import OperationError, StringCommand

import operations.primitives.unit as module
from facts.several import Question
from facts.units import UnitState, UnitStates
from operations.primitives.checkers import CHECK_SECONDS, CHECKERS
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.unit import (
    QUIET,
    STAMP,
    TELL,
    Check,
    Stamp,
    Step,
    Systemctl,
    Tell,
    Unless,
    boot_command,
    canonical,
    commands,
    due,
    shell,
    steps,
)

RUNNING = UnitState("x.service", "loaded", "active", "enabled", need_daemon_reload=False)
# The drop-in needs a restart, the configuration a reload.
DROP_IN = ConfigSet((ConfigFile("/etc/systemd/system/x.service.d/a.conf"),), check="systemd", revertible=True)
CONFIGURATION = ConfigSet((ConfigFile("/etc/x/a"), ConfigFile("/etc/x/b", absent=True)), check="nginx")
SETS = {
    "restart": (DROP_IN,),
    "reload": (CONFIGURATION, ConfigSet((ConfigFile("/etc/x/c"),), revertible=True)),
}
WANTED = {"restart": "1", "reload": "2"}
TOLD = {
    "restart": Stamp("restart", "1", DROP_IN.paths),
    "reload": Stamp("reload", "2", ("/etc/x/a", "/etc/x/b", "/etc/x/c")),
}
RESTART = (Tell("restart", (*DROP_IN.paths, "/etc/x/c")), TOLD["restart"], TOLD["reload"])
RELOAD = (Tell("reload", ("/etc/x/c",)), TOLD["reload"])
CHECKS = (Check(DROP_IN), Check(CONFIGURATION))
DAEMON = Systemctl("daemon-reload")
UNMASK = (Systemctl("unmask"), Systemctl("unmask --runtime"))


@pytest.mark.parametrize(
    ("name", "unit"),
    [("x", "x.service"), ("x.service", "x.service"), ("x.timer", "x.timer"), ("a.b", "a.b.service")],
)
def test_a_name_is_a_services_unless_it_says_otherwise(name: str, unit: str) -> None:
    assert canonical(name) == unit
    assert module._question(name, enabled=True) == Question(UnitStates, {"units": (unit,)})


@pytest.mark.parametrize(
    ("stamps", "wanted", "action"),
    [
        ({}, {}, None),
        ({"restart": "1", "reload": "2"}, {"restart": "1", "reload": "2"}, None),
        ({"restart": "1", "reload": "2"}, {"restart": "1", "reload": "3"}, "reload"),
        ({"restart": "0", "reload": "2"}, {"restart": "1", "reload": "2"}, "restart"),
        ({"restart": "0", "reload": "0"}, {"restart": "1", "reload": "2"}, "restart"),
        ({}, {"reload": "2"}, "reload"),
        ({"reload": "1"}, {"restart": "1"}, "restart"),
    ],
)
def test_a_restart_before_a_reload_and_neither_without_need(
    stamps: dict[str, str], wanted: dict[str, str], action: str | None
) -> None:
    assert due(replace(RUNNING, stamps=stamps), wanted) == action


@pytest.mark.parametrize(
    ("file", "on", "off"),
    [
        ("enabled", None, "disable"),
        ("disabled", "enable", None),
        ("enabled-runtime", "enable", "disable"),
        ("masked", "enable", "disable"),
        ("masked-runtime", "enable", "disable"),
        ("", "enable", None),
        ("static", None, None),
        ("generated", None, None),
        ("alias", None, None),
    ],
)
def test_what_makes_it_start_at_boot_or_not(file: str, on: str | None, off: str | None) -> None:
    state = replace(RUNNING, file=file)
    assert (boot_command(state, True), boot_command(state, False), boot_command(state, None)) == (
        on,
        off,
        None,
    )


BOTH = {"restart": "1", "reload": "2"}
BUSY: dict[str, Any] = {"busy": "open?"}
STOPPED: dict[str, Any] = {"active": "inactive", "stamps": BOTH}


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        # The sets are checked, systemd reads its files, then the unit is told, and only then is that noted.
        ({"stamps": BOTH}, {}, ()),
        ({}, {}, (*CHECKS, DAEMON, *RESTART)),
        ({"stamps": {"reload": "2"}}, {}, (*CHECKS, DAEMON, *RESTART)),
        ({"stamps": {"restart": "1"}}, {}, (Check(CONFIGURATION), *RELOAD)),
        ({"stamps": BOTH | {"reload": "old"}}, {}, (Check(CONFIGURATION), *RELOAD)),
        ({"stamps": BOTH, "need_daemon_reload": True}, {}, (DAEMON,)),
        # Stopped, failed, starting: all of it is a start, and a start is with everything.
        (STOPPED, {}, (*CHECKS, DAEMON, *RESTART)),
        (STOPPED | {"active": "failed"}, {}, (*CHECKS, DAEMON, *RESTART)),
        (STOPPED | {"active": "activating"}, {}, (*CHECKS, DAEMON, *RESTART)),
        (STOPPED, BUSY, (*CHECKS, DAEMON, *RESTART)),
        (STOPPED | {"file": "disabled"}, {}, (*CHECKS, DAEMON, Systemctl("enable"), *RESTART)),
        (
            STOPPED | {"file": "masked", "load": "masked"},
            {},
            (*CHECKS, *UNMASK, DAEMON, Systemctl("enable"), *RESTART),
        ),
        # Somebody is at work: at most a reload, and nothing that says it was restarted.
        ({}, BUSY, (*CHECKS, DAEMON, Unless("open?", RESTART, RELOAD))),
        ({"stamps": {"reload": "2"}}, BUSY, (*CHECKS, DAEMON, Unless("open?", RESTART, ()))),
        ({"stamps": {"restart": "1"}}, BUSY, (Check(CONFIGURATION), *RELOAD)),
        ({"stamps": BOTH}, BUSY, ()),
    ],
)  # fmt: skip
def test_what_is_done_and_in_which_order(
    found: dict[str, Any], asked: dict[str, Any], expected: tuple[Step, ...]
) -> None:
    assert steps(replace(RUNNING, **found), SETS, WANTED, **asked) == expected


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        ({}, {}, ()),
        ({"active": "inactive"}, {}, (Tell("restart"),)),
        ({"file": "disabled"}, {}, (Systemctl("enable"),)),
        ({"file": "disabled"}, {"enabled": None}, ()),
        ({"file": "disabled"}, {"enabled": False}, ()),
        ({}, {"enabled": False}, (Systemctl("disable"),)),
        ({"load": "masked", "file": "masked"}, {"enabled": None}, UNMASK),
        ({}, {"running": False}, (Systemctl("stop"),)),
        ({"active": "activating"}, {"running": False}, (Systemctl("stop"),)),
        ({"active": "failed"}, {"running": False}, ()),
        ({"active": "inactive"}, {"running": False}, ()),
        ({"active": "inactive"}, {"running": None}, ()),
        ({"active": "inactive"}, {"running": None, "enabled": False}, (Systemctl("disable"),)),
        ({}, {"masked": True}, (Systemctl("mask --now"),)),
        ({"load": "not-found", "file": "", "active": "inactive"}, {"masked": True}, (Systemctl("mask --now"),)),
        ({"load": "masked", "file": "masked"}, {"masked": True}, (Systemctl("mask --now"),)),
        ({"load": "masked", "active": "activating"}, {"masked": True}, (Systemctl("mask --now"),)),
        ({"load": "masked", "active": "reloading"}, {"masked": True}, (Systemctl("mask --now"),)),
        ({"load": "masked", "active": "inactive"}, {"masked": True}, ()),
        ({"load": "masked", "active": "failed"}, {"masked": True}, ()),
    ],
)  # fmt: skip
def test_what_is_done_to_a_unit_without_configuration_of_ours(
    found: dict[str, Any], asked: dict[str, Any], expected: tuple[Step, ...]
) -> None:
    assert steps(replace(RUNNING, **found), {}, {}, **asked) == expected


def test_each_step_is_one_command() -> None:
    def said(step: Any) -> str:
        return commands("x.service", step, 7, "ask it", 8).get_raw_value()

    assert said(DAEMON) == "systemctl daemon-reload"
    assert said(Systemctl("mask --now")) == "systemctl mask --now -- x.service"
    checker = shlex.quote(CHECKERS[str(CONFIGURATION.check)])
    assert said(Check(CONFIGURATION)) == f"timeout {CHECK_SECONDS} sh -c {checker} check /etc/x/a /etc/x/b"
    assert said(RELOAD[0]) == f"sh -c {shlex.quote(TELL)} sh x.service reload 7 'ask it' 8"
    stamp = said(TOLD["reload"])
    assert stamp == (
        f"sh -c {shlex.quote(STAMP)} sh /var/lib/okome/applied/x.service.reload /var/lib/okome/former 2"
        " /etc/x/a /etc/x/b /etc/x/c"
    )
    brings_back = commands("x.service", RELOAD[0], 7, "true", 8).connector_arguments["_stdin"]
    assert '"paths": ["/etc/x/c"]' in str(brings_back).splitlines()[-1]
    assert "_stdin" not in commands("x.service", Tell("restart"), 7, "true", 8).connector_arguments


def test_a_stamp_holds_its_digest_and_files_and_ends_what_was_kept_of_them(tmp_path: Path) -> None:
    kept = [tmp_path / "former" / path for path in ("files/etc/a", "none/etc/b", "files/etc/other")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    words = [str(tmp_path / "applied/x.service.reload"), str(tmp_path / "former"), "d1", "/etc/a", "/etc/b"]
    subprocess.run(["sh", "-c", STAMP, "sh", *words], check=True, timeout=30)
    assert [path.name for path in (tmp_path / "applied").iterdir()] == ["x.service.reload"]
    assert (tmp_path / "applied/x.service.reload").read_text() == "d1\n/etc/a\n/etc/b\n"
    assert [path.exists() for path in kept] == [False, False, True]


# A systemctl whose answers to `show` are the lines of a file, the last one for ever.
SYSTEMCTL = r"""#!/bin/sh
case "$*" in
    *show*)
        head -n 1 answers | tr ' ' '\n'
        [ "$(wc -l <answers)" -eq 1 ] || sed -i 1d answers ;;
    *) echo "systemctl $*" >>told; case "$*" in *reload\ --*) exit "$(cat reloads 2>/dev/null || echo 0)" ;; esac ;;
esac
"""
UP = "NRestarts=0 ActiveState=active Job= InvocationID=a"
STARTING = "NRestarts=0 ActiveState=activating Job=7 InvocationID=a"
TWICE = "NRestarts=2 ActiveState=activating Job= InvocationID=c"
THRICE = "NRestarts=3 ActiveState=activating Job= InvocationID=d"
TIMER = "ActiveState=active Job= InvocationID=a"
DEAD = "NRestarts=0 ActiveState=failed Job= InvocationID=a"
FLAPPING = "NRestarts=1 ActiveState=active Job= InvocationID=b"


def tell(
    folder: Path,
    answers: list[str],
    action: str = "restart",
    proof: str = "true",
    former: str = "",
    patience: str = "0",
) -> subprocess.CompletedProcess[str]:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in {"systemctl": SYSTEMCTL, "journalctl": "#!/bin/sh\necho last words\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (folder / "answers").write_text("\n".join(answers) + "\n")
    # Nobody waits here; and there is no date(1), which would answer by a clock that may jump.
    text = f"sleep() {{ echo sleep >>slept; }}\ndate() {{ exit 99; }}\n{TELL}"
    return subprocess.run(
        ["sh", "-c", text, "sh", "x.service", action, patience, proof, "0"],
        cwd=folder, env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        input=former, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "up"),
    [
        ([UP], True),
        ([TIMER], True),
        ([DEAD], False),
        ([DEAD.replace("failed", "inactive")], False),
        ([THRICE], False),
        ([TWICE], False),  # its time is over
        ([FLAPPING, THRICE], False),
        ([FLAPPING.replace("NRestarts=1", "NRestarts=12"), DEAD], False),
    ],
)
def test_a_start_is_up_when_the_same_one_is_up_later(tmp_path: Path, answers: list[str], up: bool) -> None:
    done = tell(tmp_path, answers)
    assert (done.returncode == 0) == up
    assert (tmp_path / "told").read_text().splitlines() == [
        "systemctl -q reset-failed -- x.service",
        "systemctl --no-ask-password --no-block restart -- x.service",
    ]
    if not up:
        assert done.stderr == "x.service did not stay up after a restart; its last words:\nlast words\n"


def test_three_failed_starts_are_enough_long_before_the_time_is_over(tmp_path: Path) -> None:
    assert tell(tmp_path, [STARTING, TWICE, THRICE], patience="100000").returncode == 1


def test_a_job_is_waited_for(tmp_path: Path) -> None:
    """What was up before a restart is not what is up after it."""
    waiting = UP.replace("Job=", "Job=8")
    assert tell(tmp_path, [waiting, waiting, STARTING, UP], patience="100000").returncode == 0
    assert len((tmp_path / "slept").read_text().split()) == 4


def test_a_reload_that_is_refused_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "reloads").write_text("1")
    done = tell(tmp_path, [UP], "reload")
    assert done.returncode == 1
    assert "did not stay up after a reload" in done.stderr


def test_what_is_not_proved_gets_back_what_it_had_and_is_told_again(tmp_path: Path) -> None:
    done = tell(tmp_path, [UP], "reload", "echo no answer; exit 7", "print('/etc/x/a')")
    assert done.returncode == 1
    assert done.stderr == (
        "x.service is up after a reload and does not do its work: no answer\n"
        "x.service runs again with what it had before:\n/etc/x/a\n"
    )
    assert [line for line in (tmp_path / "told").read_text().splitlines() if "reset" not in line] == [
        "systemctl --no-ask-password reload -- x.service",
        "systemctl daemon-reload",
        "systemctl --no-ask-password reload -- x.service",
    ]


@pytest.mark.parametrize("former", ["", "import sys; print('/etc/x/a'); sys.exit(1)"])
def test_where_nothing_is_kept_nothing_is_told_again(tmp_path: Path, former: str) -> None:
    done = tell(tmp_path, [UP], "reload", "echo no answer; exit 7", former)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (tmp_path / "told").read_text().count(" reload -- ") == 1


def test_a_proof_does_not_read_what_would_be_brought_back(tmp_path: Path) -> None:
    done = tell(tmp_path, [UP], "reload", "cat >&2; exit 1", "print('/etc/x/a')")
    assert done.stderr.endswith("/etc/x/a\n")
    assert "print" not in done.stderr


@pytest.mark.parametrize(
    ("question", "said", "asked"),
    [
        ("", "", 1),
        ("echo busy; exit 1", "", 1),  # who can't answer is not known to be busy
        ('[ "$(wc -l <asked)" -gt 3 ] || echo busy', "", 4),
        ("echo open requests: 2", "open requests: 2\n", 10),
    ],
)
def test_a_quiet_moment_is_waited_for_and_not_for_long(
    tmp_path: Path, question: str, said: str, asked: int
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"sleep() {{ :; }}\n{QUIET}", "sh", f"echo >>asked; {question}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (said, "")
    assert (tmp_path / "asked").read_text() == "\n" * asked


@pytest.mark.parametrize(
    ("harm", "otherwise", "failing", "ran", "well"),
    [
        ([""], ["reload"], "", ["restart", "stamp"], True),
        (["2 open", "2 open"], ["reload"], "", ["reload"], True),
        (["2 open"], [], "", [], True),
        (["unknown", ""], ["reload"], "", ["reload", "restart", "stamp"], True),
        (["unknown"], ["reload"], "reload", ["reload"], False),
        ([""], ["reload"], "restart", ["restart"], False),
    ],
)
def test_a_restart_waits_for_a_moment_without_harm(
    monkeypatch: pytest.MonkeyPatch,
    harm: list[str],
    otherwise: list[str],
    failing: str,
    ran: list[str],
    well: bool,
) -> None:
    answers, told = iter(harm), list[str]()

    def answer(_host: object, command: StringCommand, **_more: object) -> tuple[bool, SimpleNamespace]:
        text = command.get_raw_value()
        if text.startswith("sh -c"):
            return True, SimpleNamespace(stdout=next(answers))
        told.append(text)
        return text != failing, SimpleNamespace(stdout="")

    monkeypatch.setattr(module, "ask", answer)
    monkeypatch.setattr(module, "print_host_combined_output", lambda *_: None)
    ways = [StringCommand("restart"), StringCommand("stamp")], [StringCommand(one) for one in otherwise]
    host: Any = SimpleNamespace(print_prefix="")
    state: Any = None
    assert module._run_unless(state, host, "x.service", "open?", *ways) == well
    assert (told, list(answers)) == (ran, [])


@pytest.mark.parametrize("asked", [{"masked": True}, {"running": False}, {"running": None}])
def test_what_should_not_run_is_told_nothing(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> None:
    monkeypatch.setattr(module, "present", lambda _: {"x.service": RUNNING})
    with pytest.raises(OperationError, match="only a unit that should run"):
        list(module.unit._inner("x", restarted_if=CONFIGURATION, **asked))


def test_a_shell_text_gets_its_words_and_what_it_reads() -> None:
    assert shell('echo "$1"', "a b", "c").get_raw_value() == """sh -c 'echo "$1"' sh 'a b' c"""
    assert shell("cat", stdin="x").connector_arguments == {"_stdin": "x"}
    assert shell("cat").connector_arguments == {}


@pytest.mark.parametrize(
    ("harms", "otherwise", "fails", "ran", "warned", "done"),
    [
        ([""], True, "", "then1 then2", False, True),
        (["open requests: 2"], False, "", "", True, True),
        (["open requests: 2", "open requests: 1"], True, "", "other", True, True),
        (["open requests: 2", ""], True, "", "other then1 then2", False, True),  # it could not say before
        (["open requests: 2"], True, "other", "other", False, False),
        ([""], True, "then1", "then1", False, False),
    ],
)
def test_a_restart_that_would_do_harm_is_put_off_and_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harms: list[str],
    otherwise: bool,
    fails: str,
    ran: str,
    warned: bool,
    done: bool,
) -> None:
    """`harms`: what the question is answered with, each time."""
    answers, commanded, printed = iter(harms), [], []
    node = SimpleNamespace(print_prefix="[node] ")

    def ask(host: object, command: StringCommand, **more: object) -> tuple[bool, SimpleNamespace]:
        assert host is node
        said = command.get_raw_value()
        if said == shell(QUIET, "is it busy?").get_raw_value():
            return True, SimpleNamespace(stdout=next(answers))
        commanded.append(said)
        assert more == {"_stdin": said}
        return said != fails, SimpleNamespace(stdout="", name=said)

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(
        module, "print_host_combined_output", lambda host, said: printed.append((host, said.name))
    )
    ways = [[StringCommand(word, _stdin=word) for word in way] for way in (["then1", "then2"], ["other"])]
    with caplog.at_level("WARNING", logger="pyinfra"):
        result = module._run_unless(
            cast(Any, None),
            cast(Any, node),
            "x.service",
            "is it busy?",
            ways[0],
            ways[1] if otherwise else [],
        )
    assert (result, " ".join(commanded)) == (done, ran)
    assert printed == ([(node, fails)] if fails else [])
    assert next(answers, None) is None
    assert [record.getMessage() for record in caplog.records] == (
        [
            f"[node] x.service is not restarted now, {harms[-1]}: what takes a restart waits for the next deploy,"
            " or the next restart"
        ]
        if warned
        else []
    )
