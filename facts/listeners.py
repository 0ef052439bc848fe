"""Who listens on the ports that are to be ours."""

from dataclasses import dataclass

from facts.answer import Answer

EVERYWHERE = "0.0.0.0"  # noqa: S104 - read of a socket, bound by nobody here


@dataclass(frozen=True)
class Listener:
    """One listening socket: `address` as ss prints it ("0.0.0.0"; "[::]" for all of IPv6, "*" for both;
    "127.0.0.1%lo"); `pid` and `unit` are "-" where there is none."""

    address: str
    port: int
    process: str
    pid: str
    unit: str

    def takes(self, address: str) -> bool:
        """Whether nobody else can listen on that IPv4 address and this port."""
        mine = self.address.partition("%")[0].strip("[]").removeprefix("::ffff:")
        return mine == "*" or (":" not in mine and (mine == address or EVERYWHERE in (mine, address)))


def parse(output: list[str]) -> tuple[Listener, ...]:
    """`ADDRESS:PORT PID UNIT PROCESS` lines."""
    found = []
    for line in output:
        socket, pid, unit, process = line.split(" ", 3)
        address, _, port = socket.rpartition(":")
        found.append(Listener(address, int(port), process, pid, unit))
    return tuple(found)


class Listeners(Answer[tuple[Listener, ...]]):
    """Who listens on one of these TCP ports; root's to know.

    **Example:**

    .. code:: python

        host.get_fact(Listeners, ports=(80, 443))
    """

    def command(self, ports: tuple[int, ...]) -> str:
        wanted = " or ".join(f"sport = :{port}" for port in ports)
        # What a user's own service manager runs is in a unit of which root's knows nothing.
        return rf"""
            ss -Hltnp '( {wanted} )' | while read -r _ _ _ address _ users; do
                pid=${{users#*pid=}}; pid=${{pid%%,*}}
                unit=$(grep -v /user@ "/proc/$pid/cgroup" 2>/dev/null | grep -o '[^/]*\.service' | tail -n 1)
                echo "$address ${{pid:--}} ${{unit:--}} $(cat "/proc/$pid/comm" 2>/dev/null)"
            done
        """

    def read(self, output: list[str]) -> tuple[Listener, ...]:
        return parse(output)

    @staticmethod
    def default() -> tuple[Listener, ...]:
        return ()
