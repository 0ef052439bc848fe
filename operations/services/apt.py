"""apt as every run of ours, and everybody else's on the node, finds it: conffiles kept, its lock waited for."""

from collections.abc import Iterable

from facts.packages import SourceErrors
from facts.several import Question
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.preflight import Look

# What is absent is what it was called: of what others set, the file whose name sorts last wins.
APT = ConfigSet(
    (ConfigFile("/etc/apt/apt.conf.d/zz-okome"), ConfigFile("/etc/apt/apt.conf.d/80okome", absent=True))
)


def look(names: Iterable[str]) -> Look:
    """Whether apt can install these packages, as far as that is known without asking for anything."""
    return Look(
        (Question(SourceErrors, {"names": tuple(dict.fromkeys(names))}),),
        lambda errors: [f"apt can install nothing: {one}; mend that, or remove it" for one in errors],
    )
