"""Secrets: made once, read by one user, never printed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pyinfra.api import DeployError

from console.secrets import complete, main
from operations.primitives.secret import NAMES, load, missing, secret


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OKOME_SECRETS", str(tmp_path / "secrets.toml"))
    return tmp_path / "secrets.toml"


def test_all_are_made_random_and_only_the_owner_can_read_them(path: Path) -> None:
    old = os.umask(0)
    try:
        assert complete(path) == list(NAMES)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = load(path)
    assert set(values) == set(NAMES)
    assert len(set(values.values())) == len(NAMES)
    assert all(len(value) >= 43 for value in values.values())  # 32 bytes in base64
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_second_run_changes_nothing_and_a_missing_one_is_added(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text('# mine\nredis_okome = "chosen"\nother = "kept"\n')
    assert complete(path) == ["redis_exporter"]
    first = path.read_bytes()
    assert complete(path) == []
    assert path.read_bytes() == first
    assert first.startswith(b'# mine\nredis_okome = "chosen"\nother = "kept"\nredis_exporter = "')


def test_names_are_printed_and_values_are_not(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = "".join(capsys.readouterr())
    assert all(name in printed for name in NAMES)
    assert not any(value in printed for value in load(path).values())


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (None, 0, "no secrets: run `make secrets`, which writes "),
        ('redis_okome = "hunter2"\n', 0o640, "can be read by others: chmod 600 it"),
        ("redis_okome = hunter2\n", 0o600, "is not TOML: Invalid value (at line 1, column 15)"),
        ("redis_okome = 7\n", 0o600, "redis_okome is not a non-empty string"),
        ('redis_okome = ""\n', 0o600, "redis_okome is not a non-empty string"),
        ('other = "hunter2"\n', 0o600, "has no redis_okome: run `make secrets`, which adds what is missing"),
    ],
    ids=["no file", "readable", "not TOML", "not a string", "empty", "missing"],
)
def test_what_is_wrong_is_one_sentence_without_the_value(
    path: Path, content: str | None, mode: int, sentence: str
) -> None:
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(DeployError) as error:
        secret("redis_okome")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_what_is_missing_is_said_once(path: Path) -> None:
    (one,) = missing(*NAMES)
    assert one.startswith("no secrets: run `make secrets`")
    path.touch(mode=0o600)
    assert [sentence.split()[3] for sentence in missing(*NAMES)] == [f"{name}:" for name in NAMES]
    complete(path)
    assert missing(*NAMES) == []


def test_the_inventory_listing_shows_no_secret(path: Path) -> None:
    complete(path)
    listing = subprocess.run(
        [sys.executable, "-m", "pyinfra", "inventory.py", "debug-inventory"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shown = listing.stdout + listing.stderr
    assert "redis_maxmemory" in shown
    assert not any(value in shown for value in load(path).values())
