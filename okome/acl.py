"""What the application user of CN01 may do: the keys, the channels and the commands of the library, nothing else.

The node's users.acl is rendered from `rights` and tests/unit/okome/test_acl.py runs the library under it, so that
neither can drift. Commands inside a Lua script are checked against the ACL as well. HELLO and AUTH need no
entry: Redis lets everybody log in.
"""

from collections.abc import Iterable

PREFIX = "okome:"
"""Every key and channel of the library begins with it."""

APPLICATION_COMMANDS: tuple[str, ...] = (
    # Reading
    "get",
    "mget",
    "getrange",
    "pttl",
    "hget",
    "hmget",
    "hgetall",
    # Writing
    "set",
    "del",
    "pexpire",
    "hset",
    "hdel",
    # Waking those who wait
    "publish",
    "subscribe",
    "ping",
    # Deciding in one round trip, by one clock
    "eval",
    "evalsha",
    "time",
)

CLUSTER_COMMANDS: tuple[str, ...] = ("cluster|slots", "command")
"""What the client of a Redis Cluster asks for besides."""


def rights(commands: Iterable[str] = APPLICATION_COMMANDS) -> str:
    """As Redis' ACL says it: ~keys &channels +command +command ..."""
    return " ".join([f"~{PREFIX}*", f"&{PREFIX}*", *(f"+{command}" for command in commands)])
