"""A document comes whole, from where it was asked for and in time, or not at all."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

import attestation.fetch
from attestation.document import MAX_DOCUMENT_BYTES, AttestationDocument
from attestation.errors import EvidenceError, FetchError
from attestation.fetch import fetch_document, parse_engine_url
from attestation.statement import encode_statement, parse_statement
from core.program.http.client import open_session
from tests.attestation.samples import NONCE, STATEMENT, attested
from tests.attestation.servers import attesting, http_answer, raw_server
from tests.waiting import GIVE_UP_S

GOOD = attested()


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(
        tls=None, loopback_only=True, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S
    ) as session:
        yield session


async def _fetch(url: str) -> AttestationDocument:
    async with _session() as session:
        return await fetch_document(session, url, NONCE)


async def test_the_document_of_a_running_engine_is_fetched() -> None:
    async with attesting(encode_statement(STATEMENT)) as url:
        document = await _fetch(url)
    assert NONCE in document.nonces
    assert parse_statement(document.statement) == STATEMENT


@pytest.mark.parametrize("suffix", ["", "/"])
async def test_the_request_is_a_constant_but_for_host_and_nonce(suffix: str) -> None:
    async with raw_server(http_answer(GOOD.encode())) as server:
        assert await _fetch(server.url + suffix) == GOOD
    assert server.heads == [
        f"GET /.well-known/sottovoce-attestation?nonce={NONCE.hex()} HTTP/1.1\r\n"
        f"Host: {server.url.removeprefix('http://')}\r\n"
        "User-Agent: sottovoce\r\n"
        "Accept: application/json\r\n\r\n".encode()
    ]


async def test_a_path_before_the_well_known_one_is_kept() -> None:
    async with raw_server(http_answer(GOOD.encode())) as server:
        await _fetch(server.url + "/engines/3/")
    assert server.heads[0].startswith(b"GET /engines/3/.well-known/sottovoce-attestation?")


async def test_a_redirect_is_not_followed() -> None:
    async with raw_server(http_answer(GOOD.encode())) as elsewhere:
        answer = http_answer(b"", "307 Temporary Redirect", f"Location: {elsewhere.url}/")
        async with raw_server(answer) as server:
            with pytest.raises(FetchError, match="answered 307"):
                await _fetch(server.url)
    assert elsewhere.heads == []


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "429 Busy", "500 Oops", "503 Busy"])
async def test_another_status_than_200_is_told_and_the_answer_is_not_quoted(status: str) -> None:
    async with raw_server(http_answer(b"" if status[0] == "2" else b"canary", status)) as server:
        with pytest.raises(FetchError, match=f"answered {status[:3]} ") as failure:
            await _fetch(server.url)
    assert "canary" not in str(failure.value)


async def test_a_compressed_document_is_not_decompressed() -> None:
    async with raw_server(http_answer(gzip.compress(GOOD.encode()), "200 OK", "Content-Encoding: gzip")) as server:
        with pytest.raises(EvidenceError, match="not JSON"):
            await _fetch(server.url)


async def test_a_document_of_the_greatest_length_is_read_and_one_byte_more_is_not() -> None:
    longest = GOOD.encode().ljust(MAX_DOCUMENT_BYTES)
    async with raw_server(http_answer(longest)) as server:
        assert await _fetch(server.url) == GOOD
    async with raw_server(http_answer(longest + b" ")) as server:
        with pytest.raises(FetchError, match="longer than"):
            await _fetch(server.url)


async def test_an_endless_document_is_given_up() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async with raw_server(endless) as server:
        with pytest.raises(FetchError, match="longer than"):
            await _fetch(server.url)


_HANGS = {"before the answer": b"", "in the head": b"HTTP/1.1 200 OK\r\n", "in the body": http_answer(b"{}")[:-1]}


@pytest.mark.parametrize("sent", _HANGS.values(), ids=_HANGS.keys())
async def test_an_engine_that_hangs_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation.fetch, "FETCH_TIMEOUT_S", 0.05)
    left = asyncio.Event()

    async def hang(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await left.wait()

    async with raw_server(hang) as server:
        with pytest.raises(FetchError, match="TimeoutError"):
            await _fetch(server.url)
        left.set()


_BROKEN = {
    "nothing": b"",
    "no HTTP": b"canary\r\n\r\n",
    "half a body": http_answer(GOOD.encode())[:-1],
    "an endless header": b"HTTP/1.1 200 OK\r\nX: " + b"canary" * 10_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", _BROKEN.values(), ids=_BROKEN.keys())
async def test_an_answer_that_breaks_off_or_is_none_is_told_and_not_quoted(answer: bytes) -> None:
    async with raw_server(answer) as server:
        with pytest.raises(FetchError, match="cannot be reached") as failure:
            await _fetch(server.url)
    assert "canary" not in str(failure.value)


async def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="cannot be reached"):
            await _fetch("http://{}:{}".format(*bound.getsockname()))


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0"])
async def test_a_loopback_session_says_why_it_goes_nowhere_else(host: str) -> None:
    with pytest.raises(FetchError, match="not a loopback address"):
        await _fetch(f"http://{host}:9")


@pytest.mark.parametrize(
    "url", ["http://localhost", "https://engine.example/", "http://[::1]:8800", "http://10.0.0.1:80/a/b/"]
)
def test_an_engine_url_loses_only_its_final_slash(url: str) -> None:
    assert parse_engine_url(url) == url.removesuffix("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8800",
        "ftp://localhost",
        "file:///etc/passwd",
        "http://",
        "http://user:canary@localhost",
        "http://localhost?x=canary",
        "http://localhost/#canary",
        "http://localhost:canary",
        "http://localhost:99999",
        "http://[::1",
        "http://loc alhost",
        "http://localhost/\n",
        "http://localhost\\@canary",
        "http://l\u00f6calhost",
    ],
)
def test_an_engine_url_of_another_form_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="an engine's URL is") as refusal:
        parse_engine_url(url)
    assert "canary" not in str(refusal.value)
