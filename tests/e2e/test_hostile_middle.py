"""Whatever somebody between proxy and engine does, the app gets the engine's answer or an error, and nothing else."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from core.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE
from tests.e2e.conftest import TEXT, Whole
from tests.e2e.middle import Message
from tests.engine.fakes import speech

HEADER_BYTES = 7 + 32
NONCE_BYTES = 32
FORGED = b'{"text":"forged"}'


async def test_the_untouched_path_answers(whole: Whole) -> None:
    reply = await whole.transcribe()
    assert reply.status == 200
    assert json.loads(reply.body)["text"] == TEXT


REQUEST_BYTES = {
    "key id": 0,
    "kem": 2,
    "kdf": 4,
    "aead": 6,
    "encapsulated key": 7 + 16,
    "first length": HEADER_BYTES,
    "first chunk": HEADER_BYTES + 100,
    "final tag": -1,
}


@pytest.mark.parametrize("place", REQUEST_BYTES)
async def test_a_flipped_bit_in_a_request_never_reaches_the_application(whole: Whole, place: str) -> None:
    whole.middle.on_request = lambda message: _flip(message, REQUEST_BYTES[place])
    reply = await whole.transcribe()
    assert reply.status == 502
    assert reply.headers["x-should-retry"] == "false"
    assert whole.transcriber.heard == []


ANSWER_BYTES = {"nonce": 0, "first length": NONCE_BYTES, "first chunk": NONCE_BYTES + 100, "final tag": -1}


@pytest.mark.parametrize("place", ANSWER_BYTES)
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_flipped_bit_in_an_answer_is_an_error(whole: Whole, place: str, stream: str) -> None:
    whole.middle.on_answer = lambda message: _flip(message, ANSWER_BYTES[place])
    reply = await whole.transcribe(stream=stream)
    assert b"[DONE]" not in reply.body
    assert reply.status == 502 or b'"error"' in reply.body


async def test_a_cut_answer_is_an_error_wherever_it_is_cut(whole: Whole) -> None:
    whole_length = len(await _answer_bytes(whole))
    for kept in (0, 1, NONCE_BYTES, NONCE_BYTES + 3, whole_length // 2, whole_length - 17, whole_length - 1):
        whole.middle.on_answer = lambda message, kept=kept: _cut(message, kept)  # type: ignore[misc]
        reply = await whole.transcribe()
        assert reply.status == 502, kept
        assert TEXT.encode() not in reply.body


async def test_a_cut_stream_ends_in_an_error_event_without_done(whole: Whole) -> None:
    whole.middle.on_answer = lambda message: _cut(message, len(message.body) - 8)
    reply = await whole.transcribe(stream="true")
    assert reply.status == 200
    assert b"transcript.text.delta" in reply.body
    assert json.loads(reply.body.strip().rpartition(b"data: ")[2])["error"]["code"] == "stream_truncated"
    assert b"[DONE]" not in reply.body


async def test_bytes_after_the_final_chunk_are_an_error(whole: Whole) -> None:
    whole.middle.on_answer = lambda message: setattr(message, "body", message.body + b"\x00")
    assert (await whole.transcribe()).status == 502


async def test_the_answer_to_another_request_does_not_open(whole: Whole) -> None:
    other = await _answer_bytes(whole)
    whole.middle.on_answer = lambda message: setattr(message, "body", other)
    reply = await whole.transcribe()
    assert reply.status == 502
    assert TEXT.encode() not in reply.body


async def test_a_request_sent_back_as_its_own_answer_does_not_open(whole: Whole) -> None:
    whole.middle.on_request = lambda message: _sealed_type(message.body)
    assert (await whole.transcribe()).status == 502


@pytest.mark.parametrize("path", ["same", "/.well-known/ohttp-gateway"])
async def test_a_replayed_request_is_refused(whole: Whole, path: str) -> None:
    await whole.transcribe()
    target = whole.middle.targets[0] if path == "same" else path
    status, body = await whole.middle.post(target, whole.middle.requests[0])
    assert status == 400
    assert TEXT.encode() not in body
    assert len(whole.transcriber.heard) == 1


async def test_a_truncated_upload_is_never_acted_on(whole: Whole) -> None:
    await whole.transcribe()
    heard = len(whole.transcriber.heard)
    for kept in (HEADER_BYTES, HEADER_BYTES + 1, len(whole.middle.requests[0]) - 1):
        whole.middle.on_request = lambda message, kept=kept: _cut(message, kept)  # type: ignore[misc]
        assert (await whole.transcribe()).status == 502
    assert len(whole.transcriber.heard) == heard


PLAINTEXT = {
    "json": web.Response(status=200, body=FORGED, content_type="application/json"),
    "sealed type": web.Response(status=200, body=FORGED, headers={"Content-Type": RESPONSE_MEDIA_TYPE}),
    "request type": web.Response(status=200, body=FORGED, headers={"Content-Type": REQUEST_MEDIA_TYPE}),
    "events": web.Response(status=200, body=b"data: " + FORGED + b"\n\n", content_type="text/event-stream"),
    "error page": web.Response(status=500, body=b"<h1>forged</h1>", content_type="text/html"),
    "redirect": web.Response(status=307, headers={"Location": "/v1/audio/transcriptions"}, body=FORGED),
    "unauthorised": web.Response(status=401, body=FORGED, headers={"WWW-Authenticate": "Basic"}),
    "too large": web.Response(status=413, body=FORGED),
}


@pytest.mark.parametrize("name", PLAINTEXT)
async def test_an_answer_in_the_clear_is_an_error(whole: Whole, name: str) -> None:
    forged = PLAINTEXT[name]
    whole.middle.on_request = lambda _: web.Response(status=forged.status, body=forged.body, headers=forged.headers)
    reply = await whole.transcribe()
    assert reply.status == 502
    assert b"forged" not in reply.body
    assert "Location" not in reply.headers
    assert "WWW-Authenticate" not in reply.headers


async def test_forged_422s_cost_one_verification_and_never_a_second_copy(whole: Whole) -> None:
    whole.middle.on_request = lambda _: web.Response(status=422, content_type="application/problem+json")
    assert (await whole.transcribe()).error_code == "upstream_key_mismatch"
    verified, sent = whole.middle.attestations, len(whole.middle.requests)
    for _ in range(100):
        assert (await whole.transcribe()).status in (502, 503)
    assert whole.middle.attestations == verified
    assert len(whole.middle.requests) == sent == 1


async def test_keys_from_the_discovery_endpoint_are_never_asked_for(whole: Whole) -> None:
    whole.middle.on_request = lambda _: web.Response(status=422)
    await whole.transcribe()
    assert b"/.well-known/ohttp-gateway" not in bytes(whole.middle.wire)


async def test_an_altered_attestation_is_refused_and_nothing_is_sent(whole: Whole) -> None:
    whole.middle.on_attestation = _swap_statement
    whole.middle.on_request = lambda _: web.Response(status=422)  # makes the proxy verify again
    reply = await whole.transcribe(file=speech(1.0))
    assert reply.status == 502
    assert whole.transcriber.heard == []


async def _answer_bytes(whole: Whole) -> bytes:
    await whole.transcribe()
    return whole.middle.answers[-1]


def _flip(message: Message, index: int) -> None:
    body = bytearray(message.body)
    body[index] ^= 1
    message.body = bytes(body)


def _cut(message: Message, kept: int) -> None:
    message.body = message.body[:kept]


def _sealed_type(body: bytes) -> web.Response:
    return web.Response(status=200, body=body, headers={"Content-Type": RESPONSE_MEDIA_TYPE})


def _swap_statement(message: Message) -> None:
    document = json.loads(message.body)
    document["statement"] = document["statement"].replace("e", "f", 1)
    message.body = json.dumps(document).encode()
