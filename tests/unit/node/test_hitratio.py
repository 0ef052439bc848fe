"""Hit ratios from real log files: rotated, half written, damaged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from node import hitratio
from node.hitratio import Count, Totals


def line(location: str = "/assets/", cache: str = "HIT", size: int = 100) -> str:
    return json.dumps({"location": location, "cache": cache, "bytes": size, "agent": "x"}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "access.log"


def run(log: Path) -> Totals:
    """One run of the timer; what it kept."""
    assert hitratio.main(["--state", str(log.parent / "state"), "--log", str(log)]) == 0
    return hitratio.load(log.parent / "state/totals.json")


def test_ratios_by_requests_and_by_bytes(log: Path) -> None:
    log.write_text(
        line(size=300) + line(cache="STALE", size=100) + line(cache="REVALIDATED", size=100)
        + line(cache="MISS", size=1000) + line(cache="EXPIRED", size=500)
        + line("/docs/", "UPDATING", 7)
        + line("api", "", 10**6) + line(cache="BYPASS", size=10**6)
    )  # fmt: skip
    totals = run(log)
    assert totals.locations == {"/assets/": Count(3, 2, 500, 1500), "/docs/": Count(1, 0, 7, 0)}
    assert totals.locations["/assets/"].ratio == 0.6
    assert totals.locations["/assets/"].byte_ratio == 0.25
    assert hitratio.report(totals)["all"]["ratio"] == pytest.approx(4 / 6)
    assert Count().ratio is None


def test_every_line_is_counted_once_over_a_rotation(log: Path) -> None:
    log.write_text(line() * 3)
    assert run(log).locations["/assets/"].hits == 3
    assert run(log).locations["/assets/"].hits == 3
    with log.open("a") as old:
        old.write(line())
        log.rename(f"{log}.1")
        assert hitratio.main(["--state", str(log.parent / "state"), "--log", str(log)]) == 0
        log.write_text(line(cache="MISS"))
        run(log)
        old.write(line() * 2)  # nginx has not reopened its log yet
    totals = run(log)
    assert totals.locations["/assets/"] == Count(6, 1, 600, 100)
    Path(f"{log}.1").unlink()  # compressed
    log.rename(f"{log}.1")
    log.write_text(line())
    totals = run(log)
    assert totals.locations["/assets/"] == Count(7, 1, 700, 100)
    assert len(totals.offsets) == 2


def rotate(log: Path) -> None:
    log.rename(f"{log}.1")
    log.write_text(line(cache="MISS"))


def test_a_rotation_while_it_reads_counts_nothing_twice(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_text(line() * 3)
    plain = hitratio.whole

    def and_then_it_rotates(file: BinaryIO, totals: Totals, key: str) -> Iterator[bytes]:
        yield from plain(file, totals, key)
        rotate(log)

    with monkeypatch.context() as patch:
        patch.setattr(hitratio, "whole", and_then_it_rotates)
        assert run(log).locations["/assets/"] == Count(3, 0, 300, 0)
    assert run(log).locations["/assets/"] == Count(3, 1, 300, 100)


def test_a_rotation_between_the_two_files_loses_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_text(line() * 3)
    run(log)
    with log.open("a") as more:
        more.write(line())
    plain = hitratio.identity

    def and_then_it_rotates(file: BinaryIO) -> str | None:
        patch.undo()
        rotate(log)
        return plain(file)

    with monkeypatch.context() as patch:
        patch.setattr(hitratio, "identity", and_then_it_rotates)
        assert run(log).locations["/assets/"] == Count(4, 0, 400, 0)
    assert run(log).locations["/assets/"] == Count(4, 1, 400, 100)


def test_an_inode_that_is_used_again_is_another_file(log: Path) -> None:
    log.write_text(line())
    run(log)
    before = log.stat().st_ino
    with log.open("r+") as same:  # what a file system does that gives a freed inode away at once
        same.truncate()
        same.write(line(cache="MISS") * 5)
    assert log.stat().st_ino == before
    assert run(log).locations["/assets/"] == Count(1, 5, 100, 500)


def test_a_line_that_is_being_written_waits(log: Path) -> None:
    whole = line()
    log.write_text(whole + whole[:20])
    assert run(log).locations["/assets/"].hits == 1
    with log.open("a") as rest:
        rest.write(whole[20:])
    totals = run(log)
    assert totals.locations["/assets/"].hits == 2
    assert totals.unreadable == 0


def test_a_first_line_that_ends_in_the_wrong_moment_is_counted_once(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_text(line()[:20])
    plain = hitratio.identity

    def and_then_it_ends(file: BinaryIO) -> str | None:
        found = plain(file)
        log.write_text(line())
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hitratio, "identity", and_then_it_ends)
        run(log)
    run(log)
    assert run(log).locations["/assets/"].hits == 1


def test_a_truncated_log_is_read_from_its_beginning(log: Path) -> None:
    log.write_text(line() * 5)
    run(log)
    log.write_text(line())
    assert run(log).locations["/assets/"].hits == 6


def test_damage_is_counted_not_fatal(log: Path) -> None:
    log.write_bytes(
        b'\xff\xfe\n{"location": 1}\n[]\n' + line().encode() + b'{"path":"\xff",' + line()[1:].encode()
    )
    totals = run(log)
    assert totals.unreadable == 3
    assert totals.locations["/assets/"].hits == 2
    (log.parent / "state/totals.json").write_text('{"locations":')
    assert run(log).locations["/assets/"].hits == 2


def test_no_log_yet(log: Path) -> None:
    assert run(log).locations == {}


def test_prometheus_text(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(line('/a"b/') + line('/a"b/', "MISS", 7))
    run(log)
    text = (log.parent / "state/okome.prom").read_text()
    assert 'okome_cache_requests_total{location="/a\\"b/",result="hit"} 1\n' in text
    assert 'okome_cache_bytes_total{location="/a\\"b/",result="miss"} 7\n' in text
    hitratio.main(["--state", str(log.parent / "state"), "--show", "--json"])
    assert json.loads(capsys.readouterr().out)["all"]["ratio"] == 0.5
    hitratio.main(["--state", str(log.parent / "state"), "--show"])
    assert "0.500" in capsys.readouterr().out
