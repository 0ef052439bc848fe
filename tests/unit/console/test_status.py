"""What `okome status` makes of a node's answer; a node that is not there, for real."""

import socket

from console.status import Status, ask, read, table

FRONTEND = """unit nginx active
unit okome-probe failed
upstream down
cache {"/assets/": {"hits": 1}, "all": {"ratio": 0.75, "byte_ratio": null}}
"""
BACKEND = "unit redis-server active\nredis-used 1048576\nredis-max 4294967296\nwarning: something else\n"


def test_an_answer_becomes_a_row() -> None:
    front, back = Status("cn00", "frontend", "192.0.2.1"), Status("cn01", "backend", "192.0.2.2")
    read(front, FRONTEND)
    read(back, BACKEND)
    assert (front.upstream, front.hit_ratio, front.byte_hit_ratio, front.healthy) == (
        "down",
        0.75,
        None,
        False,
    )
    assert back.healthy
    _head, first, second = table([front, back]).splitlines()
    assert "  okome-probe failed  " in first
    assert second.endswith("  1 of 4096 MiB")
    front.services["okome-probe"] = "active"
    assert front.healthy, "an upstream that is down is not the frontend's trouble"
    assert not Status("cn00", "frontend", "192.0.2.1").healthy


def test_a_count_that_failed_is_wrong_and_one_that_is_over_is_not() -> None:
    """Its timer is active either way."""
    front = Status("cn00", "frontend", "192.0.2.1")
    read(front, "unit okome-hitratio.timer active\nunit okome-hitratio.service failed\n")
    assert not front.healthy
    assert "  okome-hitratio.service failed  " in table([front])
    for state in ("inactive", "activating"):
        read(front, f"unit okome-hitratio.service {state}\n")
        assert front.healthy
        assert "  all 2 well  " in table([front])


def test_a_node_that_refuses_is_one_line_not_a_traceback() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.9", 0))  # bound, and not listening
        found = ask(Status("cn00", "frontend", "127.0.0.9"))
    assert found.trouble
    assert "\n" not in found.trouble
    assert found.trouble in table([found])
