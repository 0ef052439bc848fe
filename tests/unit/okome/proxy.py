"""A fault between a client and Redis."""

import asyncio
from pathlib import Path


class Proxy:
    """Between a client and Redis: delays answers, or cuts the connection once a command has been sent on. `upstream`
    may be set anew: new connections lead there.
    """

    def __init__(self, upstream: Path, listen: Path) -> None:
        self.upstream, self.listen = upstream, listen
        self.delay = 0.0
        self.cut_after_send = 0  # how many commands from now on
        self.connections = 0  # that were made
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_unix_server(self._serve, str(self.listen))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(self.upstream))
        cut, answered = False, asyncio.Event()

        async def up() -> None:
            nonlocal cut
            while data := await reader.read(65536):
                if self.cut_after_send and b"EVALSHA" in data:
                    self.cut_after_send -= 1
                    cut = True
                upstream_writer.write(data)
                await upstream_writer.drain()
                if cut:
                    await answered.wait()  # it was carried out, and its answer is lost
                    writer.transport.abort()
                    break
            upstream_writer.close()

        async def down() -> None:
            while data := await upstream_reader.read(65536):
                await asyncio.sleep(self.delay)
                if cut:
                    answered.set()
                    continue
                writer.write(data)
                await writer.drain()
            writer.close()

        for pump in (up(), down()):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
