"""How pyinfra itself runs here; it reads this file before anything else."""

import logging
import shlex
from types import SimpleNamespace

import click
from gevent.hub import Hub
from paramiko import file
from pyinfra import config
from pyinfra.api import command
from pyinfra.api.arguments import all_argument_meta
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra_cli.util import parse_cli_arg

import inventory
from group_data import valid

# An operation that refuses its input says so in one sentence, which pyinfra prints; gevent would print the
# traceback of it as well.
Hub.NOT_ERROR += (PyinfraError,)
# Likewise a peer that takes the connection and is no SSH server: paramiko would print where it was raised.
logging.getLogger("paramiko.transport").addHandler(logging.NullHandler())

# Before anything connects: what group_data, the inventory and the command line say is valid.
_words = click.get_current_context().params.get("data") or ()
_given = dict(word.split("=", 1) for word in _words if "=" in word)
_hosts = [data for _, data in inventory.frontends + inventory.backends]
_tables = (*_hosts, {name: parse_cli_arg(value) for name, value in _given.items()})
# How a node is reached, and how an operation runs.
_pyinfras = {*SSHConnector.data_cls.__annotations__, *all_argument_meta}
if _trouble := valid.complaints(*_tables, pyinfras=_pyinfras):
    raise PyinfraError(" ".join(_trouble))

# A node's start-up files, sudoers and locale are its owner's: umask 077 would make folders of ours unreadable, sudo
# without secure_path leaves a PATH without sbin, and a German apt says what nobody here reads.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
config.SHELL = f"sh -c 'umask 022; PATH={PATH} LC_ALL=C.UTF-8 exec sh \"$@\"' sh"


def quote(text: str) -> str:
    """As shlex.quote, for a login shell that is fish too: between single quotes a backslash escapes there."""
    return shlex.quote(text).replace("\\", r"'\\'")


def decoded(text: str | bytes, encoding: str = "utf8") -> str:
    """What a node prints, also where its owner's files are in another encoding: paramiko would lose all of it."""
    return text.decode(encoding, errors="replace") if isinstance(text, bytes) else text


file.u = decoded  # type: ignore[attr-defined]
command.shlex = SimpleNamespace(quote=quote, split=shlex.split)  # type: ignore[assignment]
