"""Several answers in one output, each below its mark."""


def sections(output: list[str]) -> dict[str, list[str]]:
    """Split `::name` marked output into the lines of each section."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output:
        if line.startswith("::"):
            lines = found.setdefault(line[2:], [])
        elif line:
            lines.append(line)
    return found
