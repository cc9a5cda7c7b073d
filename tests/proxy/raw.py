"""A socket without an HTTP library, to send what no library would, or to read nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from core.program.http.listener import Address
from tests.waiting import GIVE_UP_S


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """The next response head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Everything until the other end closes."""
        return await self.reader.read()


@asynccontextmanager
async def asking(address: Address, request: bytes, *, buffer_bytes: int = 4096) -> AsyncIterator[socket.socket]:
    """A socket that has sent `request`. Nobody reads the answer, and little of it fits into the system's buffer."""
    with socket.socket() as connection:
        # Before it connects: what the other end may send unread is bounded by it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (address.host, address.port))
        await loop.sock_sendall(connection, request)
        yield connection


async def left_of(connection: socket.socket) -> bytes:
    """What was still on its way when the other end cut the connection."""
    loop, received = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(GIVE_UP_S):
        with suppress(ConnectionResetError):
            while data := await loop.sock_recv(connection, 65_536):
                received += data
    return bytes(received)


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
