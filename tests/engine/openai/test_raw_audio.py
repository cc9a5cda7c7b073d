from __future__ import annotations

import json

import pytest

from core.media.types import RawSamples
from core.transcript.faults import Fault
from engine.openai.errors import ErrorCode, code_of, to_response
from engine.openai.fields import parse_transcription, parse_translation
from engine.openai.multipart import Form
from engine.openai.raw_audio import raw_samples
from engine.openai.subjects import param_of
from tests.engine.openai.forms import CATALOGUE, body, part, read

CANARY = "Vlxqz7"


def upload(content_type: str, audio: bytes = bytes(3200)) -> Form:
    """A form as it comes over the wire."""
    return read(body(part('name="file"; filename="a"', audio, f"Content-Type: {content_type}")))


def refusal(form: Form) -> Fault:
    with pytest.raises(Fault) as caught:
        raw_samples(form)
    return caught.value


@pytest.mark.parametrize(
    ("content_type", "samples"),
    [
        ("audio/pcm", RawSamples(16_000)),
        ("audio/raw", RawSamples(16_000)),
        ("Audio/PCM; Rate=24000", RawSamples(24_000)),
        ("audio/pcm;rate=8000;channels=2", RawSamples(8_000, 2)),
        ("audio/pcm; channels=2", RawSamples(16_000, 2)),
        ('audio/raw; rate="192000"', RawSamples(192_000)),
        ("audio/L16; rate=44100", RawSamples(44_100, 1, big_endian=True)),
        ("audio/l16; rate=44100; channels=2", RawSamples(44_100, 2, big_endian=True)),
    ],
)
def test_the_content_type_tells_what_raw_samples_are(content_type: str, samples: RawSamples) -> None:
    assert raw_samples(upload(content_type)) == samples


@pytest.mark.parametrize("parse", [parse_transcription, parse_translation])
def test_a_request_knows_what_its_samples_are(parse: object) -> None:
    assert callable(parse)
    assert parse(upload("audio/pcm; rate=8000"), CATALOGUE).hearing.raw_samples == RawSamples(8_000)
    assert parse(upload("audio/mpeg"), CATALOGUE).hearing.raw_samples is None


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/L16",
        *(f"audio/pcm; rate={rate}" for rate in ("0", "1", "7999", "192001", "4294967296", "-16000", "16e3", "x", "")),
        *(f"audio/pcm; channels={channels}" for channels in ("0", "3", "8", "-1", "1.0", "x")),
        "audio/pcm; rate",
        "audio/pcm; rate=8000; rate=16000",
        "audio/pcm; rate=8000 channels=2",
        "audio/pcm; bits=24",
        "audio/pcm; encoding=float",
        "audio/L16; rate=16000; endianness=little-endian",
        f"audio/pcm; {CANARY}={CANARY}",
    ],
)
def test_a_form_of_samples_that_is_not_served_is_refused_by_name(content_type: str) -> None:
    error = refusal(upload(content_type))
    assert (code_of(error), param_of(error)) == (ErrorCode.INVALID_RAW_AUDIO, "file")
    assert CANARY not in f"{error!r} {to_response(error).body!r}"
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("content_type", "length"), [("audio/pcm", 3201), ("audio/pcm; channels=2", 3202), ("audio/L16; rate=8000", 1)]
)
def test_a_part_of_a_sample_is_refused_by_name(content_type: str, length: int) -> None:
    assert code_of(refusal(upload(content_type, bytes(length)))) is ErrorCode.INVALID_RAW_AUDIO


def test_the_refusal_says_what_is_served() -> None:
    response = to_response(refusal(upload("audio/pcm; rate=1")))
    error = json.loads(response.body)["error"]
    assert (response.status, error["code"], error["param"]) == (400, "invalid_raw_audio", "file")
    assert all(
        word in error["message"]
        for word in ("16-bit", "8000", "192000", "`channels`, an integer from 1 to 2", "audio/pcm")
    )


@pytest.mark.parametrize("content_type", ["audio/wav", "audio/x-wav", "application/octet-stream", "audio/L24", "x"])
def test_any_other_type_is_left_to_the_bytes(content_type: str) -> None:
    assert raw_samples(upload(f"{content_type}; rate=1; channels=99", bytes(3201))) is None


def test_a_file_without_a_type_is_left_to_the_bytes() -> None:
    assert raw_samples(read(body(part('name="file"; filename="a"', b"x")))) is None


def test_a_wav_file_that_is_called_raw_is_a_wav_file() -> None:
    wav = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(21)
    assert raw_samples(upload("audio/pcm; rate=1", wav)) is None
    assert code_of(refusal(upload("audio/pcm; rate=1", b"RIFF" + bytes(41)))) is ErrorCode.INVALID_RAW_AUDIO
