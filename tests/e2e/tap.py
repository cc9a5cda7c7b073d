"""A wire between proxy and engine that can be listened to, and cut."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.program.http.listener import Address
from tests.waiting import until


@dataclass
class Tap:
    """Every byte that passes, up to the engine and down from it."""

    url: str = ""
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    holds_up: bool = False
    """Whether what comes from the proxy waits here."""
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        """End every connection as a machine does that loses its power."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, engine: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        there, onward = await asyncio.open_connection(engine.host, engine.port)
        self._writers.append(onward)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass(reader, onward, self.up, lambda: self.holds_up))
            group.create_task(_pass(there, writer, self.down, lambda: False))


async def _pass(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray, held: Callable[[], bool]
) -> None:
    try:
        while data := await source.read(65_536):
            kept += data
            await until(lambda: not held())
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def tapped(engine: Address, tls: ssl.SSLContext | None = None) -> AsyncIterator[Tap]:
    """A wire to `engine`; with `tls` it ends that, as a balancer does."""
    tap = Tap()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await tap.serve(engine, reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    tap.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        tap.cut()
