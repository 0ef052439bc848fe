"""The LAN in a box: real booted nodes, with the production addresses, on one Linux machine."""


class LabError(Exception):
    """What went wrong, in one sentence for the person at the terminal."""
