"""The interface that all benches share: table or JSON, exit status, names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.measure import Measure

ROOT = Path(__file__).parents[3]
MEASURES = [
    Measure("hit", 1.05, "x", against="one raw GET", goal=1.10),
    Measure("throughput", 7.0, "x", against="raw GETs", goal=5, sense=">="),
    Measure("computes", 1, "computes", goal=1, sense="=="),
    Measure("raw GET", 0.04, "ms"),
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with one bench, `sample`."""
    monkeypatch.setattr(command, "__file__", str(tmp_path / "__main__.py"))
    (tmp_path / "sample.py").write_text('"""What sample measures."""\n\ndef run(): ...\n')
    (tmp_path / "measure.py").write_text('"""Not a bench."""\n')
    module = type(sys)("bench.sample")
    module.run = lambda: MEASURES  # type: ignore[attr-defined]  # a module made by hand
    monkeypatch.setitem(sys.modules, "bench.sample", module)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    return command.main()


def test_json(bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "sample", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {
        "measure": "hit",
        "value": 1.05,
        "unit": "x",
        "goal": 1.10,
        "holds": True,
        "against": "one raw GET",
    }
    assert rows[3]["goal"] is None
    assert len(rows) == len(MEASURES)


def test_table(bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "sample") == 0
    head, rule, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["measure", "value", "goal", "holds", "against"]
    assert set(rule) == {"-", " "}
    assert first.split() == ["hit", "1.05", "x", "<=", "1.1", "yes", "one", "raw", "GET"]


@pytest.mark.parametrize(
    "missed",
    [
        Measure("hit", 1.2, "x", goal=1.10),
        Measure("throughput", 4.0, "x", goal=5, sense=">="),
        Measure("computes", 2, "computes", goal=1, sense="=="),
    ],
)
def test_a_missed_goal_is_exit_1(bench: Path, monkeypatch: pytest.MonkeyPatch, missed: Measure) -> None:
    monkeypatch.setattr(sys.modules["bench.sample"], "run", lambda: [MEASURES[0], missed])
    assert call(monkeypatch, "sample") == 1


def test_unknown_name_is_one_sentence_and_the_list(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "measure") == 2
    assert capsys.readouterr().err.splitlines() == [
        "There is no bench called 'measure'. There are:",
        "  sample  What sample measures.",
    ]


def test_help() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "bench", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "benches:" in shown.stdout
