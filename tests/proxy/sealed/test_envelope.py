"""What goes into the envelope, and what comes out of it."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from core.channel.bhttp import Content, End, RequestDecoder, RequestEncoder, RequestHead
from core.channel.gateway import MAX_HEAD_BYTES, REQUEST_HEADERS
from core.channel.keyconfig import GatewayKey
from core.channel.ohttp import RequestOpener, RequestSealer
from core.channel.padding import MIN_REQUEST_BYTES, padme
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed.envelope import Progress, SealedUpload, inner_head, released_headers
from proxy.sealed.spool import Allowance, RetainedBody
from tests.attestation.samples import statement_with

CHUNK_BYTES = 1024
HEAD = RequestHead("POST", "https", "sottovoce.invalid", "/v1/audio/transcriptions")


async def sealed(*pieces: bytes, limit_bytes: int = 10_000_000) -> tuple[list[bytes], GatewayKey]:
    """The outer body for an app's body that arrives in these pieces."""
    key, left = GatewayKey.generate(()), list(pieces)

    async def read() -> bytes:
        return left.pop(0) if left else b""

    statement = statement_with(max_chunk_bytes=CHUNK_BYTES, max_request_bytes=limit_bytes)
    with RetainedBody(read, Allowance()) as body:
        upload = SealedUpload(RequestSealer(key.config), HEAD, body, statement, Progress())
        return [piece async for piece in upload], key


def opened(outer: list[bytes], key: GatewayKey) -> tuple[list[bytes], bytes]:
    """Plaintext chunks, and the content inside."""
    opener, decoder = RequestOpener([key]), RequestDecoder()
    chunks = [*opener.feed(b"".join(outer)), opener.finish()]
    events = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()
    assert events[0] == HEAD
    assert events[-1] == End()
    return chunks, b"".join(event.data for event in events if isinstance(event, Content))


@pytest.mark.parametrize(
    "pieces",
    [(), (b"x",), (b"x" * 50_000,), (b"x",) * 3000, (b"x" * 1000,) * 50, (b"x" * CHUNK_BYTES,) * 40],
    ids=["none", "one byte", "one piece", "bytes", "thousands", "chunks"],
)
async def test_chunks_are_full_whatever_the_apps_write_pattern(pieces: tuple[bytes, ...]) -> None:
    chunks, content = opened(*await sealed(*pieces))
    assert content == b"".join(pieces)
    assert {len(chunk) for chunk in chunks[:-1]} <= {CHUNK_BYTES}
    total = sum(map(len, chunks))
    assert total >= MIN_REQUEST_BYTES
    assert total == padme(total)


async def test_requests_of_nearly_the_same_length_look_the_same() -> None:
    lengths = {sum(map(len, (await sealed(b"x" * size))[0])) for size in range(60_000, 60_100)}
    assert len(lengths) == 1


async def test_more_than_the_limit_is_refused_by_count() -> None:
    await sealed(b"x" * 500, b"x" * 500, limit_bytes=1000)
    with pytest.raises(ProxyError) as caught:
        await sealed(b"x" * 500, b"x" * 501, limit_bytes=1000)
    assert caught.value.code is ErrorCode.FILE_TOO_LARGE
    assert caught.value.numbers == {"limit_bytes": 1000}


def test_only_the_allow_list_goes_into_the_envelope() -> None:
    given = CIMultiDict({name.title(): "value" for name in REQUEST_HEADERS})
    given.update({"Cookie": "c", "User-Agent": "u", "X-Forwarded-For": "1.2.3.4", "Host": "h", "Origin": "o"})
    head = inner_head("POST", "/v1/models?x=1", given, {})
    assert {name for name, _ in head.headers} == set(REQUEST_HEADERS)
    assert (head.scheme, head.authority, head.path) == ("https", "sottovoce.invalid", "/v1/models?x=1")


def test_what_we_set_replaces_what_the_app_said() -> None:
    head = inner_head("GET", "/v1/models", CIMultiDict({"Authorization": "Bearer app"}), {"authorization": "Bearer us"})
    assert head.headers == (("authorization", "Bearer us"),)


def test_a_repeated_list_becomes_one() -> None:
    given = CIMultiDict([("Accept", "a/b"), ("Accept", "c/d")])
    assert inner_head("GET", "/v1/models", given, {}).headers == (("accept", "a/b, c/d"),)


ONCE = sorted(set(REQUEST_HEADERS) - {"accept"})


@pytest.mark.parametrize("name", ONCE)
def test_a_field_with_one_value_may_be_repeated_only_word_for_word(name: str) -> None:
    same = CIMultiDict([(name, "a/b"), (name.title(), "a/b")])
    assert inner_head("GET", "/v1/models", same, {}).headers == ((name, "a/b"),)
    for other in ("c/d", "A/B", "a/b, a/b", ""):
        for values in (("a/b", other), (other, "a/b"), ("a/b", "a/b", other)):
            with pytest.raises(ProxyError) as caught:
                inner_head("GET", "/v1/models", CIMultiDict([(name, value) for value in values]), {})
            assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("path", ["http://elsewhere/v1/models", "*", "/v1/models#fragment", "/v1/a b", "/v1/\udce4"])
def test_a_target_that_no_uri_holds_is_refused(path: str) -> None:
    with pytest.raises(ProxyError) as caught:
        inner_head("GET", path, CIMultiDict(), {})
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_a_head_that_no_engine_takes_is_refused_here() -> None:
    def head(accept_bytes: int) -> RequestHead:
        return inner_head("GET", "/v1/models", CIMultiDict({"Accept": "a" * accept_bytes}), {})

    longest = 60_000 + MAX_HEAD_BYTES - len(RequestEncoder().head(head(60_000)))
    assert len(RequestEncoder().head(head(longest))) == MAX_HEAD_BYTES
    with pytest.raises(ProxyError) as caught:
        head(longest + 1)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_bytes_beyond_ascii_survive_both_ways() -> None:
    value = b"caf\xc3\xa9 \xff".decode("utf-8", "surrogateescape")
    (field,) = inner_head("GET", "/v1/x", CIMultiDict({"Accept": value}), {}).headers
    assert released_headers((("content-type", field[1]),)) == [("content-type", value)]


def test_only_the_allow_list_comes_out_of_the_envelope() -> None:
    passed = {"content-type", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "www-authenticate"}
    passed |= {"allow", "openai-processing-ms", "idempotent-replay", "x-ratelimit-limit-requests"}
    dropped = {"set-cookie", "content-length", "transfer-encoding", "content-encoding", "location", "server", "x-other"}
    fields = tuple((name, "value") for name in sorted(passed | dropped))
    assert {name for name, _ in released_headers(fields)} == passed
