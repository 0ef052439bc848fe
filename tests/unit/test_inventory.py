"""Which hosts a command line is about."""

import runpy
from pathlib import Path

import click
import pytest
from pyinfra.api.exceptions import PyinfraError

INVENTORY = Path(__file__).parents[2] / "inventory.py"


def hosts(operations: tuple[str, ...], data: tuple[str, ...] = (), limit: tuple[str, ...] = ()) -> list[str]:
    """The names that inventory.py gives pyinfra for this command line."""
    context = click.Context(click.Command("pyinfra"))
    context.params = {"operations": operations, "data": data, "limit": limit}
    with context:
        found = runpy.run_path(str(INVENTORY))
    return [name for name, _ in found["frontends"] + found["backends"]]


def test_a_deploy_named_after_a_host_sees_that_host() -> None:
    assert hosts(("deploys/cn01.py",)) == ["cn01"]
    assert hosts(("deploys/cn00.py",)) == ["cn00"]
    assert hosts(("./deploys/cn01.py", "deploys/cn00.py")) == ["cn00", "cn01"]


def test_everything_else_sees_all() -> None:
    assert hosts(("deploys/site.py",)) == ["cn00", "cn01"]
    assert hosts(("debug-inventory",)) == ["cn00", "cn01"]


def test_one_place_is_not_for_two_nodes() -> None:
    place = ("ssh_hostname=192.168.86.132",)
    assert hosts(("deploys/cn01.py",), place) == ["cn01"]
    assert hosts(("deploys/site.py",), place, ("cn01",)) == ["cn00", "cn01"]  # --limit is pyinfra's to apply
    with pytest.raises(PyinfraError, match="where one node answers"):
        hosts(("deploys/site.py",), place)
