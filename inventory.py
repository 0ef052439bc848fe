"""Who: the hosts of the tier and their groups. Nothing else lists a host.

`deploys/cn01.py` is about cn01 alone: pyinfra connects to every host that this file names, and a deploy
must not depend on a node that it does not touch. So a deploy named after a host sees only that host.
"""

import sys
from pathlib import Path
from typing import Any

Host = tuple[str, dict[str, str]]


def _host(name: str, address: str) -> Host:
    """`address` is the node's own; `ssh_hostname` is where it answers, which --data may replace."""
    return name, {"address": address, "ssh_hostname": address}


_frontends = [_host("cn00", "192.168.86.20")]
_backends = [_host("cn01", "192.168.86.19")]


def _words() -> dict[str, Any]:
    """What pyinfra's command line says; nothing when something else reads this file. Whoever does that need not
    wait for pyinfra: a program that has not imported click is not pyinfra."""
    click = sys.modules.get("click")
    context = click.get_current_context(silent=True) if click else None
    return context.params if context else {}


def _asked(words: dict[str, Any]) -> set[str]:
    """The hosts that this command line is about."""
    every = {name for name, _ in _frontends + _backends}
    asked = every & {Path(word).stem for word in words.get("operations") or ()} or every
    one_place = any(str(word).startswith("ssh_hostname=") for word in words.get("data") or ())
    if one_place and len(asked) > 1 and not words.get("limit"):
        from pyinfra.api.exceptions import PyinfraError

        raise PyinfraError(
            "--data ssh_hostname= is where one node answers: run the deploy of that name, or --limit"
        )
    return asked


_names = _asked(_words())
frontends = [host for host in _frontends if host[0] in _names]
backends = [host for host in _backends if host[0] in _names]
