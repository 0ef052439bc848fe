"""Who: the hosts of the tier and their groups. Nothing else lists a host.

`deploys/cn01.py` is about cn01 alone: pyinfra connects to every host that this file names, and a deploy
must not depend on a node that it does not touch. So a deploy named after a host sees only that host.
"""

from pathlib import Path

import click

Host = tuple[str, dict[str, str]]


def _host(name: str, address: str) -> Host:
    """`address` is the node's own; `ssh_hostname` is where it answers, which --data may replace."""
    return name, {"address": address, "ssh_hostname": address}


_frontends = [_host("cn00", "192.168.86.20")]
_backends = [_host("cn01", "192.168.86.19")]


def _asked(hosts: list[Host]) -> list[Host]:
    """The hosts that the deploys on pyinfra's command line are about."""
    context = click.get_current_context(silent=True)
    deploys = {Path(word).stem for word in (context.params.get("operations") or ())} if context else set()
    named = {name for name, _ in _frontends + _backends if name in deploys}
    return [host for host in hosts if not named or host[0] in named]


frontends = _asked(_frontends)
backends = _asked(_backends)
