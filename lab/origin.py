"""The test origin: an HTTP/1.1 server in the orchestrator's place that misbehaves on request. Standard library only.

    python -m lab.origin --listen 192.168.86.25:8000 --control /run/…/origin.sock

Modes, changed without a restart through the control socket (a path: every network namespace reaches it):
`up`, `down` (connections refused; what is being answered goes on), `killed` (refused, and everything reset),
`hanging` (reads, never answers), `slow:SECONDS` (before every answer), `closing` (closes a kept connection when
its second request arrives, unanswered), and `500`, `502`, `503`, `504` (answered to everything).

Paths:
    /health                 200
    /assets/KIND/…          with the Cache-Control that ASSETS names KIND, else without
    /stream, /chunked, /trickle
                            ?chunks=N&interval=SECONDS&gate=NAME&hold=NAME: server-sent events; lines, chunked;
                            lines with a Content-Length. With a gate, chunk N waits for the control command
                            {"release": "NAME/N"}, N from 1; with a hold, the last one for {"release": "NAME"}
    /socket                 101 to a WebSocket, then every byte comes back
    /ticks                  likewise; each line is the time of its sending, in nanoseconds of the monotonic clock
    /upload                 answers with the number of bytes and their SHA-256
    everything else         echoes the request as JSON
All but streams take ?size=BYTES, ?status=CODE, ?echo=REQUEST-HEADER (its value goes into the body),
?h=Name:Value (a response header, may be repeated; Date instead of ours), ?head=BYTES (so long are status line and
headers, filled up with X-Padding) and ?etag=TAG (and then answers If-None-Match).
X-Origin-Serial grows with every answer, so that a test sees whether it came from here or from a cache.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import re
import socket
import time
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"  # of every answer: one that a cache kept shows by it
PADDING = len("X-Padding: \r\n")
WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
KEEPALIVE_SECONDS = 5  # uvicorn's default, which the real orchestrator runs with
MODES = ("up", "down", "killed", "hanging", "slow", "closing", "500", "502", "503", "504")
ASSETS = MappingProxyType(
    {
        "immutable": "public, max-age=31536000, immutable",
        "public": "public, max-age=60",
        "short": "max-age=1",
        "shared": "public, max-age=0, s-maxage=60",
        "revalidate": "max-age=0, must-revalidate",
        "swr": "max-age=1, stale-while-revalidate=60",
        "private": "private, max-age=60",
        "no-cache": "no-cache",
        "no-store": "no-store",
    }
)


class Request:
    """One request head. `query` keeps repeated names in order."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _version = lines[0].split(" ", 2)
        parts = urlsplit(self.target)
        self.path = parts.path
        self.query = parse_qsl(parts.query, keep_blank_values=True)
        self.headers: list[tuple[str, str]] = []
        for line in lines[1:]:
            if line:
                name, _colon, value = line.partition(":")
                self.headers.append((name.lower(), value.strip()))

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name.lower()), "")

    def option(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)


def check_mode(mode: str) -> str:
    """`mode`, or ValueError with the modes that exist."""
    name, _colon, seconds = mode.partition(":")
    number = re.fullmatch(r"\d+(\.\d+)?", seconds)
    if name not in MODES or (name == "slow" and not number) or (name != "slow" and mode != name):
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)} (slow as slow:SECONDS)")
    return mode


class Origin:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.mode = "up"
        self.serial = 0
        self.counts: Counter[str] = Counter()
        self.received = 0  # bytes of request bodies so far
        self.connections = 0
        self.timed_out = 0  # kept connections that ended by our own time-out
        self.writers: set[asyncio.StreamWriter] = set()
        self.idle: set[asyncio.StreamWriter] = set()  # those between two requests
        self.gates: dict[str, asyncio.Event] = {}
        self.server: asyncio.Server | None = None

    async def open(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(self.connection, self.host, self.port, backlog=1024)

    async def switch(self, mode: str) -> None:
        self.mode = check_mode(mode)
        if mode not in ("down", "killed"):
            await self.open()
            return
        if self.server is not None:
            self.server.close()
            self.server = None
        for writer in list(self.writers if mode == "killed" else self.idle):
            writer.transport.abort()

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def command(self, words: dict[str, Any]) -> dict[str, Any]:
        """{"mode": M}, {"release": GATE}, {"reset": true}, together or alone; the state is the answer."""
        if "mode" in words:
            await self.switch(words["mode"])
        if "release" in words:
            self.gate(words["release"]).set()
        if words.get("reset"):
            self.counts.clear()
            self.connections = self.received = self.timed_out = 0
        return {
            "mode": self.mode,
            "counts": dict(self.counts),
            "connections": self.connections,
            "idle": len(self.idle),
            "timed_out": self.timed_out,
            "received": self.received,
        }

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self.command(json.loads(await reader.readline()))
        except ValueError as error:
            answer = {"error": str(error)}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.requests(reader, writer)
        finally:
            self.writers.discard(writer)
            writer.close()

    async def requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        while True:
            self.idle.add(writer)
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
            except TimeoutError:
                self.timed_out += 1
                return
            finally:
                self.idle.discard(writer)
            request = Request(head)
            self.counts[f"{request.method} {request.path}"] += 1
            self.serial += 1
            if self.mode == "closing" and not first:
                return
            if self.mode == "hanging":
                await reader.read()  # until the other side gives up
                return
            if self.mode.startswith("slow:"):
                await asyncio.sleep(float(self.mode.partition(":")[2]))
            await self.answer(request, reader, writer)
            await writer.drain()
            if request.header("connection").lower() == "close":
                return
            first = False

    async def body(self, request: Request, reader: asyncio.StreamReader) -> tuple[int, str]:
        """Reads the request's body; its length in bytes and its SHA-256."""
        digest, length = hashlib.sha256(), 0
        if request.header("transfer-encoding").lower() == "chunked":
            while size := int(await reader.readline(), 16):
                data = await reader.readexactly(size)
                await reader.readexactly(2)
                digest.update(data)
                length += size
                self.received += size
            await reader.readexactly(2)
            return length, digest.hexdigest()
        left = int(request.header("content-length") or 0)
        while left:
            data = await reader.read(min(left, 65536))
            if not data:
                raise ConnectionResetError("the request was cut short")
            digest.update(data)
            length += len(data)
            self.received += len(data)
            left -= len(data)
        return length, digest.hexdigest()

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        length, sha256 = await self.body(request, reader)
        headers = [("Date", DATE), ("X-Origin-Serial", str(self.serial))]
        if self.mode.isdigit():
            text = f"the origin says {self.mode}\n".encode()
            self.head(writer, int(self.mode), [*headers, ("Content-Length", str(len(text)))])
            writer.write(text if request.method != "HEAD" else b"")
            return
        if request.path in ("/stream", "/chunked", "/trickle", "/ticks"):
            await self.stream(request, headers, writer)
            return
        if request.path == "/socket" and request.header("upgrade") == "websocket":
            accept = base64.b64encode(
                hashlib.sha1(
                    f"{request.header('sec-websocket-key')}{WEBSOCKET}".encode(), usedforsecurity=False
                ).digest()
            )
            headers += [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", accept.decode()),
            ]
            self.head(writer, 101, headers)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            return
        if request.path == "/health":
            text, kind = b'{"status":"ok"}\n', "application/json"
        elif request.path.startswith("/assets/"):
            asset = request.path.split("/")[2]
            if asset in ASSETS:
                headers.append(("Cache-Control", ASSETS[asset]))
            text, kind = f"asset {request.path} #{self.serial}".encode(), "text/plain"
        elif request.path == "/upload":
            text, kind = json.dumps({"bytes": length, "sha256": sha256}).encode(), "application/json"
        else:
            echo = {"method": request.method, "target": request.target, "headers": request.headers}
            text, kind = json.dumps({**echo, "bytes": length}).encode(), "application/json"
        for name, value in request.query:
            if name == "h":
                field, _colon, content = value.partition(":")
                headers = [one for one in headers if one[0] != "Date" or field != "Date"]
                headers.append((field, content))
            elif name == "echo":
                text += f" {value}={request.header(value)}".encode()
        text = text.ljust(int(request.option("size", "0")), b".")
        headers += [("Content-Type", kind), ("Content-Length", str(len(text)))]
        status = int(request.option("status", "200"))
        if tag := request.option("etag"):
            headers.append(("ETag", f'"{tag}"'))
            if request.header("if-none-match") == f'"{tag}"':
                self.counts[f"304 {request.path}"] += 1
                status, text = 304, b""
        left = int(request.option("head", "0")) - len(head(status, headers))
        while left > 0:
            line = min(left, 1000) if left - 1000 > PADDING or left <= 1000 else left // 2
            headers.append(("X-Padding", "x" * (line - PADDING)))
            left -= line
        self.head(writer, status, headers)
        writer.write(text if request.method != "HEAD" else b"")

    def head(self, writer: asyncio.StreamWriter, status: int, headers: list[tuple[str, str]]) -> None:
        writer.write(head(status, headers))

    async def stream(
        self, request: Request, headers: list[tuple[str, str]], writer: asyncio.StreamWriter
    ) -> None:
        events = request.path == "/stream"
        chunked = request.path != "/trickle"
        chunks = [chunk(number, events=events) for number in range(int(request.option("chunks", "3")))]
        length = (
            ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(sum(map(len, chunks))))
        )
        kind = ("Content-Type", "text/event-stream" if events else "text/plain")
        self.head(writer, 200, [*headers, kind, length])
        for number, data in enumerate(chunks):
            if number and request.option("gate"):
                await self.gate(f"{request.option('gate')}/{number}").wait()
            elif number:
                await asyncio.sleep(float(request.option("interval", "0")))
            if request.option("hold") and number == len(chunks) - 1:
                await self.gate(request.option("hold")).wait()
            if request.path == "/ticks":
                data = b"%d\n" % time.monotonic_ns()
            writer.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if chunked else b"")


def head(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode()


def chunk(number: int, *, events: bool) -> bytes:
    """One chunk of /stream (events) or of the others: known beforehand, so that a lost byte shows."""
    return f"data: token {number}\n\n".encode() if events else f"line {number}\n".encode()


def tell(control: Path, **words: Any) -> dict[str, Any]:
    """Sends one command to a running origin; its state. ValueError if refused, OSError if nobody is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(control))
        connection.sendall(json.dumps(words).encode() + b"\n")
        with connection.makefile() as lines:
            line = lines.readline()
    if not line:
        raise ConnectionResetError("it went away without an answer")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


async def serve(host: str, port: int, control: Path, mode: str) -> None:
    origin = Origin(host, port)
    # The control socket is there before the port, and says nothing until that answers: who waits sees both or none.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(control))
    listener.listen()
    await origin.switch(mode)
    async with await asyncio.start_unix_server(origin.control, sock=listener):
        await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.origin", description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--control", required=True, type=Path, metavar="PATH")
    parser.add_argument("--mode", default="up", type=check_mode)
    options = parser.parse_args(arguments)
    host, _colon, port = options.listen.rpartition(":")
    options.control.unlink(missing_ok=True)  # left by a run that was killed
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(host, int(port), options.control, options.mode))


if __name__ == "__main__":
    main()
