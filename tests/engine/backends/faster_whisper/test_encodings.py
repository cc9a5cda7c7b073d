"""A clip is encoded once, whatever is asked of it; and little is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from faster_whisper import WhisperModel

from engine.backends.faster_whisper.encodings import KEPT, Encodings, Features
from engine.backends.faster_whisper.worker import Model
from engine.types import ClipTranscript, DecodingOptions, Detail
from tests.engine.speech.utterances import NANO, needs_checkpoint, needs_espeak, spoken

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
    assert max(model.languages(pcm).items(), key=lambda one: one[1])[0] == "en"
    [segment] = model.segments(pcm, ENGLISH)
    assert segment.text.split() == ["open", "the", "green", "door"]
    list(model.segments(pcm, DecodingOptions("en", temperature=0.4)))
    transcript = ClipTranscript(segment.text, (segment,), output_tokens=len(segment.tokens))
    words = model.align(pcm, transcript, ENGLISH, frozenset({Detail.WORDS})).segments[0].words
    assert [word.text.strip() for word in words] == segment.text.split()
    assert len(passes) == 1


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
    assert [encodings(features(number)) for number in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert given == [1, 2, 3, 2]


def test_what_is_not_contiguous_is_told_apart_too() -> None:
    encodings = Encodings(lambda what: what.copy())
    both = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert encodings(both[:, :3]).tolist() != encodings(both[:, 3:]).tolist()


def test_many_threads_share_it() -> None:
    encodings = Encodings(lambda what: float(what[0, 0]))
    with ThreadPoolExecutor(8) as threads:
        numbers = [number % (2 * KEPT) for number in range(2_000)]
        assert list(threads.map(lambda number: encodings(features(number)), numbers)) == numbers
