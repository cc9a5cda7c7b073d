"""How does an application use attested engines without a proxy beside it? By the transport of its own HTTP client.

::

    transport = SottovoceTransport(engine="https://engine.example", policy="policy.toml")
    client = openai.OpenAI(base_url="http://sottovoce/v1", http_client=httpx2.Client(transport=transport))

All that `sottovoce proxy` does then happens inside the application's process: the same verification against the same
policy, the same sealing, refusals and error bodies. Whatever host the URL names, a request goes to the attested engine
or nowhere; `/v1/` is all that is served.

**Whose event loop.** Connections, keys and their renewal belong to one loop, and begin with the first request.
`AsyncSottovoceTransport` works on the loop that then runs, and is used and closed there (asyncio; not trio).
`SottovoceTransport` has a daemon thread with a loop of its own, and may be used by any number of threads at once; a
body is read in the thread that sends it. Neither survives a fork. Closing cancels what is under way and waits for the
connections to close; a client closes its transport, and so does leaving its `with` block.

**Time.** The client's `read` timeout bounds each wait for the engine and for events of a stream; to connect, and over
all, the transport's own limits hold (`connect_timeout_s`, `idle_timeout_s`, `overall_timeout_s`).

Logs go to the application's `logging`, unless it has configured structlog; they name no content. The application's
memory is its own to protect: see `sottovoce.keep_memory_private`.

Both take requests of `httpx2` and of `httpx`, since OpenAI's SDK takes clients of either.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypedDict, Unpack, cast

import httpx2
from multidict import CIMultiDict
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from core.program.logs import log_through_the_application
from proxy.client.carriage import Answer, Exchange, Host, Signal, Turn
from proxy.client.loop_thread import ClosedError, LoopThread, Opened
from proxy.sender import ProxyParts, read_policy_file
from proxy.settings import ProxySettings

_SILENT: Final = "the engine was silent for too long"
_CLOSED: Final = "the transport is closed"


class EngineOptions(TypedDict, total=False):
    """Settings of `sottovoce proxy` that a transport takes too; `docs/configuration.md` says what each means."""

    policy_signer: Sequence[str]
    min_policy_version: int
    policy_sigstore_root: str | os.PathLike[str]
    policy_sigstore_identity: str
    policy_sigstore_issuer: str
    require_pq: bool
    state_dir: str | os.PathLike[str]
    collateral_dir: str | os.PathLike[str]
    offline_collateral: bool
    insecure_remote_engine: bool
    ca_file: str | os.PathLike[str]
    relay: str
    connect_timeout_s: float
    idle_timeout_s: float
    overall_timeout_s: float


class _SaidInCode(ProxySettings):
    """What an application says is all that holds: neither variables nor a file add to it, as they do to a program's."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _host(engine: str, policy: str | os.PathLike[str], options: EngineOptions) -> Host:
    """Raises TypeError, ValueError, StartError."""
    if unknown := sorted(set(options) - set(EngineOptions.__annotations__)):
        raise TypeError(f"a transport has no option {unknown[0]!r}")
    given: dict[str, Any] = {"engine": engine, "policy": Path(policy), **options}
    settings = _SaidInCode(**given)
    log_through_the_application()
    return Host(settings, read_policy_file(settings), ProxyParts())


class SottovoceTransport(httpx2.BaseTransport):
    """For `httpx2.Client` and `httpx.Client`."""

    def __init__(self, engine: str, policy: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        """engine: its URL. policy: the file of what it must prove.

        Raises ValueError for options that do not fit, StartError for a policy that cannot be used with them.
        """
        self._host = _host(engine, policy, options)
        self._loop = LoopThread(self._host.serve, "sottovoce")

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises StartError, what reading the body raises, the client's ReadTimeout and ReadError."""
        http, timeout_s = _module_of(request), _read_timeout_s(request)
        self._loop.begin()
        exchange = self._loop.wait_for(self._host.begin(*_head(request)))
        pieces = filter(None, cast("Iterable[bytes]", request.stream))
        try:
            while (turn := _next_turn(self._loop, http, exchange, timeout_s)) is Signal.WANTED:
                self._loop.call(exchange.give, next(pieces, b""))
        except BaseException:
            _leave(self._loop, exchange)
            raise
        return _response(http, turn, lambda: _stream_class(http)(self._loop, http, exchange, timeout_s))

    def attestation(self) -> dict[str, Any]:
        """What was verified, as `GET /attestation` of the proxy tells it."""
        self._loop.begin()
        return self._loop.wait_for(self._host.report())

    def close(self) -> None:
        self._loop.end(self._host.stop)


def _next_turn(loop: LoopThread, http: ModuleType, exchange: Exchange, timeout_s: float | None) -> Turn:
    try:
        return loop.wait_for(exchange.turn(), timeout_s)
    except TimeoutError:
        raise http.ReadTimeout(_SILENT) from None
    except ClosedError:
        return Signal.CLOSED


def _leave(loop: LoopThread, exchange: Exchange) -> None:
    with suppress(ClosedError):
        loop.wait_for(exchange.leave())


class _Stream:
    """The events of an answer, in whatever thread they are read."""

    def __init__(self, loop: LoopThread, http: ModuleType, exchange: Exchange, timeout_s: float | None) -> None:
        self._loop = loop
        self._http = http
        self._exchange = exchange
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[bytes]:
        while (turn := _next_turn(self._loop, self._http, self._exchange, self._timeout_s)) is not Signal.END:
            if turn is Signal.CLOSED:
                raise self._http.ReadError(_CLOSED)
            if isinstance(turn, bytes):  # and not WANTED: who answers before the body's end needs no more of it
                yield turn
                self._loop.call(self._exchange.take)

    def close(self) -> None:
        _leave(self._loop, self._exchange)


class AsyncSottovoceTransport(httpx2.AsyncBaseTransport):
    """For `httpx2.AsyncClient` and `httpx.AsyncClient`, on asyncio."""

    def __init__(self, engine: str, policy: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        """As `SottovoceTransport`; an event loop is needed only for the first request."""
        self._host = _host(engine, policy, options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: asyncio.Future[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As `SottovoceTransport.handle_request`. A caller who is cancelled cancels the work."""
        http, timeout_s = _module_of(request), _read_timeout_s(request)
        await self._begin()
        exchange = await self._host.begin(*_head(request))
        pieces = aiter(cast("AsyncIterable[bytes]", request.stream))
        try:
            while (turn := await _next_turn_async(http, exchange, timeout_s)) is Signal.WANTED:
                exchange.give(await _next_piece(pieces))
        except BaseException:
            await exchange.leave()
            raise
        return _response(http, turn, lambda: _async_stream_class(http)(http, exchange, timeout_s))

    async def attestation(self) -> dict[str, Any]:
        """What was verified, as `GET /attestation` of the proxy tells it."""
        await self._begin()
        return await self._host.report()

    async def aclose(self) -> None:
        self._closed = True
        if self._serving is not None:
            self._host.stop()
            await self._serving

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError
        if self._opened is None:
            opened: Opened = Opened()
            self._loop, self._opened = loop, asyncio.wrap_future(opened)
            # Not a TaskGroup: it lasts as long as the transport, and `aclose` waits for it.
            self._serving = asyncio.create_task(self._host.serve(opened))  # noqa: TID251
        if loop is not self._loop:
            raise RuntimeError("the transport belongs to another event loop")
        await asyncio.shield(self._opened)  # who leaves meanwhile leaves it to the others


async def _next_piece(pieces: AsyncIterator[bytes]) -> bytes:
    async for piece in pieces:
        if piece:
            return piece
    return b""


async def _next_turn_async(http: ModuleType, exchange: Exchange, timeout_s: float | None) -> Turn:
    try:
        async with asyncio.timeout(timeout_s):
            return await exchange.turn()
    except TimeoutError:
        raise http.ReadTimeout(_SILENT) from None


class _AsyncStream:
    """The events of an answer."""

    def __init__(self, http: ModuleType, exchange: Exchange, timeout_s: float | None) -> None:
        self._http = http
        self._exchange = exchange
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (turn := await _next_turn_async(self._http, self._exchange, self._timeout_s)) is not Signal.END:
            if turn is Signal.CLOSED:
                raise self._http.ReadError(_CLOSED)
            if isinstance(turn, bytes):  # see _Stream
                yield turn
                self._exchange.take()

    async def aclose(self) -> None:
        await self._exchange.leave()


# What is httpx's and httpx2's alike.


def _module_of(request: httpx2.Request) -> ModuleType:
    """The library that made a request: its answer and its errors must be the same one's."""
    return sys.modules[type(request).__module__.partition(".")[0]]


@cache
def _stream_class(http: ModuleType) -> Any:
    return type("EventStream", (_Stream, http.SyncByteStream), {})


@cache
def _async_stream_class(http: ModuleType) -> Any:
    return type("EventStream", (_AsyncStream, http.AsyncByteStream), {})


def _read_timeout_s(request: httpx2.Request) -> float | None:
    limits: dict[str, float | None] = request.extensions.get("timeout", {})
    return limits.get("read")


def _head(request: httpx2.Request) -> tuple[str, str, CIMultiDict[str], int | None]:
    """Method, target, headers and length of a request."""
    headers = CIMultiDict(
        (name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in request.headers.raw
    )
    length = headers.get("content-length", "")
    target = request.url.raw_path.decode("ascii")
    return request.method, target, headers, int(length) if length.isdecimal() else None


def _response(http: ModuleType, turn: Turn, stream: Callable[[], Any]) -> httpx2.Response:
    if not isinstance(turn, Answer):
        raise http.ReadError(_CLOSED)
    body = {"stream": stream()} if turn.body is None else {"content": turn.body}
    response: httpx2.Response = http.Response(turn.status, headers=turn.headers, **body)
    return response
