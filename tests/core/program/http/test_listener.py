"""A listener gives nothing away: no header, no line and no URL comes back or is logged."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from core.program.http.listener import MAX_HEADER_COUNT, MAX_LINE_BYTES, Address, listening, refuse_names
from tests.attestation.servers import LOOPBACK, constant_answer
from tests.waiting import GIVE_UP_S

CANARY = b"canary-4711"
READY = web.AppKey("READY", asyncio.Event)
CANCELLED = web.AppKey("CANCELLED", asyncio.Event)


async def _fail(_: web.Request) -> web.Response:
    raise RuntimeError(CANARY.decode())


async def _time_out(_: web.Request) -> web.Response:
    raise TimeoutError(CANARY.decode())


async def _connection_error(_: web.Request) -> web.Response:
    raise ConnectionResetError(CANARY.decode())  # of a connection that the handler has made itself


async def _http_error(_: web.Request) -> web.Response:
    raise web.HTTPConflict(text=CANARY.decode())


async def _nothing(_: web.Request) -> None:
    return None


async def _fail_late(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    return await (_http_error if "http" in request.query else _fail)(request)


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _wait(request: web.Request) -> web.Response:
    request.app[READY].set()
    try:
        await asyncio.Event().wait()
    finally:
        request.app[CANCELLED].set()
    raise AssertionError


_ROUTES = {
    "/fail": _fail,
    "/time-out": _time_out,
    "/connection-error": _connection_error,
    "/http-error": _http_error,
    "/nothing": _nothing,
    "/fail-late": _fail_late,
    "/wait": _wait,
}


def _app() -> web.Application:
    app = web.Application()
    app[READY], app[CANCELLED] = asyncio.Event(), asyncio.Event()
    for path, handler in _ROUTES.items():
        app.router.add_get(path, handler)  # type: ignore[arg-type]
    app.router.add_post("/echo", _echo)
    return app


@asynccontextmanager
async def _listening(app: web.Application | None = None) -> AsyncIterator[Address]:
    async with listening(app or _app(), [LOOPBACK], error_response=constant_answer) as (address,):
        yield address


async def _exchange(address: Address, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(GIVE_UP_S):
            return await reader.read()
    finally:
        writer.close()


def _head(path: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""])


_REFUSED = {
    "a line that is no request": (b"\x16\x03\x01canary-4711\r\n\r\n", 400),
    "an unknown method": (_head(method=b"canary-4711("), 400),
    "another protocol": (b"GET /canary-4711 SPDY/9\r\n\r\n", 400),
    "an endless URL": (_head(b"/canary-4711" + b"x" * MAX_LINE_BYTES), 400),
    "an endless header": (_head(b"/", b"X: canary-4711" + b"x" * MAX_LINE_BYTES), 400),
    "an endless header name": (_head(b"/", b"canary-4711" + b"x" * MAX_LINE_BYTES + b": 1"), 400),
    "too many headers": (_head(b"/", *[b"X-%d: canary-4711" % number for number in range(MAX_HEADER_COUNT)]), 400),
    "a header without a colon": (_head(b"/", b"canary-4711"), 400),
    "a header name of two words": (_head(b"/", b"canary-4711 x: 1"), 400),
    "a header with a control character": (_head(b"/", b"X: canary-4711\x00"), 400),
    "a length that is none": (_head(b"/echo", b"Content-Length: canary-4711", method=b"POST"), 400),
    "two lengths": (_head(b"/echo", b"Content-Length: 1", b"Content-Length: 2", method=b"POST") + CANARY, 400),
    "a length and chunks": (
        _head(b"/echo", b"Content-Length: 1", b"Transfer-Encoding: chunked", method=b"POST") + CANARY,
        400,
    ),
    "an unknown path": (_head(b"/canary-4711?canary-4711"), 404),
    "a method that the path does not take": (_head(b"/fail", method=b"DELETE"), 405),
    "an unknown expectation": (_head(b"/fail", b"Expect: canary-4711"), 417),
    "a handler that fails": (_head(b"/fail?canary-4711"), 500),
    "a handler that is out of time": (_head(b"/time-out?canary-4711"), 504),
    "a handler whose own connection fails": (_head(b"/connection-error?canary-4711"), 500),
    "a handler with words of its own": (_head(b"/http-error?canary-4711"), 409),
}


@pytest.mark.parametrize(("request_bytes", "status"), _REFUSED.values(), ids=_REFUSED.keys())
async def test_what_is_refused_is_answered_with_a_constant_and_neither_echoed_nor_logged(
    request_bytes: bytes, status: int, log: LogCapture, caplog: pytest.LogCaptureFixture
) -> None:
    async with _listening() as address:
        answer = await _exchange(address, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert int(lines[0].split()[1]) == status
    assert body == b"constant"
    names = {line.partition(b":")[0].lower() for line in lines[1:]}
    expected = {b"server", b"content-type", b"content-length", b"date"} | ({b"allow"} if status == 405 else set())
    assert names - {b"connection"} == expected
    assert CANARY not in answer
    assert CANARY.decode() not in repr(log.entries)
    assert caplog.records == []


async def test_a_failure_is_logged_by_its_kind(log: LogCapture) -> None:
    async with _listening() as address:
        await _exchange(address, _head(b"/fail"))
    assert log.entries == [
        {"event": "http_request_failed", "log_level": "warning", "status": 500, "error": "RuntimeError"}
    ]


async def test_a_handler_that_answers_nothing_gives_nothing_away(
    log: LogCapture, caplog: pytest.LogCaptureFixture
) -> None:
    async with _listening() as address:
        answer = await _exchange(address, _head(b"/nothing?canary-4711"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert CANARY not in answer
    assert [entry["event"] for entry in log.entries] == ["http_connection_failed"]
    assert CANARY.decode() not in repr(log.entries)
    assert caplog.records == []


@pytest.mark.parametrize("path", [b"/fail-late", b"/fail-late?http"])
async def test_an_answer_that_has_begun_is_cut_off_and_not_continued(path: bytes, log: LogCapture) -> None:
    async with _listening() as address:
        answer = await _exchange(address, _head(path))
    assert answer.endswith(b"5\r\nbegun\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert CANARY not in answer


async def test_a_compressed_request_is_not_decompressed(log: LogCapture) -> None:
    body = gzip.compress(bytes(50_000))
    length = f"Content-Length: {len(body)}".encode()
    async with _listening() as address:
        answer = await _exchange(address, _head(b"/echo", b"Content-Encoding: gzip", length, method=b"POST") + body)
    assert answer.partition(b"\r\n\r\n")[2] == body


async def test_a_request_that_succeeds_is_not_logged(log: LogCapture, caplog: pytest.LogCaptureFixture) -> None:
    async with _listening() as address:
        await _exchange(address, _head(b"/echo?canary-4711", method=b"POST"))
    assert log.entries == []
    assert caplog.records == []


async def test_a_handler_is_cancelled_when_its_client_leaves() -> None:
    app = _app()
    async with _listening(app) as address, asyncio.timeout(GIVE_UP_S):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(_head(b"/wait"))
        await app[READY].wait()
        writer.close()
        await app[CANCELLED].wait()


AIOHTTP_WAITS_S = 60.0
"""For handlers, unless it is told otherwise."""


async def test_leaving_does_not_wait_for_a_handler_that_never_ends() -> None:
    app = _app()
    async with asyncio.timeout(AIOHTTP_WAITS_S - 10):
        async with _listening(app) as address:
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(_head(b"/wait"))
            await app[READY].wait()
        writer.close()
    assert app[CANCELLED].is_set()


async def test_a_port_that_is_taken_is_an_error_and_frees_the_other() -> None:
    async with _listening() as taken:
        with pytest.raises(OSError, match="address"):
            async with listening(_app(), [LOOPBACK, taken], error_response=constant_answer):
                pass


async def test_several_addresses_are_bound_in_order() -> None:
    async with listening(_app(), [LOOPBACK, LOOPBACK], error_response=constant_answer) as addresses:
        assert len({address.port for address in addresses}) == 2
        assert all(address.port for address in addresses)


async def test_what_is_offered_for_a_websocket_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def take(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("realtime",))
        await socket.prepare(request)
        return socket

    app = web.Application()
    app.router.add_get("/", take)
    async with (
        listening(app, [Address("127.0.0.1", 0)], error_response=constant_answer) as (address,),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{address}/", protocols=("openai-insecure-api-key.canary",)),
    ):
        pass
    assert "canary" not in caplog.text


# Names of hosts.


def _asked(*hosts: str) -> bytes:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    return f"GET / HTTP/1.{1 if hosts else 0}\r\nConnection: close\r\n{lines}\r\n".encode()


@asynccontextmanager
async def _by_address() -> AsyncIterator[Address]:
    async def served(_: web.Request) -> web.Response:
        return web.Response(text="served")

    refuse = refuse_names(lambda: web.Response(status=403), {"localhost", "pod.internal"})
    app = web.Application(middlewares=[refuse])
    app.router.add_get("/", served)
    async with _listening(app) as address:
        yield address


@pytest.mark.parametrize(
    "hosts",
    [(), ("localhost",), ("LOCALHOST:80",), ("127.0.0.1",), ("10.0.0.5:8081",), ("[::1]:8081",), ("pod.internal:1",)],
)
async def test_addresses_and_allowed_names_are_served(hosts: tuple[str, ...]) -> None:
    async with _by_address() as address:
        assert b"served" in await _exchange(address, _asked(*hosts))


@pytest.mark.parametrize(
    "hosts",
    [("evil.example",), ("localhost.evil.example",), ("127.0.0.1.evil.example",), ("localhost", "evil.example"),
     ("evil.example", "localhost"), ("localhost@evil.example",), ("localhost.",), ("",), ("2130706433",), ("0x7f.1",)],
)  # fmt: skip
async def test_any_other_name_is_refused(hosts: tuple[str, ...]) -> None:
    async with _by_address() as address:
        answer = await _exchange(address, _asked(*hosts))
    assert int(answer.split()[1]) == (403 if len(hosts) == 1 else 400)


# Addresses.


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("[::1]:65535", "::1", 65535, True),
        ("localhost:1", "localhost", 1, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("10.0.0.1:80", "10.0.0.1", 80, False),
        ("localhost.example:80", "localhost.example", 80, False),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int, is_loopback: bool) -> None:
    address = Address.parse(text)
    assert address == Address(host, port)
    assert address.is_loopback is is_loopback
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "host", "host:", "host:x", "host:-1", "host:65536", "::1:80", "[::1]", "[::1:80",
             "::1]:80", "host:\u0668\u0660", "ho st:80", "host:80\n", "[host]:80", "http://host:80"]
)  # fmt: skip
def test_an_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an address is HOST:PORT"):
        Address.parse(text)
