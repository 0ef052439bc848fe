"""What `python -m lab` prints."""

from lab.__main__ import table


def test_a_long_name_does_not_run_into_what_follows() -> None:
    node = {"state": "running", "address": "10.77.0.4", "suite": "bookworm", "manager": "networkmanager"}
    off = dict.fromkeys(node, None) | {"state": "off"}
    assert table({"edge-of-town": node, "b": off}).splitlines() == [
        "node          state    address    suite     manager",
        "edge-of-town  running  10.77.0.4  bookworm  networkmanager",
        "b             off      -          -         -",
    ]
