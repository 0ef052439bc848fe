"""For the test of a mount table that is refused: the last step of the foundation alone."""

from pyinfra import host

from facts.fstab import Fstab
from operations.primitives.config_set import config_set
from operations.services.fstab import fstab

config_set(name="Hardened fstab", config=fstab(host.get_fact(Fstab)))
