"""What the application user of CN01 may do: every command the library sends, and nothing else.

The node's users.acl is rendered from this tuple and tests/unit/test_acl.py runs the library under it, so that
neither can drift. Commands inside a Lua script are checked against the ACL as well. HELLO and AUTH need no
entry: Redis lets everybody log in.
"""

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
