"""What was said when? Recordings in which the time of every word is known, spoken by libespeak-ng."""

from __future__ import annotations

import ctypes.util
import io
import wave
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

from tests.checkpoints.espeak import SAMPLE_RATE_HZ, Synthesiser
from tests.requirements import need

VOICES = {"en": "gmw/en-US", "de": "gmw/de", "es": "roa/es", "fr": "roa/fr"}
LIBRARY = "libespeak-ng.so.1"
LEAD_S = 0.4

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Recording:
    """Sentences with pauses between them, 16 kHz. times_s: the start and end of each word."""

    sentences: tuple[str, ...]
    times_s: tuple[tuple[float, float], ...]
    pcm: bytes

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.text.split())

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def sentence_times_s(self) -> tuple[tuple[float, float], ...]:
        """The start and end of each sentence."""
        ends = [*accumulate(len(sentence.split()) for sentence in self.sentences)]
        starts = [0, *ends[:-1]]
        return tuple(
            (self.times_s[start][0], self.times_s[end - 1][1]) for start, end in zip(starts, ends, strict=True)
        )

    @property
    def wav(self) -> bytes:
        file = io.BytesIO()
        with wave.open(file, "wb") as output:
            output.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            output.writeframes(self.pcm)
        return file.getvalue()


def record(language: str, *sentences: str, pause_s: float = 2.5) -> Recording:
    """Say sentences of words that the nano checkpoint knows. Skips the test where there is no voice."""
    pieces: list[Samples] = [_silence(LEAD_S)]
    times: list[tuple[float, float]] = []
    for sentence in sentences:
        begin_s = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        samples, spoken = _say(sentence, language)
        times += [(begin_s + start_s, begin_s + end_s) for start_s, end_s in spoken]
        pieces += [samples, _silence(pause_s)]
    return Recording(sentences, tuple(times), np.concatenate(pieces).astype("<i2").tobytes())


@cache
def _say(sentence: str, language: str) -> tuple[Samples, Sequence[tuple[float, float]]]:
    # A process for each sentence: how libespeak-ng says one depends on all that it has said before.
    need(ctypes.util.find_library("espeak-ng") is not None, "libespeak-ng")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        raw, starts_s, rate_hz = process.submit(_say_first, sentence, language).result()
    loud = np.flatnonzero(np.abs(raw.astype(np.int32)) > 0.01 * np.abs(raw.astype(np.int32)).max()) / rate_hz
    bounds = [max(starts_s[0], float(loud[0])), *starts_s[1:], float(loud[-1])]
    moments = np.arange(len(raw) * SAMPLE_RATE_HZ // rate_hz) * rate_hz / SAMPLE_RATE_HZ
    samples = np.interp(moments, np.arange(len(raw)), raw).astype(np.int16)
    return samples, list(pairwise(bounds))


def _say_first(sentence: str, language: str) -> tuple[Samples, list[float], int]:
    voice = Synthesiser(LIBRARY)
    said = voice.say(sentence.split(), VOICES[language], rate=150, pitch=50)
    assert said is not None, "words that this voice does not run together are wanted"
    return *said, voice.rate_hz


def _silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.int16)
