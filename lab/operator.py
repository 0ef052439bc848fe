"""The operator of the lab: an SSH key, a known_hosts file and secrets of the lab's own."""

import os
import pwd
import sys
from pathlib import Path

from lab import machine

REPOSITORY = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The operator's files; they go when the lab goes."""
    return machine.state_dir() / "operator"


def prepare() -> None:
    """The lab's own secrets, as `make secrets` makes them for production."""
    machine.run([sys.executable, "-m", "console.secrets"], env=environment())
    hand_over(home() / "secrets.toml")


def forget_hosts() -> None:
    """A new node has new host keys, and may get an address that another one had."""
    (home() / "known_hosts").write_text("")
    hand_over(home() / "known_hosts")


def public_key() -> str:
    """The operator's public key, made on first use."""
    private = home() / "id_ed25519"
    if not private.exists():
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        machine.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator of the lab", "-f", private]
        )
        hand_over(home(), private, private.with_suffix(".pub"))
    return private.with_suffix(".pub").read_text().strip()


def environment() -> dict[str, str]:
    """What an operator's command sees: where the key, the known hosts and the secrets are."""
    uid = os.environ.get("SUDO_UID")
    caller = pwd.getpwuid(int(uid)) if uid else None
    return (
        os.environ
        | ({"HOME": caller.pw_dir, "USER": caller.pw_name} if caller else {})
        | {
            "OKOME_SSH_KEY": str(home() / "id_ed25519"),
            "OKOME_KNOWN_HOSTS": str(home() / "known_hosts"),
            "OKOME_SECRETS": str(home() / "secrets.toml"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        }
    )


def as_caller() -> list[str]:
    """Who called sudo runs the command, not root: so that nothing in the checkout becomes root's."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if uid and gid:
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
    return []


def deploy(node: str) -> list[str]:
    """How the operator deploys one node: by the file of its name, and where there is none by that of all nodes."""
    own = f"deploys/{node}.py"
    what = [own] if (REPOSITORY / own).exists() else ["deploys/site.py", "--limit", node]
    return ["pyinfra", "inventory.py", *what]


def hand_over(*paths: Path) -> None:
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if uid and gid:
        for path in paths:
            os.chown(path, int(uid), int(gid))
