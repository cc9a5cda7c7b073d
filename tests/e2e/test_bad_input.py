"""What a user can send wrong, through the whole path with the real decoder: the status, the code, and work goes on."""

from __future__ import annotations

import io
import json
import wave
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from engine.app import EngineParts
from engine.backends.choose import Backend
from tests.e2e.conftest import TEXT, TRANSCRIPTIONS, Reply, Whole, form, whole_path
from tests.engine.fakes import FakeTranscriber, scripted, speech

MAX_FILE_BYTES = 26_214_400


def wav(seconds: float, rate_hz: int = 16_000) -> bytes:
    """A recording of loud noise, which is not speech but is audio."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(bytes(range(256)) * int(seconds * rate_hz / 128))
    return buffer.getvalue()


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(50 * 1024 * 1024))
    return buffer.getvalue()


@pytest.fixture
async def real_decoder(tmp_path: Path) -> AsyncIterator[Whole]:
    transcriber = FakeTranscriber(script=scripted(TEXT))
    async with whole_path(tmp_path, transcriber, EngineParts(backend=Backend(transcriber))) as whole:
        yield whole


FILES = {
    "an empty file": (b"", 400, "audio_too_short"),
    "a twentieth of a second": (wav(0.05), 400, "audio_too_short"),
    "text": (b"these are words, not sounds\n" * 100, 400, "unsupported_file"),
    "random bytes": (bytes((7 * n * n) % 251 for n in range(50_000)), 400, "unsupported_file"),
    "a zip bomb": (zip_bomb(), 400, "unsupported_file"),
    "an hls playlist": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n",
        400,
        "unsupported_file",
    ),
    "a concat list": (b"ffconcat version 1.0\nfile /etc/passwd\n", 400, "unsupported_file"),
    "a wav that ends in its header": (wav(1.0)[:30], 400, None),
    "one byte over the limit": (bytes(MAX_FILE_BYTES + 1), 413, "file_too_large"),
}


@pytest.mark.parametrize("name", FILES)
async def test_a_bad_file_is_refused_and_the_next_one_works(real_decoder: Whole, name: str) -> None:
    file, status, code = FILES[name]
    reply = await real_decoder.transcribe(file)
    assert reply.status == status
    assert code is None or reply.error_code == code
    assert (await real_decoder.transcribe(wav(1.0))).status == 200


async def test_a_file_of_exactly_the_limit_is_admitted(real_decoder: Whole) -> None:
    sound = wav(1.0)
    filler = MAX_FILE_BYTES - len(sound) - 8
    # A chunk that readers pass over in one step; of bare zeros they would look at each.
    reply = await real_decoder.transcribe(sound + b"JUNK" + filler.to_bytes(4, "little") + bytes(filler))
    assert reply.status == 200


async def _post(whole: Whole, body: bytes | aiohttp.FormData, content_type: str | None = None) -> Reply:
    headers = {"Content-Type": content_type} if content_type else {}
    async with whole.session.post(whole.url + TRANSCRIPTIONS, data=body, headers=headers) as response:
        return Reply(response.status, dict(response.headers), await response.read())


async def test_a_request_without_a_file_names_the_field(whole: Whole) -> None:
    boundary = "x"
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nnano\r\n--x--\r\n'
    reply = await _post(whole, body, f"multipart/form-data; boundary={boundary}")
    assert (reply.status, reply.error_code) == (400, "missing_required_parameter")
    assert json.loads(reply.body)["error"]["param"] == "file"


async def test_a_file_sent_as_text_names_the_field(whole: Whole) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nsounds\r\n--x--\r\n'
    reply = await _post(whole, body, "multipart/form-data; boundary=x")
    assert (reply.status, reply.error_code) == (400, "invalid_type")


FIELDS = {
    "an unknown model": ({"model": "gpt-4o"}, 404, "model_not_found"),
    "an unknown language": ({"language": "klingon"}, 400, "invalid_language"),
    "a hot temperature": ({"temperature": "5"}, 400, "invalid_value"),
    "a format that does not exist": ({"response_format": "docx"}, 400, "invalid_value"),
    "speakers, which the engine does not tell apart": ({"response_format": "diarized_json"}, 400, "unsupported_value"),
    "beam search, which one caller must not cost the others": (
        {"use_beam_search": "true"},
        400,
        "unsupported_parameter",
    ),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_a_bad_field_is_refused_by_name(whole: Whole, name: str) -> None:
    fields, status, code = FIELDS[name]
    reply = await whole.transcribe(speech(2.0), **fields)
    assert (reply.status, reply.error_code) == (status, code)
    assert json.loads(reply.body)["error"]["param"] == next(iter(fields))


async def test_unknown_fields_are_ignored(whole: Whole) -> None:
    assert (await whole.transcribe(flavour="sweet")).status == 200


BODIES = {
    "no closing boundary": (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
        "boundary=x",
    ),
    "another boundary": (b"--y\r\n\r\n--y--\r\n", "boundary=x"),
    "no boundary": (b"--x--\r\n", ""),
    "nothing": (b"", "boundary=x"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_malformed_form_is_a_client_error(whole: Whole, name: str) -> None:
    body, parameter = BODIES[name]
    reply = await _post(whole, body, f"multipart/form-data; {parameter}")
    assert reply.status == 400
    assert reply.error_code in ("invalid_multipart", "missing_required_parameter")


async def test_a_body_that_is_no_form_is_415(whole: Whole) -> None:
    reply = await _post(whole, b'{"file":"a"}', "application/json")
    assert (reply.status, reply.error_code) == (415, "unsupported_media_type")


async def test_an_encoded_body_is_415(whole: Whole) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}
    async with whole.session.post(whole.url + TRANSCRIPTIONS, data=b"\x1f\x8b", headers=headers) as response:
        assert response.status == 415


async def test_an_unknown_target_is_openais_404_sealed(whole: Whole) -> None:
    async with whole.session.get(whole.url + "/v1/chat/completions") as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert len(whole.middle.requests) == 1


async def test_a_header_that_is_too_long_is_refused_without_an_echo(whole: Whole) -> None:
    headers = {"X-Long": "zephyr" * 2_000}
    async with whole.session.post(whole.url + TRANSCRIPTIONS, data=form(), headers=headers) as response:
        assert response.status == 400
        assert b"zephyr" not in await response.read()
