"""Kernel settings, in effect now; the file that sets them at boot is a config set of its own."""

from collections.abc import Generator, Mapping

from pyinfra import host, logger
from pyinfra.api import OperationValueError, QuoteString, StringCommand, operation

from facts.several import Question
from facts.sysctl import Setting, Sysctl
from operations.primitives.foretold import foretold, present


def different(settings: Mapping[str, str], found: Mapping[str, Setting]) -> tuple[list[str], list[str]]:
    """The keys that are to be set now, and those that are read-only here. OperationValueError: there is no such."""
    if unknown := [key for key in settings if key not in found]:
        raise OperationValueError(f"this kernel has no {', '.join(unknown)}")
    others = [key for key, value in settings.items() if found[key].value != value]
    settable = [key for key in others if found[key].writable]
    return settable, [key for key in others if key not in settable]


def _question(settings: Mapping[str, str], **_: object) -> Question:
    return Question(Sysctl, {"keys": tuple(settings)})


@foretold(_question)
@operation()
def sysctl(settings: Mapping[str, str]) -> Generator[StringCommand, None, None]:
    """
    Bring kernel settings into effect.

    + settings: key → value, both as sysctl.conf(5) writes them

    A setting that is read-only here, as in a container, is reported and left: the file sets it at boot.

    **Example:**

    .. code:: python

        sysctl(settings={"net.core.somaxconn": "4096"})
    """
    found = present(_question(settings))
    settable, kept = different(settings, found)
    for key in kept:
        logger.info(f"{host.print_prefix}{key} is {found[key].value} and read-only here: left as it is")
    if not settable:
        host.noop("kernel settings are in effect")
    for key in settable:
        yield StringCommand("sysctl", "-q", "-w", QuoteString(f"{key}={settings[key]}"))
