from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import weakref
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import LogCapture

from attestation.receipt import Receipt, ReceiptKey, verify_receipt
from core.channel import varint
from core.channel.bhttp import (
    PIECE_BYTES,
    SPARE_PIECES,
    Content,
    End,
    RequestEncoder,
    RequestHead,
    ResponseDecoder,
    ResponseHead,
)
from core.channel.gateway import MAX_HEAD_BYTES, SINGLE_HEADERS
from core.channel.keyconfig import GatewayKey, KeyConfig, decode_key_configs
from core.channel.ohttp import MAX_CHUNK_BYTES_ACCEPTED, RESPONSE_MEDIA_TYPE, RequestSealer
from core.channel.padding import PaddingStripper, padme
from core.errors import ChannelError
from core.program.http.listener import Address
from core.transcript.faults import Fault, FaultKind
from engine.gateway.admission import UploadPace
from engine.gateway.exchange import Answer, Events, Processed
from engine.gateway.keyring import CLOCK_GRACE_S
from engine.gateway.outer import max_outer_bytes, outer_error
from engine.settings import MAX_REQUEST_BYTES as ENGINE_MAX_REQUEST_BYTES
from tests.engine.gateway.fake_application import (
    BROKEN,
    MAX_CHUNK_BYTES,
    MAX_REQUEST_BYTES,
    NOW,
    Clock,
    FakeApplication,
    FakeExchange,
    Serving,
    echo,
    serving,
    streaming,
)
from tests.engine.gateway.sealed_client import (
    Connection,
    OuterResponse,
    SealedRequest,
    ask,
    connected,
    flipped,
    opened,
    seal,
    seal_message,
)
from tests.waiting import time_passes, until, until_settled

GENERIC = "/.well-known/ohttp-gateway"
CANARY = b"the canary sings at midnight"
OVERLOADED = Fault(FaultKind.OVERLOADED)

SEALED_HEADERS = {
    "content-type": RESPONSE_MEDIA_TYPE,
    "incremental": "?1",
    "cache-control": "private, no-store",
    "x-accel-buffering": "no",
    "server": "sottovoce",
    "transfer-encoding": "chunked",
}


async def send(address: Address, request: SealedRequest, wire: bytes | None = None) -> OuterResponse:
    async with connected(address) as connection:
        await connection.post(request, wire)
        return await connection.response()


def is_constant(response: OuterResponse, status: int) -> bool:
    expected = outer_error(status)
    headers = {name.lower(): value for name, value in expected.headers.items()}
    headers |= {"content-length": str(len(response.body))}
    received = response.constant_headers
    received.pop("connection", None)
    received.pop("allow", None)
    return (response.status, response.body, received) == (status, expected.body, headers)


class Gate:
    """An answer that begins when asked for and ends when told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()

    async def answer(self, exchange: FakeExchange) -> Answer:
        self.begun.set()
        await self.open.wait()
        return await echo(exchange)


# --- a request that is served


@pytest.mark.parametrize("path", [None, GENERIC])
async def test_a_sealed_request_gets_a_sealed_answer(path: str | None) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config, CANARY, headers=[("accept", "*/*")], path=path))
    assert (answer.status, answer.content) == (200, CANARY)
    assert answer.headers == {"content-type": "text/plain"}
    (exchange,) = application.exchanges
    assert exchange.head.path == "/v1/audio/transcriptions"
    assert exchange.head.headers == {"accept": "*/*"}


async def test_a_request_in_single_bytes_is_served() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY, padded=False)
        await connection.begin(request.path)
        for at in range(len(request.wire)):
            await connection.send(request.wire[at : at + 1])
        await connection.end()
        assert opened(request, await connection.response()).content == CANARY


async def test_a_request_of_known_length_is_served() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        strings = (b"POST", b"https", b"sottovoce.invalid", b"/v1/audio/transcriptions")
        control = b"".join(varint.encode(len(part)) + part for part in strings)
        field = b"\x06accept\x03*/*"
        message = b"\0" + control + varint.encode(len(field)) + field + varint.encode(len(CANARY)) + CANARY
        assert (await ask(engine.address, seal_message(engine.config, message))).content == CANARY
    assert application.exchanges[0].head.headers == {"accept": "*/*"}


@pytest.mark.parametrize("refusal", [None, OVERLOADED])
async def test_an_answer_to_head_has_no_content(refusal: Exception | None) -> None:
    async with serving(FakeApplication(open_with=refusal)) as engine:
        answer = await ask(engine.address, seal(engine.config, CANARY, method="HEAD"))
    assert (answer.status, answer.content) == (503 if refusal else 200, b"")
    assert answer.headers == {"content-type": "text/plain"}


async def test_many_requests_are_served_on_one_connection() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        for content in (b"one", b"two", b"three"):
            request = seal(engine.config, content)
            await connection.post(request)
            assert opened(request, await connection.response()).content == content


async def test_an_http_1_0_hop_gets_a_whole_answer() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY)
        await connection.begin(request.path, version="1.0", headers={"Content-Length": str(len(request.wire))})
        await connection.raw(request.wire)
        response = await connection.response()
    assert "transfer-encoding" not in response.headers
    assert opened(request, response).content == CANARY


async def test_a_retired_key_still_opens_requests_and_a_dead_one_does_not() -> None:
    async with serving(FakeApplication()) as engine:
        old = engine.config
        engine.clock.now += 1000
        assert engine.config != old
        assert (await ask(engine.address, seal(old, CANARY))).content == CANARY
        engine.clock.now += 100 + CLOCK_GRACE_S
        assert is_constant(await send(engine.address, seal(old)), 422)


async def test_a_key_that_dies_during_an_upload_still_opens_the_rest() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: engine.gateway._in_flight)
        engine.clock.now += 1_000_000
        engine.ring.expire(engine.clock.now)
        await connection.send(b"".join(request.chunks[1:]))
        await connection.end()
        assert opened(request, await connection.response()).content == CANARY * 1000


# --- what does not authenticate


HEADER_PARTS = {"key id": 0, "kem": 2, "kdf": 4, "aead": 6, "enc": 7, "length": 39, "ciphertext": 60}


@pytest.mark.parametrize("part", HEADER_PARTS)
@pytest.mark.parametrize("path", [None, GENERIC])
async def test_a_flip_before_the_first_chunk_has_opened_is_a_key_problem_and_burns_nothing(
    part: str, path: str | None
) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=1024, path=path)
        response = await send(engine.address, request, flipped(request.wire, HEADER_PARTS[part]))
        assert is_constant(response, 422)
        assert not application.exchanges
        # Nothing was claimed: whoever garbles a request on its way does not burn it.
        assert (await ask(engine.address, request)).content == CANARY * 1000


async def test_an_unknown_key_and_a_wrong_one_get_the_same_answer() -> None:
    stranger = GatewayKey.generate(()).config
    application = FakeApplication()
    async with serving(application) as engine:
        ours = f"/ohttp/{engine.config.path_digest}"
        namesake = replace(stranger, key_id=engine.config.key_id)
        for request in (seal(stranger), seal(namesake, path=ours), seal(namesake, path=GENERIC)):
            assert is_constant(await send(engine.address, request), 422)
    assert not application.exchanges


async def test_the_key_problem_is_the_registered_one() -> None:
    async with serving(FakeApplication()) as engine:
        response = await send(engine.address, seal(GatewayKey.generate(()).config))
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body)["type"] == "https://iana.org/assignments/http-problem-types#ohttp-key"


@pytest.mark.parametrize("headers", [{"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}])
async def test_what_is_no_envelope_is_refused(headers: dict[str, str]) -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        request = seal(engine.config)
        await connection.begin(request.path, headers={**headers, "Content-Length": str(len(request.wire))})
        await connection.raw(request.wire)
        assert is_constant(await connection.response(), 400)


# --- what authenticates and is not whole


def rearranged(request: SealedRequest, order: Sequence[int]) -> bytes:
    return request.header + b"".join(request.chunks[number] for number in order)


def damages(request: SealedRequest) -> dict[str, bytes]:
    wire, last = request.wire, len(request.chunks) - 1
    rest = list(range(4, last + 1))
    second = len(request.header) + len(request.chunks[0])
    return {
        "nothing": b"",
        "half a header": wire[:20],
        "a header only": request.header,
        "a flip in a later chunk": flipped(wire, second + 100),
        "a flip in the final chunk": flipped(wire, len(wire) - 40),
        "a flip in the final tag": flipped(wire, len(wire) - 1),
        "a flip in a length": flipped(wire, second + 1),
        "no final chunk": rearranged(request, range(last)),
        "a cut in a chunk": wire[: second + 100],
        "a cut in the final chunk": wire[:-1],
        "a byte behind the final chunk": wire + b"\x00",
        "two chunks swapped": rearranged(request, [0, 2, 1, 3, *rest]),
        "a chunk dropped": rearranged(request, [0, 2, 3, *rest]),
        "a chunk doubled": rearranged(request, [0, 1, 1, 2, 3, *rest]),
        "an empty chunk": wire[:second] + varint.encode(16) + bytes(16) + wire[second:],
        "a chunk of 4 GiB": wire[:second] + varint.encode(1 << 32) + bytes(10),
        "a chunk above the statement's limit": wire[:second] + varint.encode(MAX_CHUNK_BYTES + 17) + bytes(10),
        "a chunk of 1,023 bytes": wire[:second] + varint.encode(1023 + 16) + bytes(10),
    }


def in_pieces(config: KeyConfig, piece_bytes: int) -> bytes:
    return seal(config, bytes(100_000), piece_bytes=piece_bytes, chunk_bytes=4096).wire


def in_chunks(config: KeyConfig, chunk_bytes: int) -> bytes:
    return seal(config, bytes(20_000), chunk_bytes=chunk_bytes).wire


@pytest.mark.parametrize(("cut", "size"), [(in_pieces, 1), (in_pieces, 512), (in_chunks, 1), (in_chunks, 1023)])
async def test_a_body_that_is_cut_too_finely_is_refused_long_before_its_end(
    cut: Callable[[KeyConfig, int], bytes], size: int
) -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        wire = cut(engine.config, size)
        await connection.begin(f"/ohttp/{engine.config.path_digest}", headers={"Content-Length": str(len(wire))})
        await connection.raw(wire[: len(wire) // 2])
        assert is_constant(await connection.response(), 400)
    assert application.answering == 0


@pytest.mark.parametrize("chunk_bytes", [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1])
async def test_a_final_chunk_may_be_as_long_as_any_other_and_no_longer(chunk_bytes: int) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        encoder = RequestEncoder()
        message = encoder.head(HEAD) + encoder.end()
        sealer = RequestSealer(engine.config)
        wire = sealer.header + sealer.seal_final(message + bytes(chunk_bytes - len(message)))
        response = await send(engine.address, seal(engine.config), wire)
    assert response.status == (200 if chunk_bytes == MAX_CHUNK_BYTES else 400)


@pytest.mark.parametrize("damage", damages(seal(GatewayKey.generate(()).config, CANARY * 1000, chunk_bytes=2048)))
async def test_nothing_is_done_with_a_request_that_is_not_whole(damage: str) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=2048)
        response = await send(engine.address, request, damages(request)[damage])
        assert is_constant(response, 400)
    assert application.answering == 0


async def test_a_final_chunk_that_never_comes_is_given_up() -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=2048)
        await connection.begin(request.path)
        await connection.send(request.header + b"".join(request.chunks[:-1]))
        await until(lambda: engine.gateway._in_flight)
        await until_settled()
        time_passes(UploadPace().idle_s)
        assert is_constant(await connection.response(), 400)
        assert engine.refused("too_slow") == 1
    assert application.answering == 0


async def test_broken_http_chunks_end_the_upload() -> None:
    application = FakeApplication()
    # aiohttp's parser does not tell a handler of the fault; the handler hears nothing more.
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY)
        await connection.begin(request.path)
        await connection.send(request.header)
        await until(lambda: engine.gateway._in_flight)
        await connection.raw(b"not a number\r\n")
        await until_settled()
        time_passes(UploadPace().idle_s)
        assert is_constant(await connection.response(), 400)
    assert not application.exchanges


# --- replays


@pytest.mark.parametrize(("first", "second"), [(None, None), (None, GENERIC), (GENERIC, None), (GENERIC, GENERIC)])
async def test_a_replay_is_refused_over_whatever_path(first: str | None, second: str | None) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, CANARY, path=first)
        await ask(engine.address, request)
        again = replace(request, path=second or f"/ohttp/{engine.config.path_digest}")
        assert is_constant(await send(engine.address, again), 400)
        assert engine.refused("replay") == 1
    assert len(application.exchanges) == 1


async def test_a_replay_is_refused_on_the_same_connection() -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY)
        await connection.post(request)
        assert (await connection.response()).status == 200
        await connection.post(request)
        assert is_constant(await connection.response(), 400)
    assert len(application.exchanges) == 1


async def test_a_replay_is_refused_while_the_first_still_arrives() -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.exchanges)
        assert is_constant(await send(engine.address, request), 400)
        await connection.send(b"".join(request.chunks[1:]))
        await connection.end()
        assert opened(request, await connection.response()).content == CANARY * 1000
    assert len(application.exchanges) == 1


async def test_a_replay_is_refused_while_the_first_is_being_answered() -> None:
    gate = Gate()
    application = FakeApplication(gate.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY)
        await connection.post(request)
        await gate.begun.wait()
        assert is_constant(await send(engine.address, request), 400)
        gate.open.set()
        assert opened(request, await connection.response()).content == CANARY
    assert application.answering == 1


async def test_a_replay_with_another_ending_is_refused() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=1024)
        cut = request.header + b"".join(request.chunks[:3])
        assert is_constant(await send(engine.address, request, cut), 400)
        assert is_constant(await send(engine.address, request), 400)
    assert application.answering == 0


async def test_what_was_refused_stays_used() -> None:
    application = FakeApplication(open_with=OVERLOADED)
    async with serving(application) as engine:
        request = seal(engine.config)
        await ask(engine.address, request)
        assert is_constant(await send(engine.address, request), 400)
    assert len(application.refused) == 1


async def test_a_replay_is_not_told_from_other_faults() -> None:
    async with serving(FakeApplication()) as engine:
        request = seal(engine.config)
        await ask(engine.address, request)
        replayed = await send(engine.address, request)
        fresh = seal(engine.config, chunk_bytes=1024)
        cut = await send(engine.address, fresh, fresh.wire[:-1])
    assert (replayed.status, replayed.constant_headers, replayed.body) == (cut.status, cut.constant_headers, cut.body)


async def test_a_replay_is_refused_in_the_new_epoch_as_long_as_its_key_lives() -> None:
    async with serving(FakeApplication(), max_enc=1) as engine:
        request = seal(engine.config)
        await ask(engine.address, request)
        assert engine.config.path_digest not in request.path
        assert is_constant(await send(engine.address, request), 400)


# --- refusals while a request arrives


async def test_a_refusal_by_the_head_is_sent_while_the_upload_goes_on() -> None:
    application = FakeApplication(open_with=OVERLOADED)
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY * 5000, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        answer = opened(request, await connection.response())
        assert (answer.status, answer.content) == (503, b"overloaded")
        # The client was not listening: it goes on, and finds the connection in order afterwards.
        await connection.send(b"".join(request.chunks[1:]))
        await connection.end()
        second = seal(engine.config)
        application.open_with = None
        await connection.post(second)
        assert opened(second, await connection.response()).status == 200


async def test_a_client_that_reads_only_after_its_upload_still_gets_the_refusal() -> None:
    async with serving(FakeApplication(open_with=OVERLOADED)) as engine, connected(engine.address) as connection:
        request = seal(engine.config, bytes(MAX_REQUEST_BYTES))
        await connection.post(request)
        assert opened(request, await connection.response()).status == 503


async def test_a_refusal_by_the_content_is_sent_while_the_upload_goes_on() -> None:
    application = FakeApplication(refuse_after=3000, refuse_with=OVERLOADED)
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, bytes(200_000), chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + b"".join(request.chunks[:8]))
        assert opened(request, await connection.response()).status == 503
    (exchange,) = application.exchanges
    assert len(exchange.body) <= 8192


async def test_a_refused_head_reads_no_content() -> None:
    application = FakeApplication(open_with=OVERLOADED)
    async with serving(application) as engine:
        assert (await ask(engine.address, seal(engine.config, bytes(100_000)))).status == 503
    assert not application.exchanges


@pytest.mark.parametrize("fault", [{"open_with": KeyError("canary")}, {"refuse_after": 0}])
async def test_what_the_application_did_not_foresee_is_sealed_too(fault: dict[str, Any]) -> None:
    application = FakeApplication(**fault)
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config, CANARY))
    assert (answer.status, answer.content) == (500, b"internal")


async def test_an_answer_that_fails_is_a_sealed_refusal() -> None:
    async def fail(_: FakeExchange) -> Answer:
        raise ValueError("canary")

    async with serving(FakeApplication(fail)) as engine:
        answer = await ask(engine.address, seal(engine.config, CANARY))
    assert (answer.status, answer.content) == (500, b"internal")


# --- what an inner request must be


def encoded(head: RequestHead, *strings: str) -> bytes:
    """A head whose control data is `strings`, whatever `RequestHead` thinks of them."""
    control = b"".join(varint.encode(len(text)) + text.encode() for text in strings)
    original = (head.method, head.scheme, head.authority, head.path)
    well_formed = b"".join(varint.encode(len(text)) + text.encode() for text in original)
    return RequestEncoder().head(head).replace(well_formed, control)


HEAD = RequestHead("POST", "https", "sottovoce.invalid", "/v1/models")


@pytest.mark.parametrize(
    "control",
    [
        ("CONNECT", "", "sottovoce.invalid:443", ""),
        ("GET", "https", "sottovoce.invalid", "https://sottovoce.invalid/v1/models"),
        ("OPTIONS", "https", "sottovoce.invalid", "*"),
        ("GET", "https", "sottovoce.invalid", ""),
        ("GET", "https", "sottovoce.invalid", "/v1/models#fragment"),
        ("GET ", "https", "sottovoce.invalid", "/v1/models"),
        ("GET", "https", "sotto\r\nvoce", "/v1/models"),
    ],
)
async def test_a_target_in_another_form_is_no_message(control: tuple[str, ...]) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, encoded_head=encoded(HEAD, *control))
        assert is_constant(await send(engine.address, request), 400)
    assert not application.exchanges


@pytest.mark.parametrize(
    ("scheme", "authority"),
    [
        ("http", "sottovoce.invalid"),
        ("https", ""),
        ("https", "api.openai.com"),
        ("https", "sottovoce.invalid:443"),
        ("https", "Sottovoce.Invalid"),
    ],
)
async def test_a_target_elsewhere_does_not_exist_here(scheme: str, authority: str) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config, scheme=scheme, authority=authority))
    assert (answer.status, answer.content) == (404, b"unknown")
    assert not application.exchanges


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "POST", "BREW"])
async def test_methods_and_targets_are_the_applications_to_judge(method: str) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        await ask(engine.address, seal(engine.config, method=method, target="//x/%2e%2e/?a=b&c"))
    (exchange,) = application.exchanges
    assert (exchange.head.method, exchange.head.path) == (method, "//x/%2e%2e/?a=b&c")


@pytest.mark.parametrize("name", sorted(SINGLE_HEADERS))
async def test_a_header_that_may_stand_once_may_not_stand_twice(name: str) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, headers=[(name, "0"), (name, "0")])
        assert is_constant(await send(engine.address, request), 400)
    assert not application.exchanges


async def test_the_values_of_a_list_header_are_joined() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        await ask(engine.address, seal(engine.config, headers=[("accept", "text/plain"), ("accept", "*/*")]))
    assert application.exchanges[0].head.headers == {"accept": "text/plain, */*"}


@pytest.mark.parametrize("declared", ["27", "29", "0", "-1", "+28", "2_8", "28, 28", "", "٢٨", "9" * 5000])
async def test_a_content_length_that_is_not_the_contents_is_refused(declared: str) -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        head = RequestHead("POST", "https", "sottovoce.invalid", "/v1/models", (("content-length", "CANARY"),))
        value = declared.encode()
        text = RequestEncoder().head(head).replace(b"\x06CANARY", varint.encode(len(value)) + value)
        request = seal(engine.config, CANARY, encoded_head=text)
        assert is_constant(await send(engine.address, request), 400)
    assert application.answering == 0


async def test_a_content_length_that_is_the_contents_is_fine() -> None:
    async with serving(FakeApplication()) as engine:
        headers = [("content-length", str(len(CANARY)))]
        assert (await ask(engine.address, seal(engine.config, CANARY, headers=headers))).content == CANARY


async def test_more_content_than_declared_is_refused_before_it_is_fed() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        request = seal(engine.config, bytes(100_000), headers=[("content-length", "10")], piece_bytes=1000)
        assert is_constant(await send(engine.address, request), 400)
    assert not application.exchanges


async def test_a_message_without_an_end_is_refused() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        encoder = RequestEncoder()
        message = encoder.head(HEAD) + encoder.content(CANARY)
        assert is_constant(await send(engine.address, seal_message(engine.config, message)), 400)
    assert application.answering == 0


async def test_padding_that_is_not_zero_is_refused() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        encoder = RequestEncoder()
        message = encoder.head(HEAD) + encoder.end(padding=100) + b"\x01"
        assert is_constant(await send(engine.address, seal_message(engine.config, message)), 400)
    assert application.answering == 0


async def test_a_head_above_its_bound_is_refused() -> None:
    async with serving(FakeApplication()) as engine:
        request = seal(engine.config, headers=[("accept", "x" * MAX_HEAD_BYTES)])
        assert is_constant(await send(engine.address, request), 400)


# --- sizes


HEADER_BYTES = 7 + 1_120


def overhead(message_bytes: int, chunk_bytes: int) -> int:
    chunks = -(-message_bytes // chunk_bytes)
    return HEADER_BYTES + chunks * (8 + 16)


@pytest.mark.parametrize("limit", [1, 10_000, MAX_REQUEST_BYTES, ENGINE_MAX_REQUEST_BYTES, 2**25 - 70_000, 2**31])
@pytest.mark.parametrize("chunk_bytes", [1024, 16_384, 65_536, MAX_CHUNK_BYTES_ACCEPTED])
def test_the_largest_request_fits_with_the_worst_padding_and_framing(limit: int, chunk_bytes: int) -> None:
    content = limit + 8 * (SPARE_PIECES + limit // PIECE_BYTES)
    message = padme(1 + 2 * MAX_HEAD_BYTES + content + 3)
    assert message + overhead(message, chunk_bytes) <= max_outer_bytes(limit)


def test_the_cap_is_no_more_than_a_sixth_above_the_limit() -> None:
    assert max_outer_bytes(ENGINE_MAX_REQUEST_BYTES) < 7 / 6 * ENGINE_MAX_REQUEST_BYTES


async def test_the_largest_request_is_served_with_the_worst_framing() -> None:
    async with serving(FakeApplication()) as engine:
        content = bytes(MAX_REQUEST_BYTES)
        headers = [("content-length", str(MAX_REQUEST_BYTES)), ("accept", "x" * 65_000)]
        request = seal(engine.config, content, headers=headers, chunk_bytes=1024, piece_bytes=1024)
        assert (await ask(engine.address, request)).content == content


async def test_one_byte_of_content_more_is_a_sealed_413() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config, bytes(MAX_REQUEST_BYTES + 1)))
    assert answer.status == 413
    (error,) = application.refused
    assert isinstance(error, Fault)
    assert error.numbers["limit_bytes"] == MAX_REQUEST_BYTES


async def test_more_than_any_request_can_have_is_an_outer_413_by_its_length() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        length = max_outer_bytes(MAX_REQUEST_BYTES) + 1
        await connection.begin(f"/ohttp/{engine.config.path_digest}", headers={"Content-Length": str(length)})
        assert is_constant(await connection.response(), 413)


@pytest.mark.parametrize("too_many", [0, 1])
async def test_more_than_any_request_can_have_is_an_outer_413_by_count(too_many: int) -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        # All of it padding, so that only the outer count can object.
        limit = max_outer_bytes(MAX_REQUEST_BYTES)
        encoder = RequestEncoder()
        message = bytearray(encoder.head(HEAD) + encoder.end())
        sealed_final = 1 + 16
        full_chunk = 3 + 65_536 + 16 + 1
        while limit + too_many - (HEADER_BYTES) - sealed_final - len(message) % 65_536 >= 0:
            chunks, rest = divmod(len(message), 65_536)
            total = HEADER_BYTES + chunks * full_chunk + sealed_final + rest
            if total >= limit + too_many:
                break
            message += bytes(min(65_536, limit + too_many - total))
        request = seal_message(engine.config, bytes(message))
        await connection.begin(request.path)
        await connection.send(request.wire)
        await connection.end()
        response = await connection.response()
        if len(request.wire) > limit:
            assert is_constant(response, 413)
        else:
            assert opened(request, response).status == 200
        assert (len(request.wire) > limit) is bool(too_many)
    assert application.answering == 1 - too_many


# --- requests at the door


async def half_sent(connection: Connection, request: SealedRequest) -> None:
    await connection.begin(request.path)
    await connection.send(request.wire[:500])


async def rest_sent(connection: Connection, request: SealedRequest) -> None:
    await connection.send(request.wire[500:])
    await connection.end()


async def test_where_too_many_heads_are_awaited_the_one_that_was_awaited_longest_gives_way() -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(serving(FakeApplication(), max_arriving=2))
        arriving = []
        for number in range(3):
            request = seal(engine.config, CANARY)
            connection = await stack.enter_async_context(connected(engine.address))
            await half_sent(connection, request)
            if number < 2:
                await until(lambda number=number: engine.gateway._in_flight == number + 1)  # type: ignore[misc]
            arriving.append((connection, request))
        (crowded_out, _), *staying = arriving
        refusal = await crowded_out.response()
        assert is_constant(refusal, 503)
        assert refusal.headers["retry-after"] == "1"
        assert engine.refused("crowded") == 1
        for connection, request in staying:
            await rest_sent(connection, request)
            assert opened(request, await connection.response()).content == CANARY


async def test_a_request_whose_head_has_opened_gives_way_to_none() -> None:
    application = FakeApplication(door=asyncio.Event())
    async with serving(application, max_arriving=1) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY)
        await connection.post(request)
        await until(lambda: application.waiting)
        assert is_constant(await send(engine.address, seal(engine.config)), 503)
        assert application.door is not None
        application.door.set()
        assert opened(request, await connection.response()).content == CANARY


async def test_what_is_being_answered_is_no_longer_at_the_door() -> None:
    gate = Gate()
    async with (
        serving(FakeApplication(gate.answer), max_arriving=1) as engine,
        connected(engine.address) as first,
        connected(engine.address) as second,
    ):
        for connection in (first, second):
            await connection.post(seal(engine.config, CANARY))
            assert (await connection.response_head())[0] == 200
        gate.open.set()


@pytest.mark.parametrize("door", [None, asyncio.Event()])
async def test_a_client_that_leaves_the_door_makes_room(door: asyncio.Event | None) -> None:
    application = FakeApplication(door=door)
    async with serving(application, max_arriving=1) as engine:
        async with connected(engine.address) as connection:
            request = seal(engine.config, CANARY, chunk_bytes=1024)
            await connection.begin(request.path)
            await connection.send(request.wire[:500] if door is None else request.wire)
            await until(lambda: application.waiting if door else engine.gateway._in_flight)
            connection.abort()
        await until(lambda: not engine.gateway._in_flight)
        application.door = None
        assert (await ask(engine.address, seal(engine.config, CANARY))).content == CANARY
        assert engine.refused("crowded") == 0


async def test_what_comes_behind_the_head_waits_with_it() -> None:
    application = FakeApplication(door=asyncio.Event())
    async with serving(application) as engine, connected(engine.address) as connection:
        content = CANARY * 1000
        request = seal(engine.config, content, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + b"".join(request.chunks[:3]))
        await until(lambda: application.waiting)
        await connection.send(b"".join(request.chunks[3:]))
        await connection.end()
        assert application.door is not None
        application.door.set()
        assert opened(request, await connection.response()).content == content


async def test_an_upload_is_not_timed_while_its_place_is_awaited() -> None:
    application, clock = FakeApplication(door=asyncio.Event()), Clock()
    pace = UploadPace(min_bytes_per_s=1000, grace_s=10)
    async with (
        serving(application, pace=pace, monotonic=clock) as engine,
        connected(engine.address) as connection,
    ):
        request = seal(engine.config, CANARY * 100, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.waiting)
        clock.now += 60
        assert application.door is not None
        application.door.set()
        await connection.send(b"".join(request.chunks[1:]))
        await connection.end()
        assert opened(request, await connection.response()).content == CANARY * 100


# --- the pace of an upload


async def test_a_silent_upload_is_given_up() -> None:
    application = FakeApplication()
    async with serving(application, pace=UploadPace(idle_s=100)) as engine, connected(engine.address) as connection:
        request = seal(engine.config, bytes(10_000), chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: engine.gateway._in_flight)
        await until_settled()
        time_passes(90)
        await until_settled()
        assert not engine.refused("too_slow")
        time_passes(10)
        assert is_constant(await connection.response(), 400)
        assert engine.refused("too_slow") == 1


@pytest.mark.parametrize(
    "pace", [UploadPace(min_bytes_per_s=1000, grace_s=10), UploadPace(min_bytes_per_s=0, deadline_s=20)]
)
async def test_an_upload_below_its_pace_is_given_up(pace: UploadPace) -> None:
    application, clock = FakeApplication(), Clock()
    async with (
        serving(application, pace=pace, monotonic=clock) as engine,
        connected(engine.address) as connection,
    ):
        request = seal(engine.config, bytes(10_000), chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.exchanges)
        clock.now += 21
        await connection.send(request.chunks[1])
        assert is_constant(await connection.response(), 400)
    assert application.answering == 0


@pytest.mark.parametrize(("declared", "served"), [("10000", True), (None, False)])
async def test_the_more_an_upload_may_hold_the_faster_it_has_to_come(declared: str | None, served: bool) -> None:
    application, clock = FakeApplication(), Clock()
    pace = UploadPace(min_bytes_per_s=10, grace_s=10, deadline_s=900)
    async with (
        serving(application, pace=pace, monotonic=clock, max_request_bytes=900_000) as engine,
        connected(engine.address) as connection,
    ):
        headers = [("content-length", declared)] if declared else []
        request = seal(engine.config, bytes(10_000), headers=headers, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.exchanges)
        clock.now += 11  # the first chunk is enough for 11 bytes a second, and not for 1000
        await connection.send(b"".join(request.chunks[1:4]))
        if served:
            await connection.send(b"".join(request.chunks[4:]))
            await connection.end()
            assert opened(request, await connection.response()).status == 200
        else:
            assert is_constant(await connection.response(), 400)
            assert engine.refused("too_slow") == 1


async def test_the_application_is_told_where_a_request_comes_from() -> None:
    application = FakeApplication()
    async with serving(application) as engine:
        await ask(engine.address, seal(engine.config))
    assert application.sources == ["127.0.0.1"]


async def test_an_upload_at_its_pace_is_served() -> None:
    application, clock = FakeApplication(), Clock()
    pace = UploadPace(min_bytes_per_s=100, grace_s=10)
    async with (
        serving(application, pace=pace, monotonic=clock) as engine,
        connected(engine.address) as connection,
    ):
        request = seal(engine.config, bytes(10_000), headers=[("content-length", "10000")], chunk_bytes=1024)
        await connection.begin(request.path)
        for number, chunk in enumerate((request.header + request.chunks[0], *request.chunks[1:])):
            await connection.send(chunk)
            fed = min(1024 * number, 10_000)
            await until(lambda fed=fed: application.exchanges and len(application.exchanges[0].body) >= fed)  # type: ignore[misc]
            clock.now += 9
        await connection.end()
        assert opened(request, await connection.response()).status == 200


# --- answers


async def test_a_request_under_way_keeps_no_dead_key() -> None:
    gate = Gate()
    application = FakeApplication(gate.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        epoch = engine.ring.current(engine.clock.now)
        privates = [weakref.ref(held.key.private_key) for held in epoch.keys]
        engine.clock.now = epoch.dies_at
        request = seal(epoch.keys[0].key.config, b"audio")
        del epoch
        engine.clock.now -= 1
        await connection.post(request)
        await until(lambda: application.answering)
        engine.clock.now += 1
        engine.ring.expire(engine.clock.now)
        gc.collect()
        assert [private() for private in privates] == [None, None]
        gate.open.set()
        assert opened(request, await connection.response()).status == 200


async def test_heartbeats_show_that_work_goes_on() -> None:
    gate = Gate()
    async with serving(FakeApplication(gate.answer), heartbeat_s=0.001) as engine:
        request = seal(engine.config, CANARY)
        async with connected(engine.address) as connection:
            await connection.post(request)
            assert (await connection.response_head())[0] == 200
            events = connection.events(request)
            for _ in range(3):
                assert await anext(events) == ResponseHead(102)
            gate.open.set()
            rest = [event async for event in events]
    heads = [event for event in rest if isinstance(event, ResponseHead) and event.status != 102]
    assert [head.status for head in heads] == [200]
    assert Content(CANARY) in rest
    assert rest[-1] == End()


async def test_the_outer_head_is_sent_before_there_is_an_answer() -> None:
    gate = Gate()
    async with serving(FakeApplication(gate.answer)) as engine, connected(engine.address) as connection:
        request = seal(engine.config)
        await connection.post(request)
        assert (await connection.response_head())[0] == 200
        gate.open.set()


async def test_the_size_of_an_answer_is_rounded_to_four_kibibytes() -> None:
    outer: dict[int, set[int]] = {}
    async with serving(FakeApplication()) as engine:
        for length in (0, 1, 100, 3000, 4000, 4030, 4100, 65_400, 65_600, 131_072):
            request = seal(engine.config, bytes(length))
            response = await send(engine.address, request)
            answer = opened(request, response) if length == 0 else None
            rounded = (length + 40) // 4096
            outer.setdefault(rounded, set()).add(len(response.body))
            assert "content-length" not in response.headers
            assert answer is None or answer.message_bytes == 4096
    assert all(len(sizes) == 1 for sizes in outer.values())
    assert len({size for sizes in outer.values() for size in sizes}) == len(outer)


async def test_an_answer_of_many_chunks_arrives_whole() -> None:
    content = bytes(range(256)) * 1000
    async with serving(FakeApplication()) as engine:
        answer = await ask(engine.address, seal(engine.config, content))
    assert answer.content == content
    assert answer.message_bytes % 4096 == 0


async def test_every_event_goes_out_in_a_chunk_of_its_own_that_hides_its_size() -> None:
    events = [b"data: a\n\n", b"data: " + b"b" * 200 + b"\n\n", b": keep-alive\n\n", b"data: [DONE]\n\n"]
    async with serving(FakeApplication(streaming(*events))) as engine, connected(engine.address) as connection:
        request = seal(engine.config)
        await connection.post(request)
        await connection.response_head()
        pieces = []
        while piece := await connection.piece():
            pieces.append(piece)
        answer = opened(request, OuterResponse(200, {}, b"".join(pieces)))
    nonce, _, *chunks, _ = pieces
    assert len(nonce) == 32
    assert {len(chunk) for chunk in chunks} == {2 + 16 + 2 + 256}
    assert len(chunks) == len(events)
    stripper = PaddingStripper()
    assert stripper.feed(answer.content) + stripper.finish() == b"".join(events)


ALLOWANCES = [
    (),
    (
        ("x-ratelimit-limit-requests", "1"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1ms"),
    ),
    (
        ("x-ratelimit-limit-requests", "1000000000"),
        ("x-ratelimit-remaining-requests", "999999999"),
        ("x-ratelimit-reset-requests", "59m59.999s"),
    ),
]


@pytest.mark.parametrize("allowance", ALLOWANCES)
async def test_the_head_of_a_stream_tells_nothing_by_its_size(allowance: tuple[tuple[str, str], ...]) -> None:
    sizes = set()
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        for length in range(1, 65):
            headers = (("content-type", "text/event-stream"), ("x-request-id", "a" * length), *allowance)
            application.answer = streaming(b"data: a\n\n", headers=headers)
            request = seal(engine.config)
            await connection.post(request)
            await connection.response_head()
            pieces = []
            while piece := await connection.piece():
                pieces.append(piece)
            answer = opened(request, OuterResponse(200, {}, b"".join(pieces)))
            assert answer.headers == dict(headers)
            assert PaddingStripper().feed(answer.content) == b"data: a\n\n"
            sizes.add(len(pieces[1]))
    assert sizes == {2 + 512 + 16}


async def test_a_stream_that_fails_ends_in_an_error_event_and_a_proper_final_chunk() -> None:
    application = FakeApplication(streaming(b"data: a\n\n", failure=ValueError("canary")))
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config))
    stripper = PaddingStripper()
    assert stripper.feed(answer.content) + stripper.finish() == b"data: a\n\n" + BROKEN
    assert [type(error) for error in application.refused] == [ValueError]


async def test_a_connection_error_of_the_streams_own_is_told_like_any_other() -> None:
    application = FakeApplication(streaming(b"data: a\n\n", failure=ConnectionResetError("canary")))
    async with serving(application) as engine:
        answer = await ask(engine.address, seal(engine.config))
    assert answer.content.endswith(BROKEN)


# --- clients that leave


async def test_the_exchange_ends_with_a_client_that_leaves_during_its_upload() -> None:
    application = FakeApplication()
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, bytes(10_000), chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.exchanges)
        connection.abort()
        await until(lambda: application.exchanges[0].closed)
    assert application.answering == 0


async def test_work_is_cancelled_for_a_client_that_leaves() -> None:
    gate = Gate()
    application = FakeApplication(gate.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        await connection.post(seal(engine.config))
        await gate.begun.wait()
        connection.abort()
        await until(lambda: application.exchanges[0].closed)
    assert application.cancelled == 1


class Endless:
    """A stream without an end. taken: how many events somebody has taken."""

    def __init__(self, event: bytes) -> None:
        self.event = event
        self.more = asyncio.Event()
        self.ended = False
        self.taken = 0

    async def answer(self, _: FakeExchange) -> Answer:
        return Answer(200, (), self._events())

    async def _events(self) -> Events:
        try:
            while True:
                yield self.event
                self.taken += 1
                await self.more.wait()
        finally:
            self.ended = True


async def test_a_stream_is_closed_for_a_client_that_leaves() -> None:
    endless = Endless(b"data: a\n\n")
    application = FakeApplication(endless.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config)
        await connection.post(request)
        await connection.response_head()
        events = connection.events(request)
        await anext(events)
        await anext(events)
        connection.abort()
        await until(lambda: endless.ended)
    assert not application.refused


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    endless = Endless(b"data: " + b"a" * 200_000 + b"\n\n")
    endless.more.set()
    application = FakeApplication(endless.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        await connection.post(seal(engine.config))
        await until(lambda: endless.taken)
        await until_settled(lambda: endless.taken)
        time_passes(UploadPace().idle_s)
        await until(lambda: endless.ended)
        await until(lambda: application.exchanges[0].closed)
    assert not application.refused


async def test_a_departure_is_no_failure_of_ours(log: LogCapture) -> None:
    endless = Endless(b"data: " + b"a" * 200_000 + b"\n\n")
    endless.more.set()
    application = FakeApplication(endless.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        await connection.post(seal(engine.config))
        await until(lambda: endless.taken)
        await until_settled(lambda: endless.taken)
        time_passes(UploadPace().idle_s)
        await until(lambda: endless.ended)
    assert log.entries == []


async def test_an_answer_is_never_complete_when_sealing_fails() -> None:
    async def unsealable(_: FakeExchange) -> Answer:
        return Answer(200, (("Not-Lower-Case", CANARY.decode()),), CANARY)

    async with serving(FakeApplication(unsealable)) as engine:
        request = seal(engine.config)
        response = await send(engine.address, request)
        assert not response.complete
        assert CANARY not in response.body
        with pytest.raises(ChannelError):
            opened(request, response)


# --- what anybody sees


async def outer_answers(connection: Connection, heads: Sequence[bytes]) -> list[OuterResponse]:
    answers = []
    for head in heads:
        await connection.raw(head)
        answers.append(await connection.response())
    return answers


async def test_every_sealed_answer_has_the_same_outer_head() -> None:
    async with serving(FakeApplication()) as engine:
        requests = [
            seal(engine.config, CANARY),
            seal(engine.config, method="GET", target="/"),
            seal(engine.config, bytes(MAX_REQUEST_BYTES + 1)),
            seal(engine.config, authority="elsewhere"),
        ]
        responses = [await send(engine.address, request) for request in requests]
    assert [response.status for response in responses] == [200] * 4
    assert all(response.constant_headers == SEALED_HEADERS for response in responses)


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (404, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"),
        (404, b"POST /ohttp/CANARY HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        (405, b"PUT /.well-known/ohttp-gateway HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        (417, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nExpect: CANARY\r\n\r\n"),
        (400, b"CANARY\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nCANARY\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nCanary: " + b"CANARY" * 2000 + b"\r\n\r\n"),
        (400, b"POST /.well-known/ohttp-gateway HTTP/1.1\r\nHost: x\r\nContent-Length: CANARY\r\n\r\n"),
    ],
)
async def test_what_is_not_even_a_sealed_request_gets_a_constant(status: int, head: bytes, log: LogCapture) -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        (response,) = await outer_answers(connection, [head])
        assert response.constant_headers.get("allow") == ("GET,HEAD,POST" if status == 405 else None)
        assert is_constant(response, status), response
    assert "CANARY" not in repr(log.entries)


async def test_a_defect_of_our_own_is_a_constant_500(log: LogCapture) -> None:
    async with serving(FakeApplication()) as engine:
        request = seal(engine.config)

        def broken(digest: str, now: float) -> None:
            raise ValueError("canary")

        engine.ring.find = broken  # type: ignore[method-assign,assignment]
        assert is_constant(await send(engine.address, request), 500)
    assert "canary" not in repr(log.entries)


async def test_the_keys_are_published_for_monitoring() -> None:
    async with serving(FakeApplication()) as engine, connected(engine.address) as connection:
        await connection.begin(GENERIC, method="GET")
        response = await connection.response()
        published = decode_key_configs(response.body)
        assert published == tuple(held.key.config for held in engine.ring.current(engine.clock.now).keys)
        assert published[0] == engine.config
    assert response.headers["content-type"] == "application/ohttp-keys"
    assert response.headers["server"] == "sottovoce"


async def test_nothing_of_a_request_is_logged(log: LogCapture, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: FakeExchange) -> Answer:
        raise ValueError(CANARY.decode())

    for application in (FakeApplication(fail), FakeApplication(open_with=KeyError(CANARY.decode())), FakeApplication()):
        async with serving(application) as engine:
            request = seal(engine.config, CANARY, headers=[("authorization", CANARY.decode())])
            await send(engine.address, request)
            await send(engine.address, request)
            await send(engine.address, replace(request, path=f"/{CANARY.hex()}"))
    assert CANARY.decode() not in repr(log.entries) + caplog.text
    assert CANARY.hex() not in repr(log.entries) + caplog.text


# --- draining


async def test_a_draining_gateway_finishes_what_it_has_begun_and_takes_nothing_new() -> None:
    gate = Gate()
    application = FakeApplication(gate.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        request = seal(engine.config, CANARY * 1000, chunk_bytes=1024)
        await connection.begin(request.path)
        await connection.send(request.header + request.chunks[0])
        await until(lambda: application.exchanges)
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(engine.gateway.drain(3600))
            await until(lambda: engine.gateway._draining)
            late = await send(engine.address, seal(engine.config))
            assert is_constant(late, 503)
            assert late.headers["retry-after"] == "1"
            await connection.send(b"".join(request.chunks[1:]))
            await connection.end()
            await gate.begun.wait()
            assert not drain.done()
            gate.open.set()
            assert opened(request, await connection.response()).content == CANARY * 1000
    assert len(application.exchanges) == 1


async def test_an_idle_gateway_is_drained_at_once() -> None:
    async with serving(FakeApplication()) as engine:
        await engine.gateway.drain(3600)


async def test_draining_does_not_wait_for_ever() -> None:
    gate = Gate()
    application = FakeApplication(gate.answer)
    async with serving(application) as engine, connected(engine.address) as connection:
        await connection.post(seal(engine.config))
        await gate.begun.wait()
        await engine.gateway.drain(0.0)
        assert application.answering == 1
        connection.abort()


# --- receipts

RECEIPT_KEY = ReceiptKey()
ASKS_FOR_RECEIPT = ("sottovoce-receipt", "1")


async def with_receipt(engine: Serving, request: SealedRequest) -> tuple[Receipt | None, bytes, list[int]]:
    """The verified receipt of an answer, its content, and the sizes of its sealed chunks."""
    async with connected(engine.address) as connection:
        await connection.post(request)
        response = await connection.response()
    answer = hashlib.sha256()
    request.opener.covered = answer
    chunks = [*request.opener.feed(response.body), request.opener.finish()]
    decoder = ResponseDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()
    content = b"".join(event.data for event in events if isinstance(event, Content))
    (end,) = [event for event in events if isinstance(event, End)]
    text = dict(end.trailers).get("sottovoce-receipt")
    sizes = [len(chunk) for chunk in chunks]
    if text is None:
        return None, content, sizes
    seen = {"request_sha256": hashlib.sha256(request.wire).hexdigest(), "answer_sha256": answer.hexdigest()}
    before_the_receipt = response.body[: len(response.body) - 1 - sizes[-1] - 16]
    assert answer.digest() == hashlib.sha256(before_the_receipt).digest()
    return verify_receipt(text, RECEIPT_KEY.public_key, **seen)[0], content, sizes


@pytest.mark.parametrize("size", [0, 1, 3_000, 4_000, 65_536, 200_000])
async def test_a_receipt_covers_the_request_and_the_answer_before_it(size: int) -> None:
    async with serving(FakeApplication(), receipt_key=RECEIPT_KEY) as engine:
        request = seal(engine.config, bytes(size), headers=[ASKS_FOR_RECEIPT], chunk_bytes=16_384)
        receipt, content, sizes = await with_receipt(engine, request)
    assert content == bytes(size)
    assert receipt is not None
    assert (receipt.status, receipt.model, receipt.audio_seconds, receipt.replayed) == (200, None, 0, False)
    assert receipt.issued_at == int(NOW)
    assert sum(sizes[:-1]) % 4_096 == 0
    assert sizes[-1] == 1_024


async def test_a_stream_has_a_receipt_too_and_tells_seconds_rounded_up() -> None:
    async def speak(_: FakeExchange) -> Answer:
        async def events() -> Events:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        return Answer(200, (("content-type", "text/event-stream"),), events(), lambda: Processed("whisper", 3.01))

    async with serving(FakeApplication(speak), receipt_key=RECEIPT_KEY) as engine:
        receipt, content, sizes = await with_receipt(engine, seal(engine.config, b"", headers=[ASKS_FOR_RECEIPT]))
    assert receipt is not None
    assert (receipt.model, receipt.audio_seconds) == ("whisper", 4)
    assert content.endswith(b"data: 2\n\n")
    assert sizes[-1] == 1_024


async def test_heartbeats_are_covered_by_the_receipt() -> None:
    gate = Gate()
    async with serving(FakeApplication(gate.answer), receipt_key=RECEIPT_KEY, heartbeat_s=0.001) as engine:
        request = seal(engine.config, CANARY, headers=[ASKS_FOR_RECEIPT])
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(with_receipt(engine, request))
            await gate.begun.wait()
            await until(lambda: engine.gateway._in_flight)
            gate.open.set()
    assert asking.result()[0] is not None


async def test_nobody_gets_a_receipt_who_did_not_ask() -> None:
    async with serving(FakeApplication(), receipt_key=RECEIPT_KEY) as engine:
        receipt, _, sizes = await with_receipt(engine, seal(engine.config, CANARY))
    assert receipt is None
    assert len(sizes) == 1


async def test_what_is_refused_before_it_has_arrived_has_no_receipt() -> None:
    async with serving(FakeApplication(open_with=Fault(FaultKind.OVERLOADED)), receipt_key=RECEIPT_KEY) as engine:
        receipt, _, _ = await with_receipt(engine, seal(engine.config, CANARY, headers=[ASKS_FOR_RECEIPT]))
    assert receipt is None
