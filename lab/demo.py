"""The main job, shown in the lab: two bare nodes become the tier, a second run changes nothing, testinfra agrees."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lab import LabError, machine, orchestrator
from lab.client import FRONTEND, Client
from lab.node import Node

LAB = [sys.executable, "-m", "lab"]
NODES = ("cn01", "cn00")  # the backend first: what stands before it finds it there
QUESTION = {
    "model": "rice-1",
    "temperature": 0,
    "messages": [{"role": "user", "content": "how does rice cook?"}],
}


def title(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def step(text: str, *command: str) -> None:
    """Show a command, run it, stop at its failure."""
    title(text)
    print("$ " + " ".join(command).replace(sys.executable, ".venv/bin/python"), flush=True)
    started = time.monotonic()
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise LabError(f"that failed (exit {done.returncode}); the lab is still up: python -m lab status")
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)


def deploy(name: str) -> list[str]:
    return ["pyinfra", "inventory.py", f"deploys/{name}.py", "-y"]


def changes() -> int:
    """The number of operations that a run on all nodes changes, by pyinfra's own count."""
    done = subprocess.run(
        [*LAB, "run", "--", *deploy("site"), "--json"], stdout=subprocess.PIPE, check=False, timeout=600
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
    try:
        step("Two nodes as bare as new Pis, on a LAN of their own", *LAB, "up", *NODES, "--fresh")
        for name in NODES:
            leased = Node(name).wait_for_ssh()
            step(
                f"First contact: {name} at its DHCP address, {leased}; it ends at its own, in the same run",
                *LAB, "run", "--", *deploy(name), "--data", f"ssh_hostname={leased}",
            )  # fmt: skip
        title("The same again, both nodes at once: nothing may change")
        print("$ " + " ".join(deploy("site")), flush=True)
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
    print(
        f"  LAN           192.168.86.0/24, network namespace {machine.namespace()}; your machine has no route to it"
    )
    for name, program in (("cn00", "nginx -v 2>&1"), ("cn01", "redis-server --version | cut -d' ' -f1-3")):
        node = Node(name)
        status = node.status()
        version = machine.run(node.command("sh", "-c", program)).strip()
        print(f"  {name}          {status['address']}, Debian {status['suite']}, {version}")
    print(f"""  orchestrator  {orchestrator.ADDRESS}:{orchestrator.PORT}, the example planner

Look further ({as_root}.venv/bin/python -m lab --help has it all):
  .venv/bin/python -m lab status
  .venv/bin/python -m lab run -- pyinfra inventory.py deploys/cn01.py
  .venv/bin/python -m lab power cn01 cut        a power loss; `on` ends it
  .venv/bin/python -m lab origin hanging        what the frontend does then: .venv/bin/python -m lab run -- okome status
  .venv/bin/python -m lab shell cn01            inside, as root
  make down                                     removes every trace
""")


if __name__ == "__main__":
    sys.exit(main())
