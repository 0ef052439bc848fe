"""What stands at .25:8000 in the lab: the test origin, in a network namespace of its own on the LAN."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab import LabError, lan, machine, origin

ADDRESS, PORT = "192.168.86.25", 8000
REPOSITORY = Path(__file__).resolve().parents[1]


def namespace() -> str:
    return f"{machine.namespace()}-25"


def control() -> Path:
    """The test origin's control socket."""
    return machine.state_dir() / "origin.sock"


def inside(*command: str | Path) -> list[str]:
    """The command, moved to the orchestrator's place on the LAN."""
    return ["nsenter", f"--net=/run/netns/{namespace()}", *map(str, command)]


def up() -> None:
    """The test origin answers, in the mode it was in; `up` if it was not there. Idempotent."""
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
    with (machine.state_dir() / "origin.log").open("ab") as log:
        subprocess.Popen(
            inside(
                sys.executable, "-m", "lab.origin", "--listen", f"{ADDRESS}:{PORT}", "--control", control()
            ),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 20
    while not _answers():
        if time.monotonic() > deadline:
            raise LabError(f"the test origin did not start: {machine.state_dir() / 'origin.log'} says why.")
        time.sleep(0.05)


def down() -> None:
    """Remove whatever of it exists."""
    if not Path("/run/netns", namespace()).exists():
        return
    for pid in machine.run(["ip", "netns", "pids", namespace()]).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    machine.run(["ip", "netns", "del", namespace()])
    control().unlink(missing_ok=True)


def tell(**words: Any) -> dict[str, Any]:
    """A command to the test origin (lab/origin.py), and its state."""
    try:
        return origin.tell(control(), **words)
    except ValueError as error:
        raise LabError(f"{error}.") from error
    except OSError as error:
        raise LabError("the test origin does not run: python -m lab up") from error


def _link() -> str:
    """The LAN's end of the cable."""
    return f"o{machine.name()}"


def _attached() -> bool:
    """Whether it hangs on the LAN that is there now."""
    links = json.loads(machine.run(["ip", "-n", machine.namespace(), "-json", "link"]))
    return any(link["ifname"] == _link() for link in links)


def _answers() -> bool:
    try:
        origin.tell(control())
    except OSError:
        return False
    return True
