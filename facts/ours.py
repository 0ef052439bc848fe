"""Where on a node stands what is ours and no configuration file; what more than one fact asks for."""

# What outlives a deploy. node/guard.py and node/transaction.py, which stand alone on a node, have it too.
STATE = "/var/lib/okome"
GUARD = "/usr/local/lib/okome/guard.py"
