"""How does either side answer over HTTP without giving anything away? One kind of listener.

aiohttp's defaults are unsafe here one by one, so this is the only place that makes a server: no access log, no
decompression (a few kilobytes of gzip become gigabytes), a handler is cancelled when its client has gone, and what the
parser refuses is answered with a constant, for by default it echoes the refused line, secret and all, to the client and
to the log. Nor does it answer in words of its own anywhere else: whatever HTTP error comes out of the application is
answered with the same constants. Of WebSockets it would log which subprotocols were offered, and that is where a page
puts its key: that logger is silenced.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.log import ws_logger
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

from core.program.addresses import ip_address
from core.program.http.connections import FIRST_HEAD_S, MAX_CONNECTIONS, Connections, accepting

_log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 8_190
MAX_HEADER_COUNT = 64
MAX_HEAD_BYTES = 16_384
KEEPALIVE_S = 75.0
_AT_ONCE_S = 0.01
"""aiohttp takes a shutdown time-out of zero for none at all, and would wait for the longest request."""


class PeerGoneError(ConnectionError):
    """The other end has left, or does not read; there is nobody to tell."""


class PeerStalledError(PeerGoneError):
    """It is there and does not read."""


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
        address = ip_address(self.host)
        return address.is_loopback if address else self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]@/?#]+))(?::[0-9]+)?")


def host_name(host: str) -> str:
    """A Host header in lower case, without its port, and an IPv6 address without its brackets; empty for no host."""
    found = _HOST.fullmatch(host.lower())
    return (found["address"] or found["name"]) if found else ""


ErrorResponse = Callable[[int], web.Response]
"""Makes the constant answer for a status; it sees nothing of the request."""


class _QuietHandler(RequestHandler):
    """Answers what cannot be parsed, and what a handler failed at, with a constant; logs no more than the kind.

    Implements `core.program.connections.Connection`.
    """

    __slots__ = ("_connections", "_error_response", "_first_head_s", "_head_bytes")

    def __init__(
        self,
        manager: web.Server,
        *,
        error_response: ErrorResponse,
        connections: Connections,
        first_head_s: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._error_response = error_response
        self._connections = connections
        self._first_head_s = first_head_s
        self._head_bytes = 0

    @property
    def idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.came(self)
        # aiohttp closes an idle connection at this time, which it counts from here for the first request.
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + self._first_head_s
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaits_head = self.idle
        super().data_received(data)
        if not awaits_head:
            return
        if not self.idle:
            self._head_bytes = 0
            self._connections.asked(self)
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:  # aiohttp bounds each line and their number, which together is much more
            self.cut()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            raise exc  # whoever asked has left, or was cut off: no failure of ours
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
            response = error_response(exc.status)
            if allowed := exc.headers.get("Allow"):  # of a 405; it names what is routed, and nothing of the request
                response.headers["Allow"] = allowed
            return response

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


def refuse_names(refuse: Callable[[], web.Response], allowed: Container[str] = ("localhost",)) -> Middleware:
    """For a listener of probes, which send the address of a machine or a pod: no other name of a host is served.

    An attacker's DNS may point any name at this machine, and the browser here then lets the attacker's page read what
    is served under it (DNS rebinding). No browser leaves the host away, as plain HTTP/1.0 probes do.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = [host_name(host) for host in request.headers.getall("Host", ())]
        if len(hosts) > 1 or not all(host in allowed or ip_address(host) for host in hosts):
            return refuse()
        return await handler(request)

    return guarded


@asynccontextmanager
async def listening(
    app: web.Application,
    addresses: Sequence[Address],
    *,
    error_response: ErrorResponse,
    tls: ssl.SSLContext | None = None,
    shutdown_timeout_s: float = 0.0,
    max_connections: int = MAX_CONNECTIONS,
    first_head_s: float = FIRST_HEAD_S,
) -> AsyncIterator[tuple[Address, ...]]:
    """Serve `app` while the context is open; yields the addresses bound.

    shutdown_timeout_s: how long requests in flight may still run after the context is left. max_connections: of all
    addresses together. first_head_s: how long a new connection may take to ask for something. Raises OSError.
    """
    ws_logger.disabled = True
    connections = Connections(max_connections)
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
        connections=connections,
        first_head_s=first_head_s,
    )
    await runner.setup()
    try:
        async with AsyncExitStack() as stack:
            bound: list[Address] = []
            for address in addresses:
                make_protocol = cast("web.Server", runner.server)  # there is one, once it is set up
                accepted = accepting((address.host, address.port), make_protocol, connections, tls=tls)
                bound += [Address(*each) for each in await stack.enter_async_context(accepted)]
            yield tuple(bound)
    finally:
        # A task of its own, so that it goes on when whoever waits here is cancelled a second time.
        await asyncio.shield(runner.cleanup())


@asynccontextmanager
async def patience(request: web.Request, stall_s: float) -> AsyncIterator[None]:
    """Around every write to a client: it may read nothing for `stall_s`, and is then cut off.

    aiohttp waits for a reader without bound, and a connection that is closed waits for the same reader: socket, handler
    and all that it holds would be held for as long as a client likes. Raises PeerGoneError. When this is cancelled
    while it waits, the connection is cut.
    """
    if request.transport is not None:
        # Wait until all is in the system's hands: what stays in the transport would keep a closed connection open.
        request.transport.set_write_buffer_limits(high=1)
    try:
        async with asyncio.timeout(stall_s):
            yield
    except TimeoutError:
        _cut(request)
        raise PeerStalledError from None
    except asyncio.CancelledError:
        _cut(request)  # aiohttp can wait for a reader no second time
        raise
    except ConnectionError as exc:
        raise PeerGoneError from exc


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()  # closing would wait for the client
