"""Live nodes, taken from inventory.py and reached as the operator reaches them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

import inventory
from console.ssh import options

GROUPS = {"frontends": inventory.frontends, "backends": inventory.backends}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--node", action="append", default=[], metavar="NAME", help="verify this node only; may be repeated"
    )


def pytest_configure(config: pytest.Config) -> None:
    known = [name for hosts in GROUPS.values() for name, _ in hosts]
    for name in config.getoption("--node"):
        if name not in known:
            raise pytest.UsageError(f"--node {name} is not in inventory.py; there is {', '.join(known)}.")


@pytest.fixture(scope="session")
def ssh_config() -> Iterator[Path]:
    """One kept connection for each node: a command costs 50 ms instead of 300."""
    with tempfile.TemporaryDirectory(prefix="okome-") as directory:
        kept = {"ControlMaster": "auto", "ControlPersist": "60", "ControlPath": f"{directory}/%C"}
        lines = [f"{name} {value}" for name, value in (options() | kept).items()]
        file = Path(directory, "config")
        file.write_text("\n".join(lines) + "\n")
        yield file


@pytest.fixture(scope="session")
def silent() -> dict[str, str]:
    """Each node that was asked → why it does not answer, or nothing."""
    return {}


@pytest.fixture
def node(request: pytest.FixtureRequest, ssh_config: Path, silent: dict[str, str]) -> Host:
    """A node, as root, over SSH. One that does not answer is waited for once, not by every test."""
    name, data = request.param
    found = testinfra.get_host(f"ssh://{data['address']}?ssh_config={ssh_config}&sudo=true&timeout=10")
    if name not in silent:
        try:
            asked = found.run("true")
            silent[name] = asked.stderr.strip() if asked.rc else ""
        except RuntimeError as error:
            said = getattr(error.args[0], "stderr", str(error)).splitlines()  # ssh's own, of a CommandResult
            silent[name] = said[-1] if said else "it says nothing"
    if silent[name]:
        pytest.fail(f"{name} does not answer at {data['address']}: {silent[name]}", pytrace=False)
    return found


def assert_drop_in_prevails(node: Host, unit: str) -> None:
    """The unit is the package's, with our drop-in as the last word on it."""
    found = node.service(unit).systemd_properties
    assert found["FragmentPath"].startswith(("/usr/lib/systemd/system/", "/lib/systemd/system/"))
    assert found["DropInPaths"].split()[-1] == f"/etc/systemd/system/{unit}.d/zz-okome.conf"
    assert found["NeedDaemonReload"] == "no"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `node` runs for every node of its module's GROUP, or of all."""
    if "node" in metafunc.fixturenames:
        group = getattr(metafunc.module, "GROUP", None)
        hosts = GROUPS[group] if group else [host for hosts in GROUPS.values() for host in hosts]
        wanted = metafunc.config.getoption("--node")
        hosts = [host for host in hosts if not wanted or host[0] in wanted]
        ids = [name for name, _ in hosts] or ["nobody"]
        metafunc.parametrize("node", hosts or [None], indirect=True, ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is about nobody that was asked for is not run; nor is it skipped, for nothing is missing."""
    about_nobody = [item for item in items if "nobody" in item.name and item.callspec.params["node"] is None]  # type: ignore[attr-defined] # it is parametrized
    config.hook.pytest_deselected(items=about_nobody)
    items[:] = [item for item in items if item not in about_nobody]
