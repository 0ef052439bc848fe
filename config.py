"""How pyinfra itself runs here; it reads this file before anything else."""

from gevent.hub import Hub
from pyinfra.api.exceptions import PyinfraError

# An operation that refuses its input says so in one sentence, which pyinfra prints; gevent would print the
# traceback of it as well.
Hub.NOT_ERROR += (PyinfraError,)
