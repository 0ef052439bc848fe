"""Hit ratios from real log files: rotated, half written, damaged."""

import fcntl
import json
import os
import threading
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


def test_a_run_waits_for_another_to_end(log: Path) -> None:
    """systemd runs one at a time; root's own, by hand, is another. Half of each would be counted twice or never."""
    log.write_text(line())
    lock = log.parent / "state/lock"
    started, ended = threading.Event(), threading.Event()

    def second() -> None:
        started.set()
        run(log)
        ended.set()

    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert started.wait(20)
        assert not ended.wait(0.3)
        assert not (log.parent / "state/totals.json").exists()
    assert ended.wait(20)
    assert run(log).locations["/assets/"].hits == 1


def test_who_reads_the_numbers_meets_the_old_or_the_new_and_nothing_between(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files come by a rename, whole and readable for everybody; and the numbers before what was read."""
    state, umask = log.parent / "state", os.umask(0o077)
    renamed: list[tuple[str, str, int]] = []
    plain = Path.replace

    def replace(path: Path, target: Path) -> Path:
        renamed.append((path.name, target.name, path.stat().st_mode & 0o777))
        assert path.parent == target.parent
        assert path.read_text().endswith(("\n", "}"))
        return plain(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    log.write_text(line())
    try:
        run(log)
    finally:
        os.umask(umask)
    assert renamed == [
        (".okome.prom.new", "okome.prom", 0o644),
        (".totals.json.new", "totals.json", 0o644),
    ]
    assert {file.name for file in state.iterdir()} == {"lock", "okome.prom", "totals.json"}


NUMBERS = """\
# HELP okome_cache_requests_total Requests that the cache was asked for.
# TYPE okome_cache_requests_total counter
okome_cache_requests_total{location="/a\\\\\\"b/",result="hit"} 1
okome_cache_requests_total{location="/a\\\\\\"b/",result="miss"} 2
okome_cache_requests_total{location="/b/",result="hit"} 3
okome_cache_requests_total{location="/b/",result="miss"} 4
# HELP okome_cache_bytes_total Bytes of bodies that were answered with.
# TYPE okome_cache_bytes_total counter
okome_cache_bytes_total{location="/a\\\\\\"b/",result="hit"} 10
okome_cache_bytes_total{location="/a\\\\\\"b/",result="miss"} 20
okome_cache_bytes_total{location="/b/",result="hit"} 30
okome_cache_bytes_total{location="/b/",result="miss"} 40
# HELP okome_log_unreadable_lines_total Lines of the access log that are not okome_fmt.
# TYPE okome_log_unreadable_lines_total counter
okome_log_unreadable_lines_total 5
"""
TWO = Totals({"/b/": Count(3, 4, 30, 40), '/a\\"b/': Count(1, 2, 10, 20)}, unreadable=5)


def test_the_numbers_as_prometheus_reads_them() -> None:
    """A backslash and a quote in a label are escaped, the backslash first (Prometheus, exposition formats)."""
    assert hitratio.prometheus(TWO) == NUMBERS


def test_the_table_and_the_report() -> None:
    assert hitratio.table(Totals({"/b/": Count(1, 3, 9_000_000, 1_000_000), "/a/": Count()})) == (
        "location               requests  hit ratio         MB byte ratio\n"
        "/a/                           0          -        0.0          -\n"
        "/b/                           4      0.250       10.0      0.900\n"
        "all                           4      0.250       10.0      0.900"
    )
    assert hitratio.report(TWO) == {
        "/b/": {
            "hits": 3, "misses": 4, "hit_bytes": 30, "miss_bytes": 40, "ratio": 3 / 7, "byte_ratio": 30 / 70,
        },
        '/a\\"b/': {
            "hits": 1, "misses": 2, "hit_bytes": 10, "miss_bytes": 20, "ratio": 1 / 3, "byte_ratio": 10 / 30,
        },
        "all": {
            "hits": 4, "misses": 6, "hit_bytes": 40, "miss_bytes": 60, "ratio": 0.4, "byte_ratio": 0.4,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "ratio", "byte_ratio"),
    [
        (Count(), None, None),
        (Count(hits=1), 1.0, None),
        (Count(misses=1, miss_bytes=2), 0.0, 0.0),
        (Count(1, 3, 2, 6), 0.25, 0.25),
    ],
)
def test_a_ratio_of_nothing_is_none(count: Count, ratio: float | None, byte_ratio: float | None) -> None:
    assert (count.ratio, count.byte_ratio) == (ratio, byte_ratio)


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", "{}", '{"locations": {"/": {"hist": 1}}, "unreadable": 0, "offsets": {}}']
)
def test_totals_that_can_not_be_read_are_counted_anew(log: Path, damaged: str) -> None:
    log.write_text(line())
    (log.parent / "state/totals.json").write_text(damaged)
    assert run(log).locations == {"/assets/": Count(1, 0, 100, 0)}


def test_what_was_unreadable_is_kept_over_runs(log: Path) -> None:
    log.write_text("{}\n" * 3)
    run(log)
    with log.open("a") as more:
        more.write("{}\n")
    assert run(log).unreadable == 4
    assert run(log).unreadable == 4


def test_a_file_is_known_by_its_place_and_its_first_line(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_text("first\nsecond\n")

    def known(path: Path) -> str | None:
        with path.open("rb") as file:
            file.readline()  # wherever it has been read to
            return hitratio.identity(file)

    first = known(one)
    assert first is not None
    place, _, digest = first.rpartition(":")
    assert place == f"{one.stat().st_dev}:{one.stat().st_ino}"
    assert len(digest) == 16
    assert known(two) != first
    with one.open("a") as more:
        more.write("third\n")
    assert known(one) == first
    one.write_text("other\n")
    assert known(one) != first
    one.write_text("half")
    assert known(one) is None


def test_lines_are_read_on_where_the_last_run_ended(tmp_path: Path) -> None:
    path, totals = tmp_path / "log", Totals()
    path.write_text(line() * 2)
    with path.open("rb") as file:
        hitratio.read(file, "key", totals)
        assert totals.offsets == {"key": path.stat().st_size}
        hitratio.read(file, "key", totals)
        assert totals.locations["/assets/"].hits == 2
        totals.offsets["key"] = path.stat().st_size + 1  # written anew, and shorter
        hitratio.read(file, "key", totals)
        assert totals.locations["/assets/"].hits == 4
        assert totals.offsets == {"key": path.stat().st_size}


def test_a_log_without_a_byte_that_can_be_read_is_an_error(log: Path) -> None:
    log.mkdir()
    with pytest.raises(IsADirectoryError):
        run(log)


def test_text_that_is_not_utf8_counts_under_what_can_be_read_of_it(log: Path) -> None:
    log.write_bytes(b'{"location": "/a/", "cache": "HIT", "bytes": "7", "path": "\xff"}\n')
    assert run(log).locations == {"/a/": Count(1, 0, 7, 0)}


def test_it_is_told_where_its_log_and_its_folder_are(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is guessed: the unit and the command on the node are rendered from the same values."""
    state = ["--state", str(log.parent / "state")]
    for words in ([], ["--show"], state, ["--log", str(log)], [*state, "--log", str(log), "--show"]):
        with pytest.raises(SystemExit):
            hitratio.main(words)
        assert "required" in (said := capsys.readouterr().err) or "not allowed" in said
    log.write_text(line())
    assert hitratio.main([*state, "--show"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "0", "-", "0.0", "-"]
    run(log)
    assert hitratio.main([*state, "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["hits"] == 1
