"""What a tunable may be, and that a value which may not is refused before anything connects."""

import runpy
from pathlib import Path
from typing import Any, get_type_hints

import click
import paramiko.file
import paramiko.util
import pytest
from pyinfra.api import Config, command
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_config

from group_data import valid
from tests.another_place import Copy

ROOT = Path(__file__).parents[3]
# How the operator gets to a node is pyinfra's to judge; these hold what the environment says.
PYINFRAS = {"ssh_key", "ssh_known_hosts_file", "ssh_paramiko_connect_kwargs"}


def complaint(name: str, value: Any) -> str:
    return "".join(valid.complaints({name: value}, pyinfras=PYINFRAS))


def test_the_values_that_are_there() -> None:
    assert valid.complaints(pyinfras=PYINFRAS) == []


def test_every_group_declares_its_tunables() -> None:
    assert {name for name, _ in valid.assigned()} == PYINFRAS
    for module in valid.groups():
        assert get_type_hints(module)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("redis_maxmemroy", " (did you mean redis_maxmemory?)"),
        ("REDIS_PORT", ""),
        ("ssh_keys", " (did you mean ssh_key?)"),
        ("nobody_declared_this", ""),
    ],
)
def test_a_name_that_nothing_reads_is_refused_and_the_nearest_one_named(name: str, meant: str) -> None:
    says = f"{name} is no tunable{meant}; one of your own is declared with its type in group_data."
    assert complaint(name, 1) == says


def test_so_is_one_in_a_group_s_file_with_its_line_and_what_is_declared_there_is_known(
    tmp_path: Path,
) -> None:
    copy = Copy(tmp_path)
    more = "redis_maxmemory = '1gb'\nredis_maxmemroy = '1gb'\nrack: str = 'a'\nanything: Any = 1\n_own = 1\n"
    (tmp_path / "group_data/racks.py").write_text(f"from typing import Any\n\n{more}")
    program = (
        "from group_data import valid; print(*valid.complaints("
        f"{{'rack': 'b', 'anything': object()}}, {{'rack': 2}}, pyinfras={PYINFRAS!r}), sep='\\n')"
    )
    assert copy.python("-c", program).splitlines() == [
        f"group_data/racks.py:4: {valid.slip('redis_maxmemroy', ['redis_maxmemory'])}",
        "rack is 2; it has to be a text.",
    ]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("redis_port", "x", "a whole number from 1 to 65535"),
        ("redis_port", 0, "a whole number from 1 to 65535"),
        ("redis_port", 65536, "a whole number from 1 to 65535"),
        ("probe_fall", 2.5, "a whole number from 1 to 100 failures"),
        ("probe_fall", True, "a whole number from 1 to 100 failures"),
        ("probe_timeout_s", "soon", "a number from 0.01 to 60 s"),
        ("probe_timeout_s", False, "a number from 0.01 to 60 s"),
        ("fstab_hardened", 1, "True or False"),
        ("address", "192.168.86.999", "an IPv4 address"),
        ("address", "192.168.86.19/24", "an IPv4 address"),
        ("orchestrator", "192.168.86.25", "an IPv4 address and a port, such as 127.0.0.1:80"),
        ("orchestrator", "192.168.86.25:0", "an IPv4 address and a port, such as 127.0.0.1:80"),
        ("orchestrator", "gpu:8000", "an IPv4 address and a port, such as 127.0.0.1:80"),
        ("lan_dns", "192.168.86.1", "a list, each an IPv4 address"),
        ("lan_dns", ["192.168.86.1", "dns"], "a list, each an IPv4 address"),
        ("journal_max", "lots", "an amount such as 64M"),
        ("journal_max", "64M\n", "an amount such as 64M"),
        ("redis_maxmemory", "4 gigs", 'an amount such as "4gb" or a share such as "50%"'),
        ("redis_maxmemory", "4b", 'an amount such as "4gb" or a share such as "50%"'),
        ("redis_maxmemory", "", 'an amount such as "4gb" or a share such as "50%"'),
        ("redis_maxmemory", "-1gb", 'an amount such as "4gb" or a share such as "50%"'),
        ("static_prefixes", ["/a.css"], "a list, each a path such as /assets/"),
        ("server_names", ["a;b"], "a list, each a host's name"),
        ("tls_certificate", "/etc/ssl/x.crt", "an absolute path that ends in .pem, or empty"),
        ("sysctl_settings", {"vm.swappiness": 1}, "a table, each a key such as vm.swappiness: a text"),
        ("sysctl_settings", {"swap; rm": "1"}, "a table, each a key such as vm.swappiness: a text"),
    ],
)
def test_what_is_not_valid(name: str, value: Any, allowed: str) -> None:
    assert complaint(name, value) == f"{name} is {value!r}; it has to be {allowed}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_port", 1),
        ("redis_port", 65535),
        ("probe_timeout_s", 1),
        ("redis_maxmemory", "50%"),
        ("redis_maxmemory", "4GB"),
        ("redis_maxmemory", "1073741824"),
        ("orchestrator", "10.77.0.25:65535"),
        ("lan_dns", []),
        ("tls_certificate", ""),
        ("tls_certificate", "/etc/ssl/okome.pem"),
    ],
)
def test_what_is_valid(name: str, value: Any) -> None:
    assert complaint(name, value) == ""


def pyinfra_reads(*data: str) -> None:
    """config.py, as pyinfra executes it for a command line with this --data; pyinfra's quoting is put back."""
    context = click.Context(click.Command("pyinfra"))
    context.params = {"data": data, "operations": ("deploys/site.py",)}
    config = Config()  # type: ignore[no-untyped-call] # pyinfra's own
    with context, ctx_config.use(config), pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "shlex", command.shlex)
        patch.setattr(paramiko.file, "u", paramiko.util.u)
        runpy.run_path(str(ROOT / "config.py"))


def test_the_command_line_is_checked_before_anything_connects() -> None:
    pyinfra_reads("redis_port=6380", "redis_maxmemory=50%", "ssh_port=22", "_sudo=True", "_timeout=9")
    with pytest.raises(PyinfraError, match=r"_sduo is no tunable \(did you mean _sudo\?\)"):
        pyinfra_reads("_sduo=True")
    with pytest.raises(PyinfraError) as error:
        pyinfra_reads("redis_port=many", "probe_fall=0")
    assert str(error.value) == (
        "redis_port is 'many'; it has to be a whole number from 1 to 65535."
        " probe_fall is 0; it has to be a whole number from 1 to 100 failures."
    )
