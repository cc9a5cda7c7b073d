"""A client that seals requests with the real channel and sends them over a plain socket, as badly as a test wants.

`seal` makes a request, all of it in memory; what a test does to its chunks is up to the test. `Connection` sends bytes
piece by piece, in whatever order, and reads what comes back. `opened` opens an answer::

    request = seal(config, b"...")
    async with connected(address) as connection:
        await connection.post(request)
        answer = opened(request, await connection.response())
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.channel import varint
from core.channel.bhttp import (
    Content,
    End,
    Event,
    RequestEncoder,
    RequestHead,
    ResponseDecoder,
    ResponseHead,
)
from core.channel.keyconfig import KeyConfig
from core.channel.ohttp import REQUEST_MEDIA_TYPE, RequestSealer, ResponseOpener
from core.channel.padding import request_padding
from core.program.http.listener import Address
from tests.waiting import GIVE_UP_S

AUTHORITY = "sottovoce.invalid"


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request as it goes over the wire: the header, then one item a chunk, the final one last."""

    path: str
    header: bytes
    chunks: tuple[bytes, ...]
    opener: ResponseOpener = field(repr=False)

    @property
    def wire(self) -> bytes:
        return self.header + b"".join(self.chunks)


def seal(
    config: KeyConfig,
    content: bytes = b"",
    *,
    method: str = "POST",
    target: str = "/v1/audio/transcriptions",
    scheme: str = "https",
    authority: str = AUTHORITY,
    headers: Sequence[tuple[str, str]] = (),
    path: str | None = None,
    chunk_bytes: int = 65_536,
    piece_bytes: int = 65_536,
    padded: bool = True,
    encoded_head: bytes | None = None,
) -> SealedRequest:
    """Seal a request to `config`.

    path: of the outer request; the gateway resource of that key unless given. chunk_bytes: plaintext of a chunk.
    piece_bytes: of the content. encoded_head: in place of a well-formed one.
    """
    encoder = RequestEncoder()
    head = encoder.head(RequestHead(method, scheme, authority, target, tuple(headers)))
    message = bytearray(encoded_head if encoded_head is not None else head)
    for start in range(0, len(content), piece_bytes):
        piece = content[start : start + piece_bytes]  # by hand: our encoder gathers small ones
        message += varint.encode(len(piece)) + piece
    message += encoder.end()
    if padded:
        message += bytes(request_padding(len(message)))
    return seal_message(config, bytes(message), path=path, chunk_bytes=chunk_bytes)


def seal_message(
    config: KeyConfig, message: bytes, *, path: str | None = None, chunk_bytes: int = 65_536
) -> SealedRequest:
    """Seal bytes that claim to be a Binary HTTP request."""
    sealer = RequestSealer(config)
    plain = [message[start : start + chunk_bytes] for start in range(0, len(message), chunk_bytes)]
    chunks = (*map(sealer.seal, plain[:-1]), sealer.seal_final(plain[-1] if plain else b""))
    return SealedRequest(path or f"/ohttp/{config.path_digest}", sealer.header, chunks, sealer.response_opener())


@dataclass(frozen=True, slots=True)
class OuterResponse:
    """What anybody on the way sees. Header names in lower case; complete: the HTTP message was not cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def constant_headers(self) -> dict[str, str]:
        """Without the clock."""
        return {name: value for name, value in self.headers.items() if name != "date"}


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """An inner response. heartbeats: how many informational heads came first. events: all, in order."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    heartbeats: int
    message_bytes: int


def opened(request: SealedRequest, response: OuterResponse) -> OpenedAnswer:
    """Open a complete answer. Raises ChannelError when it is none."""
    assert response.status == 200, response
    decoder = ResponseDecoder()
    chunks = [*request.opener.feed(response.body), request.opener.finish()]
    events = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()
    heads = [event for event in events if isinstance(event, ResponseHead)]
    assert any(isinstance(event, End) for event in events)
    return OpenedAnswer(
        status=heads[-1].status,
        headers=dict(heads[-1].headers),
        content=b"".join(event.data for event in events if isinstance(event, Content)),
        heartbeats=len(heads) - 1,
        message_bytes=sum(map(len, chunks)),
    )


class Connection:
    """One HTTP/1.1 connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def begin(
        self, path: str, *, method: str = "POST", version: str = "1.1", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send the head of an outer request; the body follows in HTTP chunks unless `headers` gives a length."""
        lines = {"Host": "localhost", "Content-Type": REQUEST_MEDIA_TYPE, **(headers or {})}
        if not {"Content-Length", "Transfer-Encoding"} & set(lines) and method == "POST":
            lines["Transfer-Encoding"] = "chunked"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        await self.raw(f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode("latin-1"))

    async def send(self, data: bytes) -> None:
        """Send some of the body as one HTTP chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End the body."""
        await self.raw(b"0\r\n\r\n")

    async def post(self, request: SealedRequest, wire: bytes | None = None) -> None:
        """Send a whole request. wire: in place of its own bytes."""
        body = request.wire if wire is None else wire
        await self.begin(request.path, headers={"Content-Length": str(len(body))})
        await self.raw(body)

    async def response(self) -> OuterResponse:
        """Read a whole response."""
        async with asyncio.timeout(GIVE_UP_S):
            status, headers = await self.response_head()
            if "content-length" in headers:
                body = await self._reader.readexactly(int(headers["content-length"]))
                return OuterResponse(status, headers, body)
            if "transfer-encoding" not in headers:
                return OuterResponse(status, headers, await self._reader.read())
            pieces = []
            while piece := await self.piece():
                pieces.append(piece)
            return OuterResponse(status, headers, b"".join(pieces), complete=piece is not None)

    async def response_head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(GIVE_UP_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def piece(self) -> bytes | None:
        """The next HTTP chunk of a response; nothing for the last, None when the connection is cut."""
        async with asyncio.timeout(GIVE_UP_S):
            try:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                return (await self._reader.readexactly(size + 2))[:-2]
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def events(self, request: SealedRequest) -> AsyncIterator[Event]:
        """The answer as it opens, chunk by chunk; ends after the final one. Raises ChannelError when it is cut."""
        decoder = ResponseDecoder()
        while piece := await self.piece():
            for chunk in request.opener.feed(piece):
                for event in decoder.feed(chunk):
                    yield event
        for event in [*decoder.feed(request.opener.finish()), *decoder.finish()]:
            yield event

    async def closed(self) -> bool:
        """Whether the other side has closed, once everything it sent is read."""
        async with asyncio.timeout(GIVE_UP_S):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True

    def abort(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Connection]:
    """A connection to an engine, closed afterwards."""
    connection = Connection(*await asyncio.open_connection(address.host, address.port))
    try:
        yield connection
    finally:
        await connection.close()


async def ask(address: Address, request: SealedRequest) -> OpenedAnswer:
    """Send a request on a connection of its own and open the answer."""
    async with connected(address) as connection:
        await connection.post(request)
        return opened(request, await connection.response())


def flipped(data: bytes, at: int) -> bytes:
    """`data` with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


BOUNDARY = "5e6e71d3a6b14bd2"
FORM = ("content-type", f"multipart/form-data; boundary={BOUNDARY}")


def form(audio: bytes, *fields: tuple[str, str]) -> bytes:
    """A form as OpenAI's SDK sends it: text fields, then the recording; its type is `FORM`."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields]
    disposition = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    boundary = f"--{BOUNDARY}".encode()
    return (
        b"".join(boundary + b"\r\n" + part + b"\r\n" for part in [*parts, disposition + audio]) + boundary + b"--\r\n"
    )
