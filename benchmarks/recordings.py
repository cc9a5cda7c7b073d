"""What is listened to when hearing is measured? Recorded speech, joins of it, and sounds in which nobody speaks.

A corpus is a directory with `corpus.jsonl`, one recording a line: `id`, `file`, `language` and `text`, optionally
`speakers`, `quality`, `speaker` and `words` (`word`, `start`, `end`); and `turns/turns.rttm` with files beside it, of
which is known who speaks when. Whatever is made here depends on the corpus and a seed alone.
"""

from __future__ import annotations

import io
import json
import wave
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from faster_whisper.audio import decode_audio
from faster_whisper.vad import VadOptions, get_speech_timestamps

RATE_HZ = 16_000
GAP_S = (0.3, 1.5)
"""Between the recordings of a join."""
QUIET_DB = (-30.0, -45.0)

T = TypeVar("T")

Samples = npt.NDArray[np.float32]
Span = tuple[float, float]
"""Start and end in seconds."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that is listened to.

    language: Whisper's code, empty where nobody speaks, or where it is not known. text: all that is said.
    speech: where somebody speaks. words: where their times are known, the times of all words.
    """

    name: str
    language: str
    text: str
    audio: bytes = field(repr=False)
    speech: tuple[Span, ...] = ()
    words: tuple[TimedWord, ...] = ()

    @property
    def samples(self) -> Samples:
        """Its audio, mixed to one channel."""
        return np.asarray(decode_audio(io.BytesIO(self.audio), sampling_rate=RATE_HZ), np.float32)


@cache
def read_corpus(directory: Path) -> tuple[Recording, ...]:
    """All recordings in which one person speaks, in the order of the corpus."""
    return tuple(
        _recording(directory, entry)
        for entry in _entries(directory)
        if entry["text"] and entry.get("speakers", 1) == 1 and entry.get("quality") != "silence"
    )


def _entries(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "corpus.jsonl").read_text("utf-8").splitlines()]


def _recording(directory: Path, entry: dict[str, Any]) -> Recording:
    audio = (directory / entry["file"]).read_bytes()
    words = tuple(TimedWord(word["word"], word["start"], word["end"]) for word in entry.get("words", ()))
    heard = Recording(entry["id"], entry["language"], entry["text"], audio, words=words)
    return Recording(heard.name, heard.language, heard.text, audio, _speech(heard.samples), words)


def read_meetings(directory: Path) -> list[Recording]:
    """Recordings of several people, of which is known when anybody speaks and not what."""
    turns = defaultdict(list)
    for line in (directory / "turns" / "turns.rttm").read_text("utf-8").splitlines():
        _, name, _, start, duration, *_ = line.split()
        turns[name].append((float(start), float(start) + float(duration)))
    return [
        Recording(name, "en", "", (directory / "turns" / f"{name}.wav").read_bytes(), merged(spans))
        for name, spans in sorted(turns.items())
    ]


def merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same stretches in order, those that touch made one."""
    joined: list[Span] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        else:
            joined.append((start_s, end_s))
    return tuple(joined)


def _speech(samples: Samples) -> tuple[Span, ...]:
    """Where the voice detector of faster-whisper finds speech in a recording that stands alone, made loud for it."""
    loud = samples * np.float32(0.5 / max(float(np.abs(samples).max()), 1e-6))
    found = get_speech_timestamps(loud, VadOptions(min_silence_duration_ms=500, speech_pad_ms=0))
    return tuple((one["start"] / RATE_HZ, one["end"] / RATE_HZ) for one in found)


# --- quieter, and joined


def quieter(recordings: Sequence[Recording]) -> list[Recording]:
    """Every third recording, at each of `QUIET_DB`."""
    return [
        Recording(
            f"{one.name}{gain_db:+.0f}dB", one.language, one.text, as_wav(one.samples * _factor(gain_db)), one.speech
        )
        for gain_db in QUIET_DB
        for one in recordings[::3]
    ]


@dataclass(frozen=True, slots=True)
class Plan:
    """A join of one language's recordings.

    noise_db: how far above white noise the speech is. levels_dbfs: how loud the recordings are, in turns.
    """

    name: str
    language: str
    minutes: int
    noise_db: float | None = None
    levels_dbfs: tuple[float, ...] = ()


PLANS = (
    Plan("en-5min", "en", 5),
    Plan("en-5min-noise", "en", 5, noise_db=10.0, levels_dbfs=(-23.0,)),  # all equally far above it
    Plan("en-5min-levels", "en", 5, levels_dbfs=(-20.0, -40.0)),
    *(Plan(f"{language}-5min", language, 5) for language in ("fr", "ru", "de", "es")),
    Plan("en-20min", "en", 20),
)


def join(plan: Plan, corpus: Sequence[Recording], seed: int = 0) -> Recording:
    """Recordings one after the other in random order, all of them before any comes again."""
    random = np.random.default_rng([seed, *plan.name.encode()])
    spoken = [(one, one.samples) for one in corpus if one.language == plan.language]
    pieces, texts, speech, length = [], [], [], 0
    for turn, (one, samples) in enumerate(_shuffled(spoken, random)):
        if length >= plan.minutes * 60 * RATE_HZ:
            break
        level_dbfs = _loudness_dbfs(samples, one.speech)
        wanted_dbfs = plan.levels_dbfs[turn % len(plan.levels_dbfs)] if plan.levels_dbfs else level_dbfs
        gap = np.zeros(int(random.uniform(*GAP_S) * RATE_HZ), np.float32)
        speech += [(start_s + length / RATE_HZ, end_s + length / RATE_HZ) for start_s, end_s in one.speech]
        pieces += [samples * _factor(wanted_dbfs - level_dbfs), gap]
        texts.append(one.text)
        length += len(samples) + len(gap)
    whole = np.concatenate(pieces)
    if plan.noise_db is not None:
        level = float(np.sqrt(np.mean(np.square(whole)))) * float(_factor(-plan.noise_db))
        whole = whole + level * random.standard_normal(len(whole)).astype(np.float32)
    return Recording(plan.name, plan.language, " ".join(texts), as_wav(whole), merged(speech))


def _shuffled(items: Sequence[T], random: np.random.Generator) -> Iterator[T]:
    while True:
        yield from (items[index] for index in random.permutation(len(items)))


def _loudness_dbfs(samples: Samples, speech: Sequence[Span]) -> float:
    """RMS level of the speech in a recording, in dB of full scale."""
    spoken = [samples[int(start * RATE_HZ) : int(end * RATE_HZ)] for start, end in speech] or [samples]
    return 20 * float(np.log10(max(float(np.sqrt(np.mean(np.square(np.concatenate(spoken))))), 1e-6)))


def _factor(gain_db: float) -> np.float32:
    return np.float32(10 ** (gain_db / 20))


def as_wav(samples: npt.NDArray[np.floating]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        output.writeframes(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())
    return file.getvalue()
