"""A TCP hop between a proxy and an engine that reads along: is anything there that somebody on the way may not read?

Every byte of both directions is searched as it passes, and so that a phrase may lie across two reads. What a client
says over a WebSocket is masked (RFC 6455, section 5.3), which hides it from a search and from nobody else: it is
unmasked.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

READ_BYTES = 65_536
UNALIGNED = 3
"""Base64 looks different by where in a group of three bytes something begins."""

Reader = Callable[[bytes], None]


def forms(phrase: bytes) -> tuple[bytes, ...]:
    """How a phrase may be written: as it is, in Base64 of any alignment, in hexadecimal, in UTF-16."""
    encoded = [base64.b64encode(bytes(shift) + phrase) for shift in range(UNALIGNED)]
    # Of each encoding what depends on the phrase alone.
    inner = [text[4 if shift else 0 : -4] for shift, text in enumerate(encoded)]
    wide = [phrase.decode("ascii").encode("utf-16-le")] if phrase.isascii() else []
    return (phrase, *inner, phrase.hex().encode(), *wide)


@dataclass
class Search:
    """Looks for phrases. found: how often, by name; read_bytes: of how much."""

    phrases: Mapping[str, bytes]
    found: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0

    def __post_init__(self) -> None:
        self._needles = [(name, form) for name, phrase in self.phrases.items() for form in forms(phrase)]
        self._longest = max((len(form) for _, form in self._needles), default=1)

    def reader(self) -> Reader:
        """Reads one direction of one connection."""
        tail = b""

        def read(data: bytes) -> None:
            nonlocal tail
            self.read_bytes += len(data)
            text = tail + data
            for name, form in self._needles:
                if form in text:
                    self.found[name] += 1
            tail = text[-self._longest + 1 :]

        return read


class Unmasking:
    """Passes on what a client says: HTTP as it is, and after an upgrade what is in the frames of its WebSocket."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._head = b""
        self._is_http = False
        self._frames: bytearray | None = None

    def feed(self, data: bytes) -> None:
        if self._frames is not None:
            self._frames += data
            self._unmask()
            return
        self._read(data)
        if self._is_http:
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end and b"upgrade: websocket" in head.lower():
            self._frames = bytearray(rest)
            self._unmask()
        elif end:
            self._is_http, self._head = True, b""

    def _unmask(self) -> None:
        assert self._frames is not None
        while (found := _frame(self._frames)) is not None:
            payload, size = found
            self._read(payload)
            del self._frames[:size]


def _frame(data: bytearray) -> tuple[bytes, int] | None:
    """What the first frame says, unmasked, and how long it is; None while it is not whole (RFC 6455, section 5.2)."""
    if len(data) < 2:
        return None
    extended = {126: 2, 127: 8}.get(length := data[1] & 0x7F, 0)
    start = 2 + extended
    if extended:
        length = int.from_bytes(data[2:start], "big")
    key_bytes = 4 if data[1] & 0x80 else 0
    end = start + key_bytes + length
    if len(data) < end:
        return None
    payload = bytes(data[start + key_bytes : end])
    if key_bytes and length:
        key = (bytes(data[start : start + 4]) * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return payload, end


class Hop:
    """Listens at one port for as long as there is something behind it."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def open(self, behind: str) -> None:
        """Lead to a URL; the port stays the same, however often."""
        there = urlsplit(behind)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(there.hostname or "", there.port or 80, reader, writer)

        self._server = await asyncio.start_server(serve, "127.0.0.1", self._port, limit=READ_BYTES)
        self._port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Refuse connections, as the port of a process that died does, and break those that there are."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._cut_at_the_end(writer), suppress(OSError):
            answers, onward = await asyncio.open_connection(host, port, limit=READ_BYTES)
            with self._cut_at_the_end(onward):
                async with asyncio.TaskGroup() as group:
                    group.create_task(_carry(reader, onward, Unmasking(self._search.reader()).feed))
                    group.create_task(_carry(answers, writer, self._search.reader()))

    @contextmanager
    def _cut_at_the_end(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, read: Reader) -> None:
    try:
        while data := await source.read(READ_BYTES):
            read(data)
            sink.write(data)
            await sink.drain()
        sink.close()
    except ConnectionError:
        sink.transport.abort()
