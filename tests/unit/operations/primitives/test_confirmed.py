"""What a new connection has to show before a change is confirmed over it; no node."""

from types import SimpleNamespace
from typing import Any

import pytest

from operations.primitives.confirmed import Confirmation, ConfirmationError


def test_another_machine_at_the_new_address_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmation: Any = object.__new__(Confirmation)
    confirmation.connector = SimpleNamespace(client=None, data={})
    confirmation.host = SimpleNamespace(disconnect=lambda: None, connect=lambda **_: None)
    confirmation.keys = {("ssh-ed25519", b"this node's")}
    monkeypatch.setattr(Confirmation, "remote_key", lambda _: ("ssh-ed25519", b"this node's"))
    confirmation.connect("192.168.86.19")
    monkeypatch.setattr(Confirmation, "remote_key", lambda _: ("ssh-ed25519", b"a stranger's"))
    with pytest.raises(ConfirmationError, match=r"another machine answers at 192\.168\.86\.19"):
        confirmation.connect("192.168.86.19")
