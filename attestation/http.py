"""How do both sides speak HTTP without giving anything away? One client session and one kind of listener.

aiohttp's defaults are unsafe here one by one, so these are the only places that make a session or a server. The
client: no transparent decompression, no cookies, no netrc and no environment, no default headers that identify or
vary. The server: no access log, no decompression (a few kilobytes of gzip become gigabytes), a handler is cancelled
when its client has gone, and what the parser refuses is answered with a constant, for by default it echoes the
refused line, secret and all, to the client and to the log. Nor does it answer in words of its own anywhere else:
whatever HTTP error comes out of the application is answered with the same constants.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from attestation.errors import FetchError

_log = structlog.get_logger(__name__)

USER_AGENT = "sottovoce"

MAX_LINE_BYTES = 8_190
MAX_HEADER_COUNT = 64
KEEPALIVE_S = 75.0
_AT_ONCE_S = 0.01
"""aiohttp takes a shutdown time-out of zero for none at all, and would wait for the longest request."""


class NotLoopbackError(OSError):
    """Development evidence was accepted, so only this machine may be spoken to."""


def open_session(
    *, tls: ssl.SSLContext | None, loopback_only: bool, connect_timeout_s: float, idle_timeout_s: float
) -> aiohttp.ClientSession:
    """A client session with nothing on by default; the caller closes it, and refuses redirects per request.

    loopback_only: refuse, at the socket and so after name resolution, every address that is not this machine's.
    idle_timeout_s: the longest silence on a connection. There is no total here: long audio takes long.
    """
    connector = aiohttp.TCPConnector(
        ssl=tls if tls is not None else True,
        socket_factory=_loopback_socket if loopback_only else None,
        limit=0,
        ttl_dns_cache=10,
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        headers={"User-Agent": USER_AGENT},
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s, sock_read=idle_timeout_s
        ),
    )


def environment_proxy(url: str) -> str | None:
    """The HTTP proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for. A session itself never looks at them."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.netloc):
        return None
    return getproxies_environment().get(parts.scheme)


async def read_bounded(stream: aiohttp.StreamReader, limit_bytes: int) -> bytes:
    """A whole body. Raises FetchError when it is longer."""
    data = bytearray()
    async for piece in stream.iter_any():
        data += piece
        if len(data) > limit_bytes:
            raise FetchError(f"the answer is longer than {limit_bytes} bytes")
    return bytes(data)


def _loopback_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, target = address
    if not ipaddress.ip_address(target[0].partition("%")[0]).is_loopback:
        raise NotLoopbackError("not a loopback address, and development evidence is accepted on this machine only")
    return socket.socket(family, kind, protocol)


_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, an IPv6 address in brackets. Raises ValueError."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > 65_535:
            raise ValueError("an address is HOST:PORT, with an IPv6 address in brackets")
        return cls(found["ipv6"] or found["host"], int(found["port"]))

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ErrorResponse = Callable[[int], web.Response]
"""Makes the constant answer for a status; it sees nothing of the request."""


class _QuietHandler(RequestHandler):
    """Answers what cannot be parsed, and what a handler failed at, with a constant; logs no more than the kind."""

    __slots__ = ("_error_response",)

    def __init__(self, manager: web.Server, *, error_response: ErrorResponse, **options: Any) -> None:
        super().__init__(manager, **options)
        self._error_response = error_response

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        _log.warning("http_request_failed", status=status, error=_kind(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; only closing is left")
        response = self._error_response(status)
        response.force_close()
        return response

    def log_debug(self, *_: Any, **__: Any) -> None:
        """Nothing: what aiohttp says here may quote the request."""

    def log_exception(self, *_: Any, **options: Any) -> None:
        _log.error("http_connection_failed", error=_kind(options.get("exc_info")))


def _kind(exc: object) -> str | None:
    return type(exc).__name__ if isinstance(exc, BaseException) else None


class _QuietServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _QuietHandler(self, loop=self._loop, **self._kwargs)


_Handler = Callable[[Any], Awaitable[web.StreamResponse]]


def _constant_errors(handler: _Handler, error_response: ErrorResponse) -> _Handler:
    """Around the whole application: aiohttp's answer to an unknown `Expect` quotes it, before any middleware runs."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as exc:
            if request.writer.output_size > 0:
                raise ConnectionError("the answer has begun; only closing is left") from exc
            return error_response(exc.status)

    return handle


class _QuietRunner(web.AppRunner):
    """An AppRunner whose connections are `_QuietHandler`s; aiohttp has no public way to choose the class."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _QuietServer(
            _constant_errors(server.request_handler, self._kwargs["error_response"]),
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,  # noqa: SLF001 - see the class docstring; a test pins the behaviour
        )


@asynccontextmanager
async def listening(
    app: web.Application,
    addresses: Sequence[Address],
    *,
    error_response: ErrorResponse,
    tls: ssl.SSLContext | None = None,
    shutdown_timeout_s: float = 0.0,
) -> AsyncIterator[tuple[Address, ...]]:
    """Serve `app` while the context is open; yields the addresses bound.

    shutdown_timeout_s: how long requests in flight may still run after the context is left. Raises OSError.
    """
    runner = _QuietRunner(
        app,
        handle_signals=False,
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADER_COUNT,
        shutdown_timeout=max(shutdown_timeout_s, _AT_ONCE_S),
        error_response=error_response,
    )
    await runner.setup()
    try:
        for address in addresses:
            await web.TCPSite(runner, address.host, address.port, ssl_context=tls).start()
        yield tuple(Address(*bound[:2]) for bound in runner.addresses)
    finally:
        # A task of its own, so that it goes on when whoever waits here is cancelled a second time.
        await asyncio.shield(runner.cleanup())
