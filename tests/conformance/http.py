"""One HTTP/1.1 request by hand, so that nothing between a vector and the wire mends what it wants to be wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNK_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Response:
    """Header names in lower case; complete: the HTTP message was not cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class NoResponseError(Exception):
    """The connection ended before an answer began."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a gateway is, and in what a connection to it is wrapped."""

    url: str
    timeout_s: float = 30.0
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        framing: str = "length",
        declares: int | None = None,
    ) -> Response:
        """Ask once, on a connection of its own. framing: length, chunked, bytes. declares: another Content-Length.

        Raises NoResponseError, OSError, TimeoutError.
        """
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        lines = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close", **headers}
        if method == "POST":
            length = {"Content-Length": str(len(body) if declares is None else declares)}
            lines |= length if framing == "length" else {"Transfer-Encoding": "chunked"}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        request_line = f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1\r\n"
        async with asyncio.timeout(self.timeout_s):
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port or (443 if secure else 80), ssl=self.tls or (True if secure else None)
            )
            try:
                return await _exchange(reader, writer, (request_line + head + "\r\n").encode(), _framed(body, framing))
            finally:
                writer.close()


def _framed(body: bytes, framing: str) -> Sequence[bytes]:
    if framing == "length":
        return [body]
    size = 1 if framing == "bytes" else CHUNK_BYTES
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, pieces: Sequence[bytes]
) -> Response:
    try:
        for piece in (head, *pieces):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # who refuses early may close early; the answer may be there all the same
    try:
        return await _read(reader)
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        raise NoResponseError from exc


async def _read(reader: asyncio.StreamReader) -> Response:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    status = int(status_line.split(" ")[1])
    if 100 <= status < 200:
        return await _read(reader)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, complete = await _dechunked(reader)
    elif "content-length" in headers:
        body = await _at_most(reader, int(headers["content-length"]))
        complete = len(body) == int(headers["content-length"])
    else:
        body, complete = await reader.read(), True
    return Response(status, headers, body, complete)


async def _dechunked(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    body = bytearray()
    try:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return bytes(body), False
    return bytes(body), True


async def _at_most(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as exc:
        return exc.partial
