"""/etc/hosts as nodes have it, with the node's own name in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operations.services.hosts import named

LOCAL = "127.0.0.1 localhost\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{LOCAL}127.0.1.1 raspberrypi\n", f"{LOCAL}127.0.1.1 CN01 raspberrypi\n"),
        (f"{LOCAL}192.168.86.30\tgpu-box", f"{LOCAL}192.168.86.30\tgpu-box\n127.0.1.1\tCN01\n"),
        ("", "127.0.1.1\tCN01\n"),
        # Other names stay, whoever wrote them, and so does what somebody noted.
        ("127.0.1.1\tprinter.lan printer  # Anna", "127.0.1.1 CN01\tprinter.lan printer  # Anna"),
        ("127.0.1.1 a\n127.0.1.1 b\n", "127.0.1.1 CN01 a\n127.0.1.1 b\n"),
        # Already there, as the resolver compares: cloud-init writes FQDN and name.
        ("127.0.1.1 a\n127.0.1.1 b CN01\n", None),
        ("127.0.1.1 cn01.lan cn01\n", None),
        # Not there: in a comment, at another address, a part of another name.
        ("#127.0.1.1 CN01\n", "#127.0.1.1 CN01\n127.0.1.1\tCN01\n"),
        ("127.0.1.1 pi # CN01\n", "127.0.1.1 CN01 pi # CN01\n"),
        ("192.168.86.19 CN01\n", "192.168.86.19 CN01\n127.0.1.1\tCN01\n"),
        ("127.0.1.10 pi\n127.0.1.1 CN011\n", "127.0.1.10 pi\n127.0.1.1 CN01 CN011\n"),
        ("127.0.1.1\n", "127.0.1.1 CN01\n"),
        ("127.0.0.1 localhost\r\n127.0.1.1 pi\r\n", "127.0.0.1 localhost\r\n127.0.1.1 CN01 pi\r\n"),
    ],
)
def test_the_name_is_added_once_and_nothing_is_lost(before: str, after: str | None) -> None:
    assert named(before, "CN01") == (before if after is None else after)


@given(st.text(st.characters(codec="utf-8"), max_size=60).map(lambda text: f"{text}\n127.0.1.1 pi\n{text}"))
def test_naming_twice_is_naming_once(text: str) -> None:
    once = named(text, "CN01")
    assert named(once, "CN01") == once
    assert len(once) == len(text) + len("CN01 ")
