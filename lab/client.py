"""HTTP clients inside a network namespace, on the LAN of the lab or of a box: real sockets, real addresses."""

import contextlib
import ctypes
import http.client
import os
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import inventory
from lab.orchestrator import ADDRESS as ORCHESTRATOR

__all__ = ["FRONTEND", "ORCHESTRATOR", "STRANGER", "Answer", "Client"]

FRONTEND = inventory.frontends[0][1]["address"]
STRANGER = "203.0.113.7"  # RFC 5737: nobody has it
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Answer:
    """One response; header names in lower case, in order, repeated ones kept."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name.lower()]
        if len(values) > 1:
            raise ValueError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None

    @property
    def cache(self) -> str | None:
        return self.header("X-Cache-Status")


class WebSocket:
    """One whose handshake is done. Frames are the caller's own bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def echo(self, frame: bytes) -> bytes:
        """Sends it, and receives as much."""
        self.connection.sendall(frame)
        with self.connection.makefile("rb", buffering=0) as answer:
            received = b""
            while len(received) < len(frame) and (data := answer.read(len(frame) - len(received))):
                received += data
        return received


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as network:
        if libc.setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))


class Client:
    """Requests from inside a network namespace (needs root). Closed at the end of the `with`."""

    def __init__(self, namespace: Path) -> None:
        # A socket belongs to the namespace of the thread that made it, and only that thread is moved.
        self.threads = ThreadPoolExecutor(1, initializer=_enter, initargs=(namespace,))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown()

    def wait_for(self, host: str, port: int) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect(host, port).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def connect(self, host: str = FRONTEND, port: int = 80, source: str = "") -> socket.socket:
        """A connection made inside; the socket may be used from any thread, for at most 20 s per call."""
        where = (source, 0) if source else None
        return self.threads.submit(socket.create_connection, (host, port), 20, where).result(30)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterator[bytes] | None = None,
        host: str = FRONTEND,
        source: str = "",
        timeout: float = 20,
    ) -> Iterator[http.client.HTTPResponse]:
        """A request whose response is read by the caller."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.connect(source=source)
        connection.sock.settimeout(timeout)
        try:
            connection.putrequest(
                method, path, skip_accept_encoding=True, skip_host="Host" in (headers or {})
            )
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
            elif body is not None:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(body, encode_chunked=True)
            else:
                connection.endheaders()
            yield connection.getresponse()
        finally:
            connection.close()

    @contextlib.contextmanager
    def websocket(self, path: str) -> Iterator[WebSocket]:
        """ConnectionError unless the answer is 101, with the headers of RFC 6455, 4.2.2."""
        with self.connect() as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {FRONTEND}\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1) or b"(closed)\r\n\r\n"
            lines = head.decode("latin-1").lower().split("\r\n")
            wanted = {
                "connection: upgrade",
                "upgrade: websocket",
                "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
            }
            if not lines[0].startswith("http/1.1 101 ") or not wanted <= set(lines):
                raise ConnectionError(f"no WebSocket: {lines}")
            yield WebSocket(connection)

    def ask(self, path: str, method: str = "GET", source: str = "", **headers: str) -> Answer:
        """A request and its whole response; headers as keywords, `_` for `-`."""
        body = headers.pop("body", None)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.open(
            method, path, named, body.encode() if body is not None else None, source=source
        ) as response:
            content = response.read()
            return Answer(
                response.status, [(key.lower(), value) for key, value in response.getheaders()], content
            )
