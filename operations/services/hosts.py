"""The node's own name in /etc/hosts: without it sudo complains, and waits for DNS, at every command."""

from facts.identity import HOSTS
from operations.primitives.config_set import ConfigFile, ConfigSet

# Debian's address for the name of a machine; loopback, and no other name's.
OWN = "127.0.1.1"


def hosts(text: str, hostname: str) -> ConfigSet:
    """The file, which is `text` now, with the node's name."""
    return ConfigSet((ConfigFile(HOSTS),), values={"hosts": named(text, hostname)})


def named(text: str, hostname: str) -> str:
    """The same /etc/hosts with `hostname` at OWN, first of the names there; every other byte as it was.

    Names are compared as the resolver does, without case. A last line without a newline is whole as it is.
    """
    lines = text.split("\n")
    entries = [number for number, line in enumerate(lines) if _fields(line)[:1] == [OWN]]
    if any(hostname.lower() in _fields(lines[number].lower()) for number in entries):
        return text
    if entries:
        lines[entries[0]] = lines[entries[0]].replace(OWN, f"{OWN} {hostname}", 1)
        return "\n".join(lines)
    end = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{end}{OWN}\t{hostname}\n"


def _fields(line: str) -> list[str]:
    return line.partition("#")[0].split()
