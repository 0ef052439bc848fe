"""How everything but pyinfra reaches a node: as the deploy does, with its key and known hosts."""

import os

from group_data.all import ssh_user


def options() -> dict[str, str]:
    """ssh_config(5)'s words. Nothing asks a question; nothing of a stranger's ~/.ssh/config belongs to them: `-F`."""
    said = {
        "User": ssh_user,
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        "ServerAliveInterval": "5",
        "StrictHostKeyChecking": "accept-new",
        "IdentityFile": os.environ.get("OKOME_SSH_KEY"),
        "UserKnownHostsFile": os.environ.get("OKOME_KNOWN_HOSTS"),
    }
    return {name: value for name, value in said.items() if value}
