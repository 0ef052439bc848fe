"""What the on-node guard does with frames and files; no node, no root."""

import ast
import os
import re
import resource
import socket
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.network import GUARD, GUARD_UNIT, PENDING
from node import address_guard as guard

OWN, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("ee1a605a601b")
ADDRESS = "192.168.86.19"
ME = (os.getuid(), os.getgid())


def reply(mac: bytes, sender: str, target: str) -> bytes:
    """An ARP answer as it comes off the wire, padded to Ethernet's least frame."""
    frame = guard.arp_request(mac, sender, target)
    return frame[:20] + b"\x00\x02" + frame[22:] + b"\0" * 18


def test_a_probe_is_the_frame_of_rfc_5227() -> None:
    frame = guard.arp_request(OWN, "0.0.0.0", ADDRESS)  # noqa: S104 - a probe's sender
    assert frame.hex() == (
        "ffffffffffff" + "020000000001" + "0806"  # to everybody, ARP
        "0001" + "0800" + "06" + "04" + "0001"  # Ethernet, IPv4, a request
        "020000000001" + "00000000" + "000000000000" + "c0a85613"
    )  # fmt: skip


def test_who_answers_for_the_address_holds_it() -> None:
    assert guard.arp_holder(reply(OTHER, ADDRESS, "192.168.86.132"), OWN, ADDRESS) == "ee:1a:60:5a:60:1b"


def test_who_announces_or_probes_the_address_holds_it() -> None:
    assert guard.arp_holder(guard.arp_request(OTHER, ADDRESS, ADDRESS), OWN, ADDRESS)
    assert guard.arp_holder(guard.arp_request(OTHER, "0.0.0.0", ADDRESS), OWN, ADDRESS)  # noqa: S104


def test_who_only_asks_for_the_address_does_not_hold_it() -> None:
    assert guard.arp_holder(guard.arp_request(OTHER, "192.168.86.1", ADDRESS), OWN, ADDRESS) is None
    assert guard.arp_holder(reply(OTHER, "192.168.86.25", "192.168.86.132"), OWN, ADDRESS) is None


def test_our_own_frames_are_nobody_elses() -> None:
    assert guard.arp_holder(reply(OWN, ADDRESS, ADDRESS), OWN, ADDRESS) is None


@given(st.binary(max_size=64))
def test_no_frame_is_too_strange(frame: bytes) -> None:
    holder = guard.arp_holder(frame, OWN, ADDRESS)
    assert holder is None or socket.inet_aton(ADDRESS) in frame


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "okome-lan.nmconnection"
    path.write_text("before")
    for mode in (0o600, 0o644):
        guard.write(path, b"after", mode, ME)
        assert path.read_bytes() == b"after"
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "90-okome.yaml"
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            guard.write(path, b"after", 0o600, ME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_confirmation_whose_answer_was_lost_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCK", "PENDING", "CONFIRMED"):
        monkeypatch.setattr(guard, name, tmp_path / name)
    (tmp_path / "CONFIRMED").write_text("6cf7")
    assert guard.confirm("6cf7") == 0
    with pytest.raises(guard.GuardError, match="does not wait for a confirmation any more"):
        guard.confirm("5c0e")
    # A later change that waits is not confirmed by the word on an earlier one.
    (tmp_path / "PENDING").write_text('{"sha256": "5c0e", "applied": false}')
    assert guard.confirm("5c0e") == guard.NOT_YET
    with pytest.raises(guard.GuardError, match="does not wait for a confirmation any more"):
        guard.confirm("6cf7")


def test_a_program_that_fails_says_so_in_one_sentence() -> None:
    with pytest.raises(guard.GuardError, match=r"`sh -c .*` failed: out of order\.$"):
        guard.run("sh", "-c", "echo out of order >&2; exit 3")


def test_it_needs_nothing_but_debians_python() -> None:
    tree = ast.parse(Path(guard.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_guard_fact_and_unit_name_the_same_places() -> None:
    unit = (Path(__file__).parents[3] / "templates" / GUARD_UNIT.lstrip("/")).read_text()
    assert f"ConditionPathExists={PENDING}\n" in unit
    assert f"ExecStart={GUARD} revert --boot\n" in unit
    assert str(guard.PENDING) == PENDING
    # It has to come before everything that configures an interface.
    before = set(" ".join(re.findall(r"^Before=(.*)$", unit, re.MULTILINE)).split())
    assert {"network-pre.target", "NetworkManager.service", "systemd-networkd.service"} <= before
    assert {"dhcpcd.service", "networking.service"} <= before
