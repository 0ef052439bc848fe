"""Runs of the deploys that change nothing, beside an Ansible playbook that does the same work and an empty deploy.

The playbook does what the backend's deploy does. Both run in one lab, against one node, in turns, so that what
else the machine does meets both. Each run is a cold process (with compiled bytecode) and a connection of its
own, with the same SSH key and its default output, which is read to make sure that nothing changed. pyinfra runs
with -y; Ansible with pipelining and ControlPersist. The node was deployed by pyinfra, and the playbook,
bench/deploy_playbook.yml, must then find nothing to change: so both assert the same state.

Commands on the wire are counted by the node's own sshd: at LogLevel VERBOSE it logs "Starting session" for
every channel that runs something, a command as well as sftp, whoever opens it and however. That is on for
untimed runs only.

An empty deploy is what no run of pyinfra can be faster than: it reads the inventory, connects, and has nothing to do.
Each role's no-op run stands beside it, again in turns, on the same host.

The times are medians of `ROUNDS`, the ratio is the one of the medians. The delay is added on the way to the
node, so a round trip takes so much longer; what it really takes is measured first.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import inventory
from bench.delay import delayed
from bench.measure import Measure
from group_data import all as every_node
from group_data import backends
from lab import LabError, machine
from lab.node import Node
from lab.operator import as_caller, deploy, environment, hand_over, home
from operations.primitives.address_file import PRIORITY
from operations.primitives.kept_aside import REPLACED
from operations.primitives.managed import MANAGED
from operations.primitives.secret import load
from operations.services.redis import STOP_S, maxmemory, sha256

LAB = "bdeploy"  # its own, so that another bench may run beside it
NODE = inventory.backends[0][0]
DELAYS = (0, 5)  # ms
ROUNDS = 3
FASTER = 10  # times; the goal
COMMANDS = 24  # the goal
FLOOR_ROUNDS = 5
# Times an empty deploy: the goals, by host.
FLOORS = {inventory.backends[0][0]: 2.0, inventory.frontends[0][0]: 2.5}
RUN_SECONDS = 300
ROOT = Path(__file__).resolve().parent.parent
PLAYBOOK = Path(__file__).with_name("deploy_playbook.yml")
LOG_SESSIONS = "/etc/ssh/sshd_config.d/bench.conf"


class NotANoOpError(Exception):
    """A run that should have changed nothing did, or failed."""


@dataclass(frozen=True)
class Tool:
    """How a tool is run, and what the last line of its default output says."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    pattern: re.Pattern[str]

    def changed(self, output: str) -> int:
        """How many changes the run says it made. NotANoOpError if it does not say, or tells of an error."""
        match = self.pattern.search(output)
        if not match:
            raise NotANoOpError(f"{self.name} did not come to its end:\n{output[-2000:]}")
        return int(match["changed"].replace("-", "0"))


# pyinfra's last line of results: hosts × operations, and of them Success (changed), Error, No Change.
PYINFRA = re.compile(r"Grand total +(?:\d+|-) +(?P<changed>\d+|-) +- +(\d+|-)\s")
ANSIBLE = re.compile(r" ok=\d+ +changed=(?P<changed>\d+) +unreachable=0 +failed=0 ")


def pyinfra(name: str, *more: str) -> Tool:
    return Tool("pyinfra", (*deploy(name), "-y", *more), environment(), PYINFRA)


def nothing(name: str) -> Tool:
    """pyinfra with an empty deploy, which is about this host because it is called after it."""
    empty = home() / "empty" / f"{name}.py"
    empty.parent.mkdir(exist_ok=True)
    empty.write_text('"""Nothing."""\n')
    hand_over(empty.parent, empty)
    return Tool("empty", ("pyinfra", "inventory.py", str(empty), "-y"), environment(), PYINFRA)


def own() -> Path:
    """Ansible's folder: settings, inventory, and the sockets of its connections."""
    return home() / "ansible"


def ansible() -> Tool:
    """Ansible, with its settings and its inventory written for the lab."""
    settings, hosts = own() / "ansible.cfg", own() / "hosts.json"
    own().mkdir(exist_ok=True)
    settings.write_text(
        f"[defaults]\nhome = {own() / 'home'}\n"
        f"[ssh_connection]\npipelining = True\ncontrol_path_dir = {own() / 'control'}\n"
    )
    hosts.touch(0o600)
    hosts.write_text(json.dumps({"all": {"hosts": {NODE: host_variables()}}}))
    hand_over(own(), settings, hosts)
    command = ("ansible-playbook", "-i", str(hosts), str(PLAYBOOK))
    return Tool("ansible", command, environment() | {"ANSIBLE_CONFIG": str(settings)}, ANSIBLE)


def host_variables() -> dict[str, Any]:
    """What inventory.py and group_data say of the node, and how Ansible reaches it: the same way."""
    given = {
        key: value
        for module in (every_node, backends)
        for key, value in vars(module).items()
        if isinstance(value, (str, int, list, dict)) and not key.startswith(("_", "ssh_"))
    }
    known = environment()
    secrets = load(Path(known["OKOME_SECRETS"]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **given,
        "address": address(),
        "address_priority": PRIORITY,
        "managed": MANAGED,
        "replaced": REPLACED,
        "stop_s": STOP_S,
        "maxmemory": maxmemory(backends.redis_maxmemory, memory),
        "okome_sha256": sha256(secrets["redis_okome"]),
        "exporter_sha256": sha256(secrets["redis_exporter"]),
        "ansible_host": address(),
        "ansible_user": every_node.ssh_user,
        "ansible_ssh_private_key_file": known["OKOME_SSH_KEY"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={known['OKOME_KNOWN_HOSTS']}",
        # Spares it the search.
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def address() -> str:
    return dict(inventory.backends)[NODE]["address"]


def timed(tool: Tool, first: bool = False) -> float:
    """Run a tool once, as the operator; returns seconds. Only the first run may change something."""
    before = time.monotonic()
    done = subprocess.run(
        machine.in_lan(*as_caller(), *tool.command),
        cwd=ROOT,
        env=tool.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - before
    # Ansible's connection stays open for a minute, and the next run is to make a new one.
    for socket in own().glob("control/*"):
        machine.run(machine.in_lan("ssh", "-O", "exit", "-o", f"ControlPath={socket}", NODE))
    changed = tool.changed(done.stdout)
    if changed and not first:
        raise NotANoOpError(f"{tool.name} changed {changed} on a finished node:\n{done.stdout}")
    return seconds


def sessions(node: Node) -> int:
    """How many channels sshd has opened since it logs them."""
    log = machine.run(node.command("journalctl", "-o", "cat", "-t", "sshd", "-t", "sshd-session"))
    return log.count("Starting session: ")


def counted(node: Node, tools: tuple[Tool, ...]) -> dict[str, int]:
    """Commands on the wire, for one run of each tool."""
    reload = ("systemctl", "reload", "ssh")
    machine.run(node.command("sh", "-c", f"echo LogLevel VERBOSE >{LOG_SESSIONS}"))
    machine.run(node.command(*reload))
    counts = {}  # Ansible's first run also brings python3-apt, which its module for apt needs
    try:
        for tool in tools:
            before = sessions(node)
            timed(tool)
            counts[tool.name] = sessions(node) - before
    finally:
        machine.run(node.command("rm", LOG_SESSIONS))
        machine.run(node.command(*reload))
    return counts


def lab(*command: str) -> None:
    """A command of the lab, its output where progress goes."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *command], cwd=ROOT, stdout=sys.stderr, timeout=900, check=False
    )
    if done.returncode != 0:
        raise LabError(f"`python -m lab {' '.join(command)}` failed.")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def in_turns(tools: tuple[Tool, ...], rounds: int, what: str) -> dict[str, float]:
    """Median seconds of each tool; each round runs all of them."""
    took: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for number in range(rounds):
        for tool in tools:
            took[tool.name].append(timed(tool))
        times = ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in took.items())
        say(f"{what}, round {number + 1} of {rounds}: {times}")
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def beside_nothing(name: str, goal: float) -> list[Measure]:
    """A role's no-op run ÷ that of an empty deploy on the same host."""
    took = in_turns((nothing(name), pyinfra(name)), FLOOR_ROUNDS, name)
    times = f"an empty deploy there: {took['empty']:.2f} s, median of {FLOOR_ROUNDS}"
    return [
        Measure(f"no-op run of {name}", took["pyinfra"], "s", times),
        Measure(f"times an empty deploy, {name}", took["pyinfra"] / took["empty"], "x", times, goal=goal),
    ]


def measures() -> list[Measure]:
    lab("up", "--fresh", *FLOORS)
    for name in FLOORS:
        say(f"{name}: first deploy")
        timed(pyinfra(name, "--data", f"ssh_hostname={Node(name).ssh_address()}"), first=True)
    node = Node(NODE)
    tools = (pyinfra(NODE), ansible())
    say("untimed runs: nothing may change; commands are counted")
    counts = counted(node, tools)

    against = f"ansible-core {version('ansible-core')}, pipelining, ControlPersist"
    found = [
        Measure("commands of a no-op run", counts["pyinfra"], "commands", goal=COMMANDS),
        Measure("commands of Ansible", counts["ansible"], "commands"),
    ]
    for name, goal in FLOORS.items():
        found += beside_nothing(name, goal)
    for delay in DELAYS:
        with delayed(node, address(), delay) as round_trip:
            took = in_turns(tools, ROUNDS, f"{delay} ms")
        fast, slow = took["pyinfra"], took["ansible"]
        found += [
            Measure(f"round trip, {delay} ms added", round_trip, "ms"),
            Measure(f"no-op run, {delay} ms added", fast, "s", f"median of {ROUNDS}"),
            Measure(f"Ansible, {delay} ms added", slow, "s", f"median of {ROUNDS}"),
            Measure(f"times faster, {delay} ms added", slow / fast, "x", against, goal=FASTER, sense=">="),
        ]
    return found


def run() -> list[Measure]:
    """Boots a lab of its own name, and takes it down whatever happens."""
    os.environ["OKOME_LAB"] = LAB
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        machine.require()
        try:
            return measures()
        finally:
            lab("down")
    except (LabError, NotANoOpError, subprocess.TimeoutExpired) as error:
        sys.exit(f"bench: {error}")
