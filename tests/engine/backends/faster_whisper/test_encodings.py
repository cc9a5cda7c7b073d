"""A clip is encoded once, whatever is asked of it; and little is kept."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from faster_whisper import WhisperModel

from engine.backends.faster_whisper import worker
from engine.backends.faster_whisper.encodings import KEPT, Encodings, Features
from engine.backends.faster_whisper.messages import Kind
from engine.backends.faster_whisper.worker import KNOWN_GOOD, USUAL, Model, Server, receive
from engine.types import ClipTranscript, DecodingOptions, Detail
from tests.engine.speech.utterances import NANO, needs_checkpoint, needs_espeak, spoken
from tests.waiting import GIVE_UP_S

ENGLISH = DecodingOptions("en")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Features]:
    """What the encoder of any model is given."""
    given: list[Features] = []
    encode = WhisperModel.encode

    def counted(self: WhisperModel, features: Features) -> Any:
        given.append(features)
        return encode(self, features)

    monkeypatch.setattr(WhisperModel, "encode", counted)
    return given


@needs_checkpoint
@needs_espeak
def test_language_text_another_attempt_and_words_take_one_pass(passes: list[Features]) -> None:
    model = Model(str(NANO), beam_size=5, device="cpu", cpu_threads=1)
    pcm = spoken("open the green door")
    with model.hearing(1):
        assert max(model.languages(pcm).items(), key=lambda one: one[1])[0] == "en"
        [segment] = model.segments(pcm, ENGLISH)
        assert segment.text.split() == ["open", "the", "green", "door"]
        list(model.segments(pcm, DecodingOptions("en", temperature=0.4)))
        transcript = ClipTranscript(segment.text, (segment,), output_tokens=len(segment.tokens))
        words = model.align(pcm, transcript, ENGLISH, frozenset({Detail.WORDS})).segments[0].words
        assert [word.text.strip() for word in words] == segment.text.split()
    assert len(passes) == 1


@needs_checkpoint
def test_the_same_audio_in_another_request_is_encoded_again(passes: list[Features]) -> None:
    model = Model(str(NANO), beam_size=5, device="cpu", cpu_threads=1)
    for clip in (1, 2):
        with model.hearing(clip):
            model.languages(KNOWN_GOOD)
            model.languages(KNOWN_GOOD)
        assert len(passes) == clip


@needs_checkpoint
def test_what_tries_a_device_is_encoded_each_time(passes: list[Features]) -> None:
    model = Model(str(NANO), beam_size=5, device="cpu", cpu_threads=1)
    for _ in range(2):
        list(model.segments(KNOWN_GOOD, USUAL))
    assert len(passes) == 2


@needs_checkpoint
def test_a_worker_that_rests_keeps_nothing(passes: list[Features], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "REST_S", 0.01)
    model, forgot = Model(str(NANO), beam_size=5, device="cpu", cpu_threads=1), threading.Event()
    with model.hearing(1):
        model.languages(KNOWN_GOOD)
    forget = model.forget

    def forgetting() -> None:
        forget()
        forgot.set()

    monkeypatch.setattr(model, "forget", forgetting)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = threading.Thread(target=Server(theirs, {"m": model}).run, args=(1,), daemon=True)
        reader.start()
        assert receive(ours) == ({"kind": Kind.READY}, b"")
        assert forgot.wait(GIVE_UP_S)
        ours.shutdown(socket.SHUT_WR)
        reader.join(GIVE_UP_S)
    with model.hearing(1):
        model.languages(KNOWN_GOOD)
    assert len(passes) == 2


@needs_checkpoint
@pytest.mark.parametrize("samples", [1, 150, 480_000])
def test_the_shortest_and_the_longest_clip_have_a_language(samples: int) -> None:
    model = Model(str(NANO), beam_size=5, device="cpu", cpu_threads=1)
    assert sum(model.languages(bytes(2 * samples)).values()) == pytest.approx(1.0, abs=0.01)


def features(number: int) -> Features:
    return np.full((2, 3), number, np.float32)


def test_only_the_last_clips_are_kept_counted_from_when_they_were_used() -> None:
    given: list[float] = []

    def encode(what: Features) -> float:
        given.append(float(what[0, 0]))
        return given[-1]

    encodings = Encodings(encode, kept=2)
    with encodings.of(1):
        assert [encodings(features(number)) for number in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert given == [1, 2, 3, 2]


def test_what_is_not_contiguous_is_told_apart_too() -> None:
    encodings = Encodings(lambda what: what.copy())
    both = np.arange(12, dtype=np.float32).reshape(2, 6)
    with encodings.of(1):
        assert encodings(both[:, :3]).tolist() != encodings(both[:, 3:]).tolist()


def test_many_threads_share_it() -> None:
    encodings = Encodings(lambda what: float(what[0, 0]))

    def encoded(number: int) -> Any:
        with encodings.of(number):
            return encodings(features(number))

    with ThreadPoolExecutor(8) as threads:
        numbers = [number % (2 * KEPT) for number in range(2_000)]
        assert list(threads.map(encoded, numbers)) == numbers
