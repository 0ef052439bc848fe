"""The LAN in a box: boots, reaches and powers the nodes of inventory.py on this machine."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import inventory
from lab import LabError, lan, machine, orchestrator, tree
from lab.node import Node, run_in, say
from lab.operator import as_caller, environment, forget_hosts, prepare, public_key
from lab.pi import MANAGERS


def known_nodes() -> list[str]:
    """The hosts of inventory.py: the lab boots what production has, under the same names."""
    return sorted(name for name, _ in inventory.frontends + inventory.backends)


def up(args: argparse.Namespace) -> int:
    machine.require()
    for name in args.nodes:
        _require_known(name)
    new = lan.up()
    key = public_key()
    prepare()
    orchestrator.up()
    names = args.nodes or known_nodes()
    for node in map(Node, names):
        usual = "trixie" if args.manager == "imager" else "bookworm"
        wanted = {"suite": args.suite or usual, "manager": args.manager or "networkmanager"}
        if node.exists and not args.fresh:
            made = node.made_as
            differs = [
                value
                for given, value in ((args.suite, made["suite"]), (args.manager, made["manager"]))
                if given not in (None, value)
            ]
            if differs:
                raise LabError(f"{node.name} already is {'/'.join(made.values())}; --fresh replaces it.")
        else:
            say(f"{node.name}: a bare {wanted['suite']} node, {wanted['manager']}")
            node.create(wanted["suite"], wanted["manager"], key)
            forget_hosts()
        node.start()
    if new and not lan.has_way_out(Node(names[0]).sources):
        say(
            "Debian's mirror cannot be reached from the LAN, so apt will fail: does a firewall drop forwarded packets?"
        )
    for node in map(Node, names):
        say(f"{node.name} answers SSH at {node.wait_for_ssh()}")
    return 0


def run(args: argparse.Namespace) -> int:
    _require_lan()
    return subprocess.run(
        machine.in_lan(*as_caller(), *args.command), env=environment(), check=False
    ).returncode


def execute(args: argparse.Namespace) -> int:
    return run_in(_node(args.node), args.command)


def shell(args: argparse.Namespace) -> int:
    return run_in(_node(args.node), ["bash", "-l"])


def status(args: argparse.Namespace) -> int:
    nodes = {node.name: node.status() for node in Node.all()}
    if args.json:
        print(json.dumps({"nodes": nodes}, indent=2))
        return 0
    if not nodes:
        print("The lab is down. `python -m lab up` boots it.")
    else:
        print(table(nodes))
    return 0


def table(nodes: Mapping[str, Mapping[str, object]]) -> str:
    """Node → what its status says, a line each."""
    columns = ("state", "address", "suite", "manager")
    rows = [
        ("node", *columns),
        *((name, *(str(facts[c] or "-") for c in columns)) for name, facts in nodes.items()),
    ]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def power(args: argparse.Namespace) -> int:
    node = _node(args.node)
    if args.state == "on":
        node.start()
    else:
        {"off": node.off, "cut": node.cut, "reboot": node.reboot}[args.state]()
    if args.state in ("on", "reboot"):
        say(f"{node.name} answers SSH at {node.wait_for_ssh()}")
    return 0


def down(_: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("the lab needs root.")
    for node in Node.all():
        node.destroy()
    orchestrator.down()
    lan.down()
    shutil.rmtree(machine.state_dir(), ignore_errors=True)
    say(f"down; base trees and packages stay in {machine.cache_dir()} for the next time")
    for left in (machine.state_dir().parent, Path("/run/netns")):
        if left.is_dir():
            if any(left.iterdir()):  # another lab's, or somebody else's
                break
            _remove_empty(left)
    return 0


def origin(args: argparse.Namespace) -> int:
    _require_lan()
    if args.mode == "planner":
        orchestrator.planner()
    elif args.mode:
        print(json.dumps(orchestrator.tell(mode=args.mode)))
        return 0
    print(json.dumps(orchestrator.state()))
    return 0


def packages(_: argparse.Namespace) -> int:
    print(" ".join(machine.missing_packages()))
    return 0


def _remove_empty(directory: Path) -> None:
    while _is_mount(directory):  # `ip netns add` made it one
        machine.run(["umount", directory])
    with contextlib.suppress(OSError):  # another lab is going, or coming, just now
        directory.rmdir()


def _is_mount(directory: Path) -> bool:
    """Also of a folder mounted on itself: Path.is_mount() sees only another file system."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(directory) for line in mounts)


def _require_lan() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root.")
    if not lan.exists():
        raise LabError("the lab is down: python -m lab up")


def _require_known(name: str) -> None:
    if name not in known_nodes():
        raise LabError(f"{name} is not in inventory.py; there is {', '.join(known_nodes())}.")


def _node(name: str) -> Node:
    _require_lan()
    _require_known(name)
    node = Node(name)
    if not node.exists:
        raise LabError(f"there is no node {name}: python -m lab up {name}")
    return node


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        return added

    added = command("up", up, "boot bare nodes at DHCP addresses; those already up stay as they are")
    added.add_argument(
        "nodes", nargs="*", metavar="NODE", help="a host of inventory.py; default: all of them"
    )
    added.add_argument("--suite", choices=tree.SUITES, help="Debian release (bookworm; trixie for imager)")
    added.add_argument("--manager", choices=MANAGERS, help="who manages the network (networkmanager)")
    added.add_argument("--fresh", action="store_true", help="replace nodes that exist by new ones")
    added = command("run", run, "run a command as the operator, inside the LAN, with the credentials set")
    added.add_argument("command", nargs="+", metavar="CMD", help="after `--`: -- okome status")
    added = command("exec", execute, "run a command as root inside a node")
    added.add_argument("node", metavar="NODE")
    added.add_argument("command", nargs="+", metavar="CMD", help="after `--`: -- journalctl -b")
    added = command("shell", shell, "a root shell inside a node")
    added.add_argument("node", metavar="NODE")
    added = command("status", status, "what runs, and where SSH answers")
    added.add_argument("--json", action="store_true", help="for programs")
    added = command("power", power, "off, on, cut (a power loss) or reboot")
    added.add_argument("node", metavar="NODE")
    added.add_argument("state", choices=("off", "on", "cut", "reboot"))
    added = command(
        "origin",
        origin,
        "what stands for the orchestrator: `planner`, or the test origin in one of its modes",
    )
    added.add_argument(
        "mode",
        nargs="?",
        metavar="MODE",
        help="planner, up, down, killed, hanging, slow:SECONDS, closing, 500, 502, 503, 504; default: as it is",
    )
    command("packages", packages, "print the Debian packages that the lab needs and this machine lacks")
    command("down", down, "remove every trace of the lab from the machine")
    return parser


def main() -> int:
    args = _parser().parse_args()
    os.umask(0o022)  # a node is made of folders that its own users have to read
    try:
        if args.function not in (up, power, down) or os.geteuid() != 0:
            return int(args.function(args))
        with machine.alone(machine.namespace()):
            return int(args.function(args))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
