"""The worker's side of the socket, with models that do as the test says."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.transcript.types import Segment
from engine.backends.faster_whisper.alignment import TooLongError
from engine.backends.faster_whisper.encodings import Encodings
from engine.backends.faster_whisper.messages import (
    Kind,
    decode_fields,
    decode_prefix,
    encode,
    options_to_fields,
    transcript_from_fields,
)
from engine.backends.faster_whisper.worker import (
    EX_SOFTWARE,
    FAILURES,
    KNOWN_GOOD,
    MAX_FAILURES,
    CancelledError,
    Model,
    Server,
    first_segments,
    receive,
)
from engine.backends.framing import Fields
from engine.types import DecodingOptions
from tests.engine.speech.utterances import NANO, needs_checkpoint
from tests.waiting import GIVE_UP_S

OPTIONS = DecodingOptions("en", prompt="red green")
SILENCE = Segment(2.0, 3.0, " thanks", avg_logprob=-1.5, no_speech_prob=0.9)


class ScriptedModel(Model):
    """Hears the segments it is given, each once it is told to go on."""

    def __init__(self, *segments: Segment, failure: Exception | None = None, broken: bool = False) -> None:
        """failure: what is raised of every clip but, unless the device is broken, the one that is known to be good."""
        self._encodings = Encodings(lambda features: features)
        self._segments = segments
        self._failure = failure
        self._broken = broken
        self.doubted = 0
        self.heard = 0
        self.go_on = threading.Semaphore(0)
        self.at_work = threading.Event()

    def languages(self, pcm: bytes) -> dict[str, float]:
        return {"en": len(pcm) / 4}

    def segments(
        self, pcm: bytes, options: DecodingOptions, heed: Callable[[], None] = lambda: None
    ) -> Iterator[Segment]:
        known_good = pcm == KNOWN_GOOD
        self.doubted += known_good
        if self._failure and (self._broken or not known_good):
            raise self._failure
        for segment in self._segments:
            self.at_work.set()
            self.go_on.acquire()
            self.heard += 1
            yield segment

    def prompt_tokens(self, options: DecodingOptions) -> int:
        return len((options.prompt or "").split())


class Engine:
    """The other end of the worker's socket."""

    def __init__(self, model: Model, *, threads: int = 1) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(GIVE_UP_S)
        self._server = Server(theirs, {"m": model})
        self._reader = threading.Thread(target=self._server.run, args=(threads,), daemon=True)
        self._reader.start()
        assert self.answer()["kind"] is Kind.READY

    def ask(self, kind: Kind, number: int, pcm: bytes = b"\0\0") -> None:
        fields: Fields = {"id": number}
        if kind is not Kind.CANCEL:
            fields |= {"model": "m", "clip": number, "options": options_to_fields(OPTIONS)}
        self._channel.sendall(encode(kind, fields, pcm if kind is not Kind.CANCEL else b""))

    def answer(self) -> Fields:
        message = receive(self._channel)
        assert message is not None
        return message[0]

    def hang_up(self) -> None:
        self._channel.close()
        self._reader.join(GIVE_UP_S)
        assert not self._reader.is_alive()

    def wait_until_cancelled(self, number: int) -> None:
        while number not in self._server._calls:  # not read yet
            time.sleep(0.001)
        assert self._server._calls[number].cancelled.wait(GIVE_UP_S)


def segment(number: int) -> Segment:
    return Segment(float(number), number + 1.0, f" {number}", tokens=(number, number))


@pytest.fixture
def engine_of() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(model: Model, *, threads: int = 1) -> Engine:
        engines.append(Engine(model, threads=threads))
        return engines[-1]

    yield build
    for engine in engines:
        engine.hang_up()


Build = Callable[..., Engine]


def test_languages_are_answered(engine_of: Build) -> None:
    engine = engine_of(ScriptedModel())
    engine.ask(Kind.LANGUAGES, 3, b"\0\0")
    assert engine.answer() == {"kind": Kind.LANGUAGES, "id": 3, "probabilities": {"en": 0.5}}


def test_a_transcript_has_all_segments_and_counts_tokens(engine_of: Build) -> None:
    model = ScriptedModel(segment(0), segment(1), SILENCE)
    model.go_on.release(3)
    engine = engine_of(model)
    engine.ask(Kind.TRANSCRIBE, 1)
    answer = engine.answer()
    transcript = transcript_from_fields(answer)
    assert answer["kind"] is Kind.TRANSCRIPT
    assert transcript.text == " 0 1 thanks"  # whether that is silence is decided for all backends alike
    assert transcript.segments == (segment(0), segment(1), SILENCE)
    assert (transcript.output_tokens, transcript.prompt_tokens) == (4, 2)


def test_a_stream_sends_each_segment_as_it_comes_and_leaves_out_silence(engine_of: Build) -> None:
    model = ScriptedModel(segment(0), SILENCE, segment(1))
    engine = engine_of(model)
    engine.ask(Kind.STREAM, 1)
    model.go_on.release()
    assert engine.answer() == {"kind": Kind.DELTA, "id": 1, "text": " 0"}
    model.go_on.release(2)
    assert engine.answer()["text"] == " 1"
    assert transcript_from_fields(engine.answer()).text == " 0 1"


def test_calls_are_answered_in_order_by_one_thread(engine_of: Build) -> None:
    model = ScriptedModel(segment(0))
    model.go_on.release(3)
    engine = engine_of(model)
    for number in (5, 6, 7):
        engine.ask(Kind.TRANSCRIBE, number)
    assert [engine.answer()["id"] for _ in range(3)] == [5, 6, 7]


def test_threads_work_side_by_side(engine_of: Build) -> None:
    model = ScriptedModel(segment(0))
    engine = engine_of(model, threads=2)
    engine.ask(Kind.TRANSCRIBE, 1)
    engine.ask(Kind.LANGUAGES, 2)
    assert engine.answer()["id"] == 2  # the first still waits for its model
    model.go_on.release()
    assert engine.answer()["id"] == 1


def test_a_cancelled_call_stops_before_its_next_segment(engine_of: Build) -> None:
    model = ScriptedModel(*map(segment, range(9)))
    engine = engine_of(model)
    engine.ask(Kind.TRANSCRIBE, 1)
    assert model.at_work.wait(GIVE_UP_S)
    engine.ask(Kind.CANCEL, 1)
    engine.wait_until_cancelled(1)
    model.go_on.release()
    assert engine.answer() == {"kind": Kind.CANCELLED, "id": 1}
    assert model.heard == 1


@needs_checkpoint
def test_a_cancelled_call_stops_between_the_encoder_and_the_decoder() -> None:
    model = Model(str(NANO), beam_size=1, device="cpu")
    encoder, cancelled = model._whisper.encode, False

    def encoding(*arguments: Any) -> Any:
        nonlocal cancelled
        encoded, cancelled = encoder(*arguments), True
        return encoded

    def heed() -> None:
        if cancelled:
            raise CancelledError

    model._whisper.encode = encoding
    with pytest.raises(CancelledError):
        list(model.segments(KNOWN_GOOD, DecodingOptions("en"), heed))
    assert cancelled


def test_a_cancelled_call_that_waits_is_dropped(engine_of: Build) -> None:
    model = ScriptedModel(segment(0))
    engine = engine_of(model)
    for number in (1, 2, 3):
        engine.ask(Kind.TRANSCRIBE, number)
    engine.ask(Kind.CANCEL, 99)  # unknown, or answered meanwhile: ignored
    engine.ask(Kind.CANCEL, 2)
    engine.wait_until_cancelled(2)
    model.go_on.release(2)
    answers = [engine.answer() for _ in range(3)]
    assert [(answer["id"], answer["kind"]) for answer in answers] == [
        (1, Kind.TRANSCRIPT),
        (2, Kind.CANCELLED),
        (3, Kind.TRANSCRIPT),
    ]
    assert model.heard == 2


@pytest.mark.parametrize("failure", [kind("the canary sings") for kind in (*FAILURES, IndexError, OverflowError)])
def test_a_clip_that_cannot_be_decoded_fails_alone_and_in_silence(
    engine_of: Build, failure: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = engine_of(ScriptedModel(failure=failure))
    engine.ask(Kind.TRANSCRIBE, 1)
    assert engine.answer() == {"kind": Kind.FAILED, "id": 1}
    engine.ask(Kind.LANGUAGES, 2)
    assert engine.answer()["kind"] is Kind.LANGUAGES
    said = capfd.readouterr()
    assert said.err == f"faster-whisper worker: a clip could not be decoded: {type(failure).__name__}\n"
    assert said.out == ""


def test_however_many_clips_fail_a_device_that_decodes_a_good_one_is_kept(engine_of: Build) -> None:
    model = ScriptedModel(failure=RuntimeError())
    engine = engine_of(model)
    for number in range(3 * MAX_FAILURES):
        engine.ask(Kind.TRANSCRIBE, number)
        assert engine.answer() == {"kind": Kind.FAILED, "id": number}
    engine.ask(Kind.LANGUAGES, 99)
    assert engine.answer()["kind"] is Kind.LANGUAGES
    assert model.doubted == 3


def test_clips_that_fail_between_others_cast_no_doubt(engine_of: Build) -> None:
    model = ScriptedModel(failure=RuntimeError())
    engine = engine_of(model)
    for number in range(2 * MAX_FAILURES):
        engine.ask(Kind.TRANSCRIBE, number)
        engine.ask(Kind.LANGUAGES, 100 + number)
        assert [engine.answer()["kind"] for _ in range(2)] == [Kind.FAILED, Kind.LANGUAGES]
    assert model.doubted == 0


def test_a_device_that_cannot_decode_a_good_clip_either_is_given_up(
    engine_of: Build, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(os, "_exit", ended.put)
    engine = engine_of(ScriptedModel(failure=RuntimeError("the canary sings"), broken=True))
    for number in range(MAX_FAILURES):
        assert ended.empty()
        engine.ask(Kind.TRANSCRIBE, number)
        assert engine.answer()["kind"] is Kind.FAILED
    assert ended.get(timeout=GIVE_UP_S) == EX_SOFTWARE
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "faster-whisper worker: nor could one that is known to be good: RuntimeError"


def test_texts_that_are_too_long_say_nothing_of_the_device(engine_of: Build, capfd: pytest.CaptureFixture[str]) -> None:
    engine = engine_of(ScriptedModel(failure=TooLongError()))
    for number in range(MAX_FAILURES + 1):
        engine.ask(Kind.TRANSCRIBE, number)
        assert engine.answer() == {"kind": Kind.FAILED, "id": number}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("most", "heard"), [(None, 3), (6, 3), (5, 2), (4, 2), (3, 1), (2, 1), (1, 0)])
def test_of_a_clips_segments_the_first_are_kept_that_have_no_more_tokens_than_allowed(
    most: int | None, heard: int
) -> None:
    assert list(first_segments(map(segment, range(3)), most)) == [segment(number) for number in range(heard)]


def test_a_clip_that_has_all_its_tokens_is_not_decoded_further() -> None:
    segments = map(segment, range(3))
    assert list(first_segments(segments, 4)) == [segment(0), segment(1)]
    assert list(segments) == [segment(2)], "which may stand for a window"


def test_the_server_ends_with_its_engine() -> None:
    Engine(ScriptedModel()).hang_up()


@pytest.mark.parametrize("kept", range(9))
def test_an_engine_that_hangs_up_inside_a_message_is_gone(kept: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(encode(Kind.CANCEL, {"id": 1})[:kept])
        assert receive(theirs) is None


async def test_messages_read_by_either_side_agree() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = encode(Kind.TRANSCRIBE, {"id": 1}, b"pcm!")
        await asyncio.to_thread(ours.sendall, sent)
        assert receive(theirs) == ({"kind": Kind.TRANSCRIBE, "id": 1}, b"pcm!")
    json_bytes, pcm_bytes = decode_prefix(sent[:8])
    assert decode_fields(sent[8 : 8 + json_bytes])["id"] == 1
    assert pcm_bytes == 4
