"""What clients of OpenAI's send, to an engine that serves its names: the shape of every answer, and no field lost."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import av
import openai.types.audio as sdk
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from core.transcript.faults import Fault
from engine.app import EngineParts, RunningEngine, running_engine
from engine.backends.choose import Backend
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.models import ModelCatalogue
from engine.openai.multipart import Form, MultipartReader
from engine.settings import EngineSettings
from engine.types import OpenAIName
from tests.core.media.sounds import kennedy
from tests.engine.fakes import FakeAnalyser, FakeTranscriber
from tests.engine.gateway.sealed_client import FORM, OpenedAnswer, ask, seal
from tests.engine.speech.fake_diarizer import FakeDiarizer
from tests.engine.test_app import attested
from tests.places import ROOT

Json = dict[str, Any]

HERE = ROOT / "tests" / "engine" / "corpus"
REQUESTS: list[Json] = tomllib.loads((HERE / "requests.toml").read_text())["request"]
SCHEMA: Json = json.loads((HERE / "openai.schema.json").read_text())
BOUNDARY = FORM[1].partition("boundary=")[2]
RATE_HZ = 16_000

SCHEMAS = {
    "json": "CreateTranscriptionResponseJson",
    "verbose_json": "CreateTranscriptionResponseVerboseJson",
    "diarized_json": "CreateTranscriptionResponseDiarizedJson",
    "translation": "CreateTranslationResponseJson",
    "verbose_translation": "CreateTranslationResponseVerboseJson",
    "error": "ErrorResponse",
}
EVENTS = {
    "transcript.text.delta": "TranscriptTextDeltaEvent",
    "transcript.text.segment": "TranscriptTextSegmentEvent",
    "transcript.text.done": "TranscriptTextDoneEvent",
}
TEXTS = {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}

VOICES = {
    "speaker_embeddings",
    *(f"speaker_embeddings.{name}" for name in ("speaker", "known", "seconds", "embedding", "model", "same")),
}
SAID_TOO = {
    "CreateTranscriptionResponseVerboseJson": {"task", "language_code", "segments.speaker", *VOICES},
    "CreateTranscriptionResponseDiarizedJson": VOICES,
    "CreateTranslationResponseVerboseJson": {"task", "language_code"},
}
"""Members that answers have beside those of the schema: OpenAI's own example has `task`, and we tell the code; speakers
and what their voices are like where `diarize` and `include[]` ask for them."""

SDK: Mapping[str, type[BaseModel]] = {
    "TranscriptionSegment": sdk.TranscriptionSegment,
    "TranscriptionWord": sdk.TranscriptionWord,
    "TranscriptionDiarizedSegment": sdk.TranscriptionDiarizedSegment,
    "CreateTranscriptionResponseJson": sdk.Transcription,
    "CreateTranscriptionResponseVerboseJson": sdk.TranscriptionVerbose,
    "CreateTranscriptionResponseDiarizedJson": sdk.TranscriptionDiarized,
    "CreateTranslationResponseJson": sdk.Translation,
    "CreateTranslationResponseVerboseJson": sdk.TranslationVerbose,
    "TranscriptTextDeltaEvent": sdk.TranscriptionTextDeltaEvent,
    "TranscriptTextDoneEvent": sdk.TranscriptionTextDoneEvent,
    "TranscriptTextSegmentEvent": sdk.TranscriptionTextSegmentEvent,
}

FILES = {
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "mp3"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "ogg": ("ogg", "libopus"),
    "webm": ("webm", "libopus"),
    "wav": ("wav", "pcm_s16le"),
}


@cache
def recording(kind: str, seconds: float = 3.0) -> bytes:
    """Somebody speaks, in a file of that kind."""
    if kind in ("empty", "text"):
        return b"" if kind == "empty" else b"Ask not what your country can do for you.\n" * 100
    if kind == "short":
        return recording("wav", 0.05)
    rate_hz = 48_000 if kind in ("ogg", "webm") else RATE_HZ
    samples = kennedy(rate_hz)[: round(seconds * rate_hz)]
    if kind == "pcm":
        return bytes(samples.tobytes())
    container, codec = FILES[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate_hz, frame_size=context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


def fields_of(request: Json) -> list[tuple[str, str]]:
    """The fields as a form has them, each value of a list by itself."""
    reference = "data:audio/wav;base64," + base64.b64encode(recording("wav")).decode()
    pairs: list[tuple[str, str]] = []
    for name, value in request["fields"].items():
        values = [(f"{name}[]", one) for one in value] if isinstance(value, list) else [(name, value)]
        pairs += [(key, reference if one == "@reference" else one) for key, one in values]
    return pairs


def body_of(request: Json) -> bytes:
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields_of(request)
    ]
    if (kind := request.get("file", "wav")) != "none":
        media_type = f"audio/pcm; rate={RATE_HZ}" if kind == "pcm" else "application/octet-stream"
        head = f'Content-Disposition: form-data; name="file"; filename="upload"\r\nContent-Type: {media_type}\r\n\r\n'
        parts.append(head.encode() + recording(kind))
    return b"".join(f"--{BOUNDARY}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


async def answered(engine: RunningEngine, request: Json) -> OpenedAnswer:
    _, statement = await attested(engine)
    target = f"/v1/audio/{request.get('path', 'transcriptions')}"
    return await ask(engine.address, seal(statement.ohttp_keys[0], body_of(request), target=target, headers=[FORM]))


class Heard:
    """What the engine answered to the whole corpus, by name; its catalogue, and the aliases that it attests."""

    def __init__(self, answers: dict[str, OpenedAnswer], catalogue: ModelCatalogue, aliases: tuple[str, ...]) -> None:
        self.aliases = aliases
        self.answers = answers
        self.catalogue = catalogue


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    return asyncio.run(hear_all(tmp_path_factory.mktemp("model")))


async def hear_all(directory: Path) -> Heard:
    (directory / "model.bin").write_bytes(b"weights")
    given: Json = {
        "listen": "127.0.0.1:0",
        "status_listen": "127.0.0.1:0",
        "model": (f"whisper={directory}",),
        "alias_openai": "whisper",
        "speakers": "channels",
        "insecure_evidence": True,
    }
    backend = Backend(FakeTranscriber(), (FakeAnalyser(),), diarizer=FakeDiarizer())
    async with running_engine(EngineSettings(**given), EngineParts(backend)) as engine:
        answers = {request["name"]: await answered(engine, request) for request in REQUESTS}
        _, statement = await attested(engine)
        return Heard(answers, engine.application.catalogue, statement.models[0].aliases)


each = pytest.mark.parametrize("request_", REQUESTS, ids=[request["name"] for request in REQUESTS])
taken = pytest.mark.parametrize(
    "request_",
    [request for request in REQUESTS if "status" not in request],
    ids=[request["name"] for request in REQUESTS if "status" not in request],
)


def test_the_corpus_covers_what_clients_ask_for() -> None:
    assert len(REQUESTS) >= 60
    assert len({request["name"] for request in REQUESTS}) == len(REQUESTS)
    assert {*SCHEMAS, *TEXTS, "events"} == {request["answer"] for request in REQUESTS}
    assert {request["fields"]["model"] for request in REQUESTS} > set(OpenAIName)


def test_every_name_is_attested_with_the_model_that_answers(heard: Heard) -> None:
    assert heard.aliases == tuple(OpenAIName)


@pytest.mark.parametrize("name", SDK)
def test_the_schema_says_what_the_sdk_says(name: str) -> None:
    fields, written = SDK[name].model_fields, SCHEMA["$defs"][name]
    assert set(written["properties"]) == set(fields)
    assert set(written["required"]) == {field for field, of in fields.items() if of.is_required()}


@each
def test_an_answer_has_its_status_and_its_shape(heard: Heard, request_: Json) -> None:
    answer = heard.answers[request_["name"]]
    assert answer.status == request_.get("status", 200)
    kind = request_["answer"]
    if kind in TEXTS:
        assert answer.headers["content-type"].startswith(TEXTS[kind])
        assert answer.content.decode().strip()
        assert (b"-->" in answer.content) is (kind != "text")
        assert answer.content.startswith(b"WEBVTT") is (kind == "vtt")
    elif kind == "events":
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in events(answer):
            conforms(EVENTS[event["type"]], event)
        assert answer.content.endswith(b"data: [DONE]\n\n")
        assert events(answer)[-1]["type"] == "transcript.text.done"
    else:
        assert answer.headers["content-type"] == "application/json"
        conforms(SCHEMAS[kind], json.loads(answer.content))


@each
def test_an_answer_says_what_was_asked_for(heard: Heard, request_: Json) -> None:
    answer = heard.answers[request_["name"]]
    if request_["answer"] in TEXTS:
        return
    told = events(answer)[-1] if request_["answer"] == "events" else json.loads(answer.content)
    assert set(request_.get("said", ())) <= told.keys()
    assert not set(request_.get("lacks", ())) & told.keys()
    assert told.get("usage", {}).get("type") == request_.get("usage")
    if "code" in request_:
        assert told["error"]["code"] == request_["code"]
        assert told["error"]["param"] == request_.get("param")


@taken
def test_no_field_is_dropped_in_silence(heard: Heard, request_: Json) -> None:
    """Without any of its fields a request asks for something else, or is refused; or the corpus says that it is not."""
    whole = fields_of(request_)
    asked = parsed(request_, whole, heard.catalogue)
    assert isinstance(asked, ParsedRequest)
    assert asked.unknown_fields == 0
    idle = set(request_.get("idle", ())) | {"model"}  # what a model's name changes, the shapes say
    for name in {name.removesuffix("[]") for name, _ in whole} - idle:
        rest = [pair for pair in whole if not pair[0].startswith(name)]
        assert parsed(request_, rest, heard.catalogue) != asked, name


def test_what_is_refused_is_a_field_that_was_sent() -> None:
    for request in REQUESTS:
        if "param" in request:
            assert request["param"] in {*request["fields"], "file"}, request["name"]


def test_an_answer_with_a_member_too_many_does_not_conform() -> None:
    with pytest.raises(AssertionError):
        conforms("CreateTranslationResponseJson", {"text": "", "usage": {"type": "duration", "seconds": 1}})


def parsed(request: Json, fields: list[tuple[str, str]], catalogue: ModelCatalogue) -> ParsedRequest | Fault:
    reader = MultipartReader(FORM[1])
    reader.feed(body_of(request))
    form = reader.finish()
    parse = parse_translation if request.get("path") == "translations" else parse_transcription
    try:
        return parse(Form(tuple(fields), form.audio, form.audio_type), catalogue)
    except Fault as refused:
        return refused


def events(answer: OpenedAnswer) -> list[Json]:
    lines = [line.removeprefix(b"data: ") for line in answer.content.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def conforms(name: str, value: Json) -> None:
    """The schema holds, and there is no member that it does not know."""
    validator = Draft202012Validator(SCHEMA | {"$ref": f"#/$defs/{name}"})
    assert not [error.message for error in validator.iter_errors(value)]
    known = set(chain.from_iterable(members(SCHEMA["$defs"][name])))
    assert set(paths(value)) <= known | SAID_TOO.get(name, set())


def members(schema: Json, above: str = "") -> Iterator[tuple[str, ...]]:
    """The path of every member that a schema knows, `a.b` for `b` in `a`."""
    for reference in [schema["$ref"]] if "$ref" in schema else []:
        yield from members(SCHEMA["$defs"][reference.rpartition("/")[2]], above)
    for choice in schema.get("oneOf", ()):
        yield from members(choice, above)
    if "items" in schema:
        yield from members(schema["items"], above)
    for name, of in schema.get("properties", {}).items():
        yield (above + name,)
        yield from members(of, f"{above}{name}.")


def paths(value: Any, above: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, of in value.items():
            yield above + name
            yield from paths(of, f"{above}{name}.")
    elif isinstance(value, list):
        for of in value:
            yield from paths(of, above)
