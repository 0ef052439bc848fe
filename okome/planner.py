"""The planner: OpenAI's API, with the cache and the budgets in front of an OpenAI-compatible server, or of a stand-in
for the GPU.

    OKOME_REDIS_URL=redis://okome:...@192.168.86.19:6379 python -m okome.planner --listen 192.168.86.25:8000 \\
        --upstream http://127.0.0.1:8080/v1

It is what an orchestrator would do with the library, and what the lab runs at the orchestrator's address, there with
the stand-in.
"""

import argparse
import asyncio
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import uvicorn
import uvloop

from okome import Budgets, Bytes, Cache, CachePolicy, Cap, Ledger, Period, Rate, Rule, connect
from okome.api import Planner
from okome.chat import Source
from okome.gpu import GpuStandIn
from okome.upstream import Upstream

KEEP_ALIVE = (
    75  # s; longer than nginx keeps its idle upstream connections (60 s), or a POST meets a closed one
)


def default_rules(requests_per_minute: int, tokens_per_day: int) -> list[Rule]:
    """What one API key may ask for."""
    return [
        Rate(name="requests-per-minute", by=("user",), unit="requests", limit=requests_per_minute, per=60),
        Cap(name="tokens-per-day", by=("user",), unit="tokens", limit=tokens_per_day, period=Period.DAY),
    ]


def _redis_url(arguments: argparse.Namespace) -> str | Path:
    """Never with a password from the command line, which every user of the machine can read."""
    file: Path | None = arguments.redis_url_file
    if file is not None:
        return file
    url: str | None = arguments.redis_url
    if url is not None:
        if "@" in url:
            raise ValueError(
                "a password does not belong on a command line: use OKOME_REDIS_URL or --redis-url-file"
            )
        return url
    return os.environ.get("OKOME_REDIS_URL", "redis://127.0.0.1:6379")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is not understood may be a URL with a password in it: it goes to no log."""
        if "://" in message:
            message = (
                "a URL is given by --redis-url-file, OKOME_REDIS_URL or, without a password, --redis-url"
            )
        what, colon, words = message.partition("unrecognized arguments: ")
        if colon:
            options = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
            message = what + colon + " ".join(options or ["of no option"])
        super().error(message)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m okome.planner", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 8000), metavar="HOST:PORT")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis-url", help="without a password; else set OKOME_REDIS_URL")
    where.add_argument(
        "--redis-url-file",
        type=Path,
        metavar="FILE",
        help="a file that holds the URL; read again for each connection",
    )
    parser.add_argument("--ledger", type=Path, default=Path("okome-ledger.sqlite"), metavar="FILE")
    parser.add_argument(
        "--on-unavailable",
        choices=("ledger", "share", "deny"),
        default="ledger",
        help="who decides without Redis: the ledger; nobody over tokens; nobody at all",
    )
    parser.add_argument("--upstream", metavar="URL", help="an OpenAI-compatible server; default: a stand-in")
    parser.add_argument(
        "--upstream-key-file", type=Path, metavar="FILE", help="its API key; else OKOME_UPSTREAM_KEY"
    )
    parser.add_argument(
        "--upstream-timeout", type=_positive, default=300.0, metavar="S", help="that it may send nothing"
    )
    parser.add_argument("--latency", type=_positive, default=0.2, metavar="S", help="to the first token")
    parser.add_argument("--tokens-per-second", type=_positive, default=50.0, metavar="N")
    parser.add_argument("--requests-per-minute", type=int, default=600, metavar="N", help="for each API key")
    parser.add_argument("--tokens-per-day", type=int, default=1_000_000, metavar="N", help="for each API key")
    parser.add_argument(
        "--fresh", type=_positive, default=300.0, metavar="S", help="how long an answer is fresh"
    )
    return parser.parse_args(argv)


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.upstream is None:
        return GpuStandIn(arguments.latency, arguments.tokens_per_second)
    file: Path | None = arguments.upstream_key_file
    key = os.environ.get("OKOME_UPSTREAM_KEY") if file is None else file.read_text(errors="replace").strip()
    if file is not None and not key:
        raise ValueError(f"there is no key in {file}")
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError("the upstream's key is printable ASCII on one line")
    return Upstream(arguments.upstream, key or None, arguments.upstream_timeout)


async def serve(arguments: argparse.Namespace) -> None:
    source = _source(arguments)
    redis = connect(_redis_url(arguments))
    ledger = Ledger(arguments.ledger)
    try:
        rules = default_rules(arguments.requests_per_minute, arguments.tokens_per_day)
        planner = Planner(
            Cache(redis, namespace="chat", codec=Bytes(), policy=CachePolicy(fresh=arguments.fresh)),
            Budgets(
                redis,
                namespace="planner",
                rules=rules,
                ledger=ledger,
                on_unavailable=arguments.on_unavailable,
            ),
            source,
        )
        host, port = arguments.listen
        config = uvicorn.Config(
            planner,
            host=host,
            port=port,
            timeout_keep_alive=KEEP_ALIVE,
            log_level="warning",
            access_log=False,  # it would not be seen at this level, and be written all the same
            proxy_headers=False,  # nobody asks where a request comes from
        )
        await uvicorn.Server(config).serve()
    finally:
        ledger.close()
        await redis.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 stopped, 2 what was asked for can't be done."""
    try:
        arguments = _arguments(argv)
        # A fifth of a miss is the event loop's own work, which uvloop does in C.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(arguments))
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"okome.planner: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
