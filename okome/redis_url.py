"""The URL that leads to Redis: looked at before any library reads it, for what they say of a bad one may hold a part
of its password; and a file that holds it, read again for each new connection, so that a new password is taken up.
"""

import logging
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from redis.credentials import CredentialProvider

log = logging.getLogger(__name__)

SCHEMES = ("redis://", "rediss://", "unix://")
_RIGHT = (
    "it is redis://USER:PASSWORD@HOST:PORT/DATABASE (or rediss://, or unix://USER:PASSWORD@/PATH), with every character"
    " of the password but letters, digits and -._~ percent-encoded: urllib.parse.quote(password, safe='')"
)


def checked(url: str, what: str = "the URL of Redis") -> SplitResult:
    """Its parts. Raises TypeError or ValueError, in which nothing of the URL stands, nor in what led to them."""
    if not isinstance(url, str):
        raise TypeError(f"{what} is a str, or the Path of a file that holds it; not {type(url).__name__}")
    parts, wrong = _split(url)
    if parts is None or wrong:  # raised here, outside of any `except`: no other error is kept with it
        raise ValueError(f"{what} {wrong}: {_RIGHT}")
    return parts


def _split(url: str) -> tuple[SplitResult | None, str]:
    """The parts, and what is wrong; nothing that may belong to a password is named."""
    if not url.startswith(SCHEMES):
        return None, f"begins with none of {', '.join(SCHEMES)}"
    if any(character.isspace() or not character.isprintable() for character in url):
        return None, "holds a blank or a control character"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for what is no port
    except ValueError:
        return None, "has no port, or no host, where one belongs"
    if parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        return None, "has a / ? or # before its last @"
    if parts.fragment or url.endswith("#"):
        return None, "has a # in it"
    if parts.scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
        return None, "names a database that is no number"
    return parts, ""


class UrlFile(CredentialProvider):
    """Reads user and password from the file that holds the URL, each time that a connection logs in.

    Raises OSError, or ValueError as `checked`, at first; later, while the file is not there or is being written, the
    last ones are used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self.read()

    def read(self) -> SplitResult:
        """The parts of the URL that is in it now."""
        try:
            text = self.path.read_bytes().decode()
        except UnicodeDecodeError:
            text = "\0"
        return checked(text.strip(), f"what is in {self.path}")

    @property
    def url(self) -> str:
        """Without user and password."""
        userinfo, at, _ = self._known.netloc.rpartition("@")
        return self._known.geturl().replace(userinfo + at, "", 1) if at else self._known.geturl()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            self._known = self.read()
        except (OSError, ValueError) as error:
            log.warning("going on with the password that was known: %s", error)
        user, password = unquote(self._known.username or ""), unquote(self._known.password or "")
        if not password:
            return ()  # type: ignore[return-value]  # nobody logs in, which redis-py takes it for
        return (user, password) if user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()
