"""What stands at the orchestrator's address in the lab, in a network namespace of its own on the LAN: the example
planner (okome/planner.py), or the test origin (lab/origin.py) once somebody asks for one of its modes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory
from group_data import frontends
from lab import LabError, lan, machine, operator, origin

ADDRESS = frontends.orchestrator.rpartition(":")[0]
PORT = int(frontends.orchestrator.rpartition(":")[2])


def namespace() -> str:
    return f"{machine.namespace()}-orchestrator"


def control() -> Path:
    """The test origin's control socket."""
    return machine.state_dir() / "origin.sock"


def inside(*command: str | Path) -> list[str]:
    """The command, moved to the orchestrator's place on the LAN."""
    return ["nsenter", f"--net=/run/netns/{namespace()}", *map(str, command)]


def up() -> None:
    """Something answers there: what was there before, else the planner. Idempotent."""
    if _attached() and _answers():
        return
    down()
    space, name = namespace(), _link()
    machine.run(["ip", "netns", "add", space])
    machine.run(
        ["ip", "-n", machine.namespace(), *f"link add {name} type veth peer lan netns {space}".split()]
    )
    machine.run(["ip", "-n", machine.namespace(), *f"link set {name} master {lan.BRIDGE} up".split()])
    for command in (
        "link set lo up",
        f"addr add {ADDRESS}/{lan.NETWORK.prefixlen} dev lan",
        "link set lan up",
        f"route add default via {lan.GATEWAY}",
    ):
        machine.run(["ip", "-n", space, *command.split()])
    planner()


def planner() -> None:
    """The example planner, with the first backend as its Redis; in place of whatever answered there."""
    _end_processes()
    backend = inventory.backends[0][1]["address"]
    url = operator.home() / "redis-url"
    password = tomllib.loads((operator.home() / "secrets.toml").read_text())["redis_okome"]
    url.touch(mode=0o600)
    url.write_text(f"redis://okome:{password}@{backend}:6379/0\n")
    _start(
        *(sys.executable, "-m", "okome.planner"),
        *("--listen", f"{ADDRESS}:{PORT}", "--redis-url-file", url),
        *("--ledger", machine.state_dir() / "ledger.sqlite"),
    )


def test_origin() -> None:
    """The test origin, in its mode `up`; in place of the planner. Idempotent."""
    if not _obeys():
        _end_processes()
        listen = ("--listen", f"{ADDRESS}:{PORT}")
        _start(sys.executable, "-m", "lab.origin", *listen, "--control", control(), until=_obeys)


def another(*command: str | Path) -> None:
    """A server of somebody else's that listens on `PORT`; in place of whatever answered there."""
    _end_processes()
    _start(*command)


def _start(*command: str | Path, until: Callable[[], bool] | None = None) -> None:
    """Returns once it answers: `until` says so, else that somebody listens there."""
    answers = until or _listens
    log = machine.state_dir() / "orchestrator.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            inside(*command),
            cwd=operator.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(
                f"`{' '.join(map(str, command))}` did not start at {ADDRESS}:{PORT}: {log} says why."
            )
        time.sleep(0.1)
    process.returncode = 0  # it outlives us on purpose


def _end_processes() -> None:
    """Ends what answers there, and waits until it does not: what comes next must not be taken for it."""
    pids = [int(pid) for pid in machine.run(["ip", "netns", "pids", namespace()]).split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not all(map(machine.ended, pids)):
        if time.monotonic() > deadline:
            raise LabError(f"what answers at {ADDRESS} could not be ended.")
        time.sleep(0.02)
    control().unlink(missing_ok=True)


def down() -> None:
    """Remove whatever of it exists."""
    if not Path("/run/netns", namespace()).exists():
        return
    _end_processes()
    machine.run(["ip", "netns", "del", namespace()])


def state() -> dict[str, Any]:
    """What stands there, by its mode. To ask changes nothing."""
    if _obeys():
        return origin.tell(control())
    if not _listens():
        raise LabError(f"nothing answers at {ADDRESS}:{PORT}: python -m lab origin planner")
    return {"mode": "planner"}


def tell(**words: Any) -> dict[str, Any]:
    """A command to the test origin (lab/origin.py), and its state; it takes the planner's place if need be."""
    try:
        if "mode" in words:
            origin.check_mode(words["mode"])
        test_origin()
        return origin.tell(control(), **words)
    except ValueError as error:
        raise LabError(f"{error}.") from error
    except OSError as error:
        raise LabError(f"the test origin does not answer ({error}): python -m lab up") from error


def _link() -> str:
    """The LAN's end of the cable."""
    return f"o{machine.name()}"


def _attached() -> bool:
    """Whether it hangs on the LAN that is there now."""
    links = json.loads(machine.run(["ip", "-n", machine.namespace(), "-json", "link"]))
    return any(link["ifname"] == _link() for link in links)


def _answers() -> bool:
    """Whether what stands there does. The test origin may be told not to listen; then it still obeys."""
    return _obeys() or _listens()


def _obeys() -> bool:
    """Whether the test origin is there and takes commands."""
    try:
        origin.tell(control())
    except OSError:
        return False
    return True


def _listens() -> bool:
    return str(PORT) in machine.run(inside("ss", "-Hltn", f"sport = :{PORT}"))
