"""Who: the hosts of the tier and their groups. Nothing else lists a host.

`deploys/cn01.py` is about cn01 alone: pyinfra connects to every host that this file names, and a deploy
must not depend on a node that it does not touch. So a deploy named after a host sees only that host.
"""

from pathlib import Path

import click
from pyinfra.api.exceptions import PyinfraError

Host = tuple[str, dict[str, str]]


def _host(name: str, address: str) -> Host:
    """`address` is the node's own; `ssh_hostname` is where it answers, which --data may replace."""
    return name, {"address": address, "ssh_hostname": address}


_frontends = [_host("cn00", "192.168.86.20")]
_backends = [_host("cn01", "192.168.86.19")]


def _asked() -> set[str]:
    """The hosts that pyinfra's command line is about; all of them when something else reads this file."""
    every = {name for name, _ in _frontends + _backends}
    context = click.get_current_context(silent=True)
    words = context.params if context else {}
    asked = every & {Path(word).stem for word in words.get("operations") or ()} or every
    one_place = any(str(word).startswith("ssh_hostname=") for word in words.get("data") or ())
    if one_place and len(asked) > 1 and not words.get("limit"):
        raise PyinfraError(
            "--data ssh_hostname= is where one node answers: run the deploy of that name, or --limit"
        )
    return asked


frontends = [host for host in _frontends if host[0] in _asked()]
backends = [host for host in _backends if host[0] in _asked()]
