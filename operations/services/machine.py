"""What a node has to be before anything of ours can be done to it."""

from facts.machine import MachineState

RELEASES = ("debian bookworm", "debian trixie", "raspbian bookworm", "raspbian trixie")


def findings(state: MachineState, user: str) -> list[str]:
    """What stands in the way, one sentence each. `user` is the operator's name on the node."""
    said = []
    if "must have a tty" in state["sudo"]:
        said.append(
            "sudo wants a terminal, which a deploy has not (requiretty):"
            f" add `Defaults:{user} !requiretty` to a file in /etc/sudoers.d"
        )
    elif "password is required" in state["sudo"]:
        said.append(
            f"{user} needs sudo without a password: add `{user} ALL=(ALL) NOPASSWD: ALL` to a file in /etc/sudoers.d"
        )
    elif state["sudo"]:
        said.append(f"{user} can't become root: {state['sudo']}")
    if state["release"] not in RELEASES:
        said.append(f"it runs {state['release']}; Debian bookworm or trixie is needed")
    return said
