"""What the backends share: Redis. Every tunable is here, with its unit."""

from okome.acl import APPLICATION_COMMANDS

redis_port = 6379
# Bytes with Redis' own suffixes ("4gb" is 4 × 1024³), or a share of the node's RAM such as "50%". Refused
# where it does not fit: operations/basic_setup.py has the rule.
redis_maxmemory = "4gb"
# The application user reaches keys and channels with this prefix and no others.
redis_prefix = "okome:"
# What it may do with them: what the library says it sends.
redis_commands = list(APPLICATION_COMMANDS)
