"""How much memory the node has."""

from facts.answer import Answer


class MemoryTotal(Answer[int]):
    """RAM that the kernel can use, in bytes: MemTotal of /proc/meminfo.

    pyinfra's own hardware.Memory needs vmstat, which a minimal Debian lacks. Inside a container this is the
    machine's memory.
    """

    def command(self) -> str:
        return "grep -m1 '^MemTotal:' /proc/meminfo"

    def read(self, output: list[str]) -> int:
        _, kibibytes, _ = output[0].split()
        return int(kibibytes) * 1024
