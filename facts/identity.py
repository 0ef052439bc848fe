"""Who a node says it is: its hostname, and what /etc/hosts says."""

import base64
from dataclasses import dataclass

from facts.answer import Answer

HOSTS = "/etc/hosts"


@dataclass(frozen=True)
class IdentityState:
    """`hostname`: now; `static`: at the next boot; `hosts`: all of /etc/hosts (bytes as surrogateescape)."""

    hostname: str
    static: str
    hosts: str


def parse(output: list[str]) -> IdentityState:
    """Three lines: `=HOSTNAME`, `=HOSTNAME`, and the file in base64 behind a `=`."""
    hostname, static, hosts = (line.removeprefix("=") for line in output)
    return IdentityState(hostname, static, base64.b64decode(hosts).decode(errors="surrogateescape"))


class Identity(Answer[IdentityState]):
    """The node's names."""

    def command(self) -> str:
        # base64, because pyinfra hands over lines and a file is more than its lines.
        return f"echo =$(uname -n); echo =$(cat /etc/hostname); echo =$(base64 -w 0 {HOSTS})"

    def read(self, output: list[str]) -> IdentityState:
        return parse(output)
