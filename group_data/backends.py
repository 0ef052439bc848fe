"""What the backends share: Redis. Every tunable is here, with its unit."""

from typing import Annotated

from group_data.valid import Form, Port
from okome.acl import rights

redis_port: Port = 6379
# Bytes with Redis' own suffixes ("4gb" is 4 × 1024³), or a share of the node's RAM such as "50%". Refused
# where it does not fit: operations/services/redis.py has the rule.
redis_maxmemory: Annotated[
    str, Form(r"(?i)[1-9]\d*(%|[kmg]b?)?", 'an amount such as "4gb" or a share such as "50%"')
] = "4gb"
# What the application user may reach and do, in the words of Redis' ACL. Not to be tuned here: it is what the
# library says it needs, its key prefix included (okome/acl.py).
redis_application_rights: str = rights()
