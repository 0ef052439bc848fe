"""What the nginx of this node says of itself: whether it answers as ours, and how many requests are open.

The deploy asks: `open URL` says what a restart would wait for, `proof URL…` fails where nginx does not answer.
"""

import http.client
import re
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5


class NotOursError(Exception):
    """Somebody else's server answers."""


def writing(url: str) -> int:
    """How many requests it is answering. Any OSError or HTTPException where nobody does; NotOursError."""
    # No proxy, whatever the environment names for others; and a certificate names the node, not its address.
    anybody = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())  # noqa: S323
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), anybody)
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            number = re.search(rb"Writing: (\d+)", answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise NotOursError(f"{url} says {error.code}") from error
    if not number:
        raise NotOursError(f"{url} is not our status location")
    return int(number[1])


def open_requests(url: str) -> str:
    """What a restart would wait for, while it refuses everybody else; empty if nothing.

    A server that is not ours yet, or does not answer, is busy for all we know. Where nobody listens there is nothing to
    wait for. (A worker that crashed leaves its requests in the count: then it takes `systemctl restart nginx` by hand.)
    """
    try:
        others = writing(url) - 1
    except urllib.error.URLError as error:
        refused = isinstance(error.reason, ConnectionRefusedError)
        return "" if refused else f"open requests: unknown, {url}: {error.reason}"
    except NotOursError as error:
        return f"open requests: unknown, {error}"
    except (OSError, http.client.HTTPException) as error:
        return f"open requests: unknown, {url}: {error!r}"
    return f"open requests: {others}" if others else ""


def proof(urls: list[str]) -> str:
    """What is wrong; empty if nginx answers, as ours, at all of them."""
    for url in urls:
        try:
            writing(url)
        except NotOursError as error:
            return str(error)
        except (OSError, http.client.HTTPException) as error:
            return f"{url}: {getattr(error, 'reason', None) or repr(error)}"
    return ""


if __name__ == "__main__":
    word, *asked = sys.argv[1:]
    if word == "proof":
        sys.exit(proof(asked) or None)
    print(open_requests(*asked))
