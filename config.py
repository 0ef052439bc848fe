"""How pyinfra itself runs here; it reads this file before anything else."""

import click
from gevent.hub import Hub
from pyinfra.api.exceptions import PyinfraError
from pyinfra_cli.util import parse_cli_arg

import inventory
from group_data import valid

# An operation that refuses its input says so in one sentence, which pyinfra prints; gevent would print the
# traceback of it as well.
Hub.NOT_ERROR += (PyinfraError,)

# Before anything connects: what group_data, the inventory and the command line say is valid.
_words = click.get_current_context().params.get("data") or ()
_given = dict(word.split("=", 1) for word in _words if "=" in word)
_hosts = [data for _, data in inventory.frontends + inventory.backends]
if _trouble := valid.complaints(*_hosts, {name: parse_cli_arg(value) for name, value in _given.items()}):
    raise PyinfraError(" ".join(_trouble))
