"""How pyinfra itself runs here."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import inventory

ROOT = Path(__file__).parents[2]


def test_a_peer_that_is_no_ssh_server_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        port, name = server.getsockname()[1], inventory.backends[0][0]
        done = subprocess.run(
            [sys.executable, "-m", "pyinfra", "inventory.py", "deploys/site.py", "--limit", name, "--dry",
             "--data", "ssh_hostname=127.0.0.1", "--data", f"ssh_port={port}"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        server.shutdown(socket.SHUT_RDWR)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"[{name}] SSH error (Error reading SSH protocol banner" in said  # and why, if it says so
    assert "Traceback" not in said
