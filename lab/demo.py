"""The main job, shown in the lab: two bare nodes become the tier, a second run changes nothing, testinfra agrees."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import inventory
from lab import LabError, lan, machine, orchestrator
from lab.client import FRONTEND, Client
from lab.node import Node
from lab.operator import deploy

LAB = [sys.executable, "-m", "lab"]
# A node's own program that says its version, by group.
VERSIONS = {"backends": "redis-server --version | cut -d' ' -f1-3", "frontends": "nginx -v 2>&1"}
# The backends first: what stands before them finds them there.
NODES = {
    name: group
    for group, hosts in (("backends", inventory.backends), ("frontends", inventory.frontends))
    for name, _ in hosts
}
SITE = ["pyinfra", "inventory.py", "deploys/site.py", "-y"]
QUESTION = {
    "model": "rice-1",
    "temperature": 0,
    "messages": [{"role": "user", "content": "how does rice cook?"}],
}


def title(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


def show(*command: str) -> None:
    """A command, as it is typed."""
    print("$ " + " ".join(command).replace(sys.executable, ".venv/bin/python"), flush=True)


def step(text: str, *command: str) -> None:
    """Show a command, run it, stop at its failure."""
    title(text)
    show(*command)
    started = time.monotonic()
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise LabError(f"that failed (exit {done.returncode}); the lab is still up: python -m lab status")
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)


def changes() -> int:
    """The number of operations that a run on all nodes changes, by pyinfra's own count."""
    done = subprocess.run(
        [*LAB, "run", "--", *SITE, "--json"], stdout=subprocess.PIPE, check=False, timeout=600
    )
    if done.returncode != 0:
        raise LabError(f"the second run failed (exit {done.returncode})")
    return int(json.loads(done.stdout)["results"]["totals"]["success"])


def ask() -> None:
    """One question, three times, from a client on the LAN: through nginx, to the planner, and from Redis."""
    path = "/v1/chat/completions"
    print(f"$ curl http://{FRONTEND}{path} --json '{json.dumps(QUESTION)}'    # three times")
    with Client(Path("/run/netns") / machine.namespace()) as client:
        for _ in range(3):
            started = time.monotonic()
            answer = client.ask(
                path,
                method="POST",
                body=json.dumps(QUESTION),
                Authorization="Bearer demo",
                Content_Type="application/json",
            )
            took = (time.monotonic() - started) * 1000
            if answer.status != 200:
                raise LabError(f"the tier answered {answer.status}: {answer.body.decode(errors='replace')}")
            left = answer.header("x-ratelimit-remaining-tokens")
            cost = f"{left} tokens left today" if left else "no tokens spent"
            print(f"   {answer.status}  {answer.header('X-OKOME-Cache')}  {took:6.1f} ms  {cost}", flush=True)


def main() -> int:
    """The demo, step by step."""
    argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__).parse_args()
    try:
        step("Nodes as bare as new Pis, on a LAN of their own", *LAB, "up", *NODES, "--fresh")
        for name in NODES:
            leased = Node(name).wait_for_ssh()
            step(
                f"First contact: {name} at its DHCP address, {leased}; it ends at its own, in the same run",
                *LAB, "run", "--", *deploy(name), "-y", "--data", f"ssh_hostname={leased}",
            )  # fmt: skip
        title("The same again, all nodes at once: nothing may change")
        show(*LAB, "run", "--", *SITE)
        if changed := changes():
            raise LabError(f"the second run changed {changed} operations.")
        print("   0 operations changed")
        step(
            "testinfra: is this what finished nodes are?",
            *LAB, "run", "--", sys.executable, "-m", "pytest", "-q", "--no-header", "tests/verify",
        )  # fmt: skip
        title("One question, asked three times, from a client on the LAN")
        ask()
        step("The tier in one table", *LAB, "run", "--", "okome", "status")
        summary()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def summary() -> None:
    """What runs where now, asked from the nodes."""
    as_root = "as root: " if "SUDO_UID" in os.environ else ""
    title("What runs now")
    width = 2 + max(map(len, (*NODES, "orchestrator")))
    print(
        f"  {'LAN':{width}}{lan.NETWORK}, network namespace {machine.namespace()}; your machine has no route to it"
    )
    for name, group in NODES.items():
        node = Node(name)
        status = node.status()
        version = machine.run(node.command("sh", "-c", VERSIONS[group])).strip()
        print(f"  {name:{width}}{status['address']}, Debian {status['suite']}, {version}")
    print(f"  {'orchestrator':{width}}{orchestrator.ADDRESS}:{orchestrator.PORT}, the example planner")
    further = {
        "status": "",
        f"run -- {' '.join(deploy(name))}": "",
        f"power {name} cut": "a power loss; `on` ends it",
        "origin hanging": "what the frontend does then: .venv/bin/python -m lab run -- okome status",
        f"shell {name}": "inside, as root",
    }
    print(f"\nLook further ({as_root}.venv/bin/python -m lab --help has it all):")
    for words, what in further.items():
        print(f"  {f'.venv/bin/python -m lab {words}':44}  {what}".rstrip())
    print(f"  {'make down':44}  removes every trace\n")


if __name__ == "__main__":
    sys.exit(main())
