"""The main job, shown in the lab: a bare node becomes CN01, a second run changes nothing, testinfra agrees."""

import json
import os
import subprocess
import sys
import time

from lab import LabError, machine
from lab.node import Node

LAB = [sys.executable, "-m", "lab"]
DEPLOY = ["pyinfra", "inventory.py", "deploys/cn01.py", "-y"]


def step(title: str, *command: str) -> None:
    """Show a command, run it, stop at its failure."""
    shown = " ".join(command).replace(sys.executable, ".venv/bin/python")
    print(f"\n\033[1m== {title}\033[0m\n$ {shown}", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise LabError(f"that failed (exit {done.returncode}); the lab is still up: python -m lab status")
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)


def changes() -> int:
    """The number of operations that a run of the deploy changes, by pyinfra's own count."""
    done = subprocess.run(
        [*LAB, "run", "--", *DEPLOY, "--json"], stdout=subprocess.PIPE, check=False, timeout=600
    )
    if done.returncode != 0:
        raise LabError(f"the second run failed (exit {done.returncode})")
    return int(json.loads(done.stdout)["results"]["totals"]["success"])


def main() -> int:
    """The demo, step by step."""
    try:
        step("A node as bare as a new Pi, on a LAN of its own", *LAB, "up", "cn01", "--fresh")
        leased = Node("cn01").wait_for_ssh()
        step(
            f"First contact: at its DHCP address, {leased}; it ends at its own, in the same run",
            *LAB, "run", "--", *DEPLOY, "--data", f"ssh_hostname={leased}",
        )  # fmt: skip
        print("\n\033[1m== The same again: nothing may change\033[0m\n$ " + " ".join(DEPLOY), flush=True)
        if changed := changes():
            raise LabError(f"the second run changed {changed} operations.")
        print("   0 operations changed")
        step(
            "testinfra: is this what a finished node is?",
            *LAB, "run", "--", sys.executable, "-m", "pytest", "-q", "--no-header", "tests/verify", "--node=cn01",
        )  # fmt: skip
        summary()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def summary() -> None:
    """What runs where now, asked from the nodes."""
    status = Node("cn01").status()
    as_root = "as root: " if "SUDO_UID" in os.environ else ""
    redis = machine.run(Node("cn01").command("redis-cli", "--version"))
    print(f"""
\033[1m== What runs now\033[0m
  LAN           192.168.86.0/24, network namespace {machine.namespace()}; your machine has no route to it
  cn01          {status["address"]}, Debian {status["suite"]}, Redis {redis.split()[1]} on port 6379

Look further ({as_root}.venv/bin/python -m lab --help has it all):
  .venv/bin/python -m lab status
  .venv/bin/python -m lab run -- pyinfra inventory.py deploys/cn01.py
  .venv/bin/python -m lab power cn01 cut        a power loss; `on` ends it
  .venv/bin/python -m lab shell cn01            inside, as root
  make down                                     removes every trace
""")


if __name__ == "__main__":
    sys.exit(main())
