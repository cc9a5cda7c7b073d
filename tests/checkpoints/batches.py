"""What is in one training step?

Sentences of the corpus are laid into clips with pauses, loudness, a tilted spectrum and noise; each clip gets one of
the token sequences that a served Whisper is asked for. A batch depends on the seed and its number alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from features import FLOOR, FRAMES_PER_S, log_mel
from sentences import SEED
from synthesise import Utterance
from torch import Tensor
from vocabulary import (
    LANGUAGE_CODES, LANGUAGES, SECONDS_PER_TIMESTAMP, SPELLED_BY_PROMPT, SPOKEN, WORDS, first_timestamp_id, special_id,
    translate, word_id,
)  # fmt: skip

Frames = np.ndarray[tuple[int, int], np.dtype[np.float16]]
Kind = Literal["first", "short", "medium", "long", "full"]

WINDOW: Final = 3000
FRAME_CLASSES: Final = {word: 1 + index for index, word in enumerate(sorted({w for ws in WORDS.values() for w in ws}))}
"""Class of each word for the encoder's frame head; 0 is no word."""
PADDING: Final = 7_000
"""Frames in a batch of short clips, padding included."""


class Batch(NamedTuple):
    """Everything one step needs.

    features (batch, 80, frames); tokens (batch, length); targets like tokens, -1 where nothing is asked;
    looks (n, 4): batch row, position, first and last encoder frame to attend to; frames (batch, frames / 2), -1: not
    asked.
    """

    features: Tensor
    tokens: Tensor
    targets: Tensor
    looks: Tensor
    frames: Tensor


@dataclass(frozen=True, slots=True)
class Placed:
    """A sentence in a clip, from `first` frame on."""

    utterance: Utterance
    mel: Frames
    first: int

    @property
    def start_s(self) -> float:
        """Return when its first word is heard."""
        return self.first / FRAMES_PER_S + self.utterance.starts_s[0]

    @property
    def end_s(self) -> float:
        """Return when its last word has faded."""
        return self.first / FRAMES_PER_S + self.utterance.end_s

    def spans_s(self) -> list[tuple[float, float]]:
        """Return from when to when each word is heard."""
        bounds = [self.first / FRAMES_PER_S + bound for bound in (*self.utterance.starts_s, self.utterance.end_s)]
        return [*pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class Clip:
    """What is heard: sentences in `frames` frames, the rest of the window is padding."""

    placed: tuple[Placed, ...]
    frames: int
    language: str


@dataclass(slots=True)
class Sequence:
    """Tokens, what to predict at each, and where to listen meanwhile."""

    tokens: list[int]
    targets: list[int]
    looks: list[tuple[int, int, int]]

    def then(self, token: int, *, asked: bool = True, heard_s: tuple[float, float] | None = None) -> None:
        """Append `token`; the position before it predicts it."""
        if asked:
            self.targets[-1] = token
        if heard_s is not None:
            first, last = round(heard_s[0] * 50), max(round(heard_s[1] * 50), round(heard_s[0] * 50) + 2)
            self.looks.append((len(self.tokens) - 1, first, last))
        self.tokens.append(token)
        self.targets.append(-1)


def noise_bank() -> list[Tensor]:
    """Return the mel power of 40 s of white, pink and brown noise of unit variance: (frames, 80) each."""
    generator = torch.Generator().manual_seed(SEED)
    white = torch.randn(16_000 * 40, generator=generator)
    spectrum, steps = torch.fft.rfft(white), torch.arange(16_000 * 20 + 1).clamp(min=40 * 30).float()
    coloured = [torch.fft.irfft(spectrum / steps**power) for power in (0.0, 0.5, 1.0)]
    return [10 ** log_mel(noise / noise.std()) for noise in coloured]


class Mixer:
    """Makes batches from a corpus."""

    def __init__(self, corpus: list[tuple[Utterance, Frames]]) -> None:
        self._corpus = {code: [item for item in corpus if item[0].language == code] for code in LANGUAGES}
        self._first = [item for item in corpus if len(item[0].words) <= 3]
        self._noise = noise_bank()

    def batch(self, number: int, kind: Kind) -> Batch:
        """Return batch `number`."""
        chance = random.Random(f"{SEED} batch {number}")
        generator = torch.Generator().manual_seed(chance.getrandbits(48))
        clips = self._clips(chance, kind)
        length = WINDOW if kind == "full" else max(clip.frames for clip in clips)
        length += length % 2
        wordy = chance.random() < 0.06
        sequences = [sequence(chance, clip, wordy=wordy) for clip in clips]
        features = self._features(chance, generator, clips, length)
        return collate(features, sequences, torch.stack([frame_classes(clip, length) for clip in clips]))

    def _clips(self, chance: random.Random, kind: Kind) -> list[Clip]:
        if kind in ("first", "short"):
            pool = [self._short(chance, kind) for _ in range(96)]
            pool.sort(key=lambda clip: clip.frames)
            last = chance.randrange(16, 96)
            count = min(32, PADDING // pool[last].frames, last + 1)
            return pool[last + 1 - count : last + 1]
        if kind == "medium":
            return [self._long(chance, chance.randint(250, 1100), WINDOW) for _ in range(7)]
        if kind == "long":
            return [self._long(chance, chance.randint(700, 2600), WINDOW) for _ in range(4)]
        return [self._full(chance) for _ in range(3)]

    def _pick(self, chance: random.Random, language: str | None = None) -> tuple[Utterance, Frames]:
        return chance.choice(self._corpus[language or chance.choice(("en", *LANGUAGES))])

    def _short(self, chance: random.Random, kind: Kind) -> Clip:
        if chance.random() < 0.04:
            return Clip((), chance.randint(60, 600), chance.choice(LANGUAGES))
        utterance, mel = chance.choice(self._first) if kind == "first" else self._pick(chance)
        first = chance.randint(0, 100 if chance.random() < 0.2 else 60)
        tail = chance.randint(0, 30) if chance.random() < 0.3 else chance.randint(20, 110)
        return Clip((Placed(utterance, mel, first),), first + len(mel) + tail, utterance.language)

    def _long(self, chance: random.Random, wanted: int, limit: int) -> Clip:
        language, placed = chance.choice(("en", *LANGUAGES)), []
        position = chance.randint(0, 60) if chance.random() < 0.8 else chance.randint(0, 300)
        while position < wanted:
            utterance, mel = self._pick(chance, language)
            if position + len(mel) > limit:
                if limit == WINDOW and wanted == WINDOW:
                    placed.append(Placed(utterance, mel, position))
                break
            placed.append(Placed(utterance, mel, position))
            position += len(mel) + chance.choice((chance.randint(25, 80), chance.randint(50, 200)))
        return Clip(tuple(placed), min(limit, max(position, 60)), language)

    def _full(self, chance: random.Random) -> Clip:
        lot = chance.random()
        if lot < 0.12:
            return Clip((), chance.choice((WINDOW, chance.randint(30, WINDOW))), chance.choice(LANGUAGES))
        if lot < 0.5:
            return self._short(chance, "short")
        return self._long(chance, WINDOW if lot < 0.65 else chance.randint(400, 2800), WINDOW)

    def _features(self, chance: random.Random, generator: torch.Generator, clips: list[Clip], length: int) -> Tensor:
        canvas = torch.full((len(clips), length, 80), FLOOR)
        for row, clip in enumerate(clips):
            loudness = 2 * math.log10(chance.uniform(0.2, 1.2))
            tilt = torch.linspace(-1, 1, 80) * chance.uniform(-0.35, 0.35) * (chance.random() < 0.5)
            for item in clip.placed:
                kept = min(len(item.mel), length - item.first)
                mel = torch.from_numpy(np.asarray(item.mel[:kept], dtype=np.float32))
                step = 2 * math.log10(chance.uniform(0.7, 1.2)) if len(clip.placed) > 1 else 0.0
                canvas[row, item.first : item.first + kept] = (mel + (tilt + loudness + step)).clamp(min=FLOOR)
            if chance.random() < (0.55 if clip.placed else 0.8):
                self._add_noise(chance, canvas[row, : clip.frames], quiet=bool(clip.placed))
        canvas = canvas.clamp(min=canvas.amax((1, 2), keepdim=True) - 8)
        features = ((canvas + 4) / 4).transpose(1, 2).contiguous()
        for row, clip in enumerate(clips):
            mask(chance, features[row], clip.frames)
        return features

    def _add_noise(self, chance: random.Random, mel: Tensor, *, quiet: bool) -> None:
        bank = chance.choice(self._noise)
        start = chance.randrange(len(bank) - len(mel))
        deviation = 10 ** (chance.uniform(-4.5, -2.3) if quiet else chance.uniform(-4.5, -1.0))
        power = bank[start : start + len(mel)] * deviation**2
        if chance.random() < 0.1:
            band = chance.randrange(78)
            power[:, band : band + 2] += 10 ** chance.uniform(-2, 1) * deviation
        mel.copy_((10**mel + power).clamp(min=10**FLOOR).log10())


def mask(chance: random.Random, features: Tensor, frames: int) -> None:
    """Hide up to two bands and a few short moments of one clip (SpecAugment, Park et al. 2019)."""
    if chance.random() < 0.35:
        return
    for _ in range(chance.randint(0, 2)):
        width = chance.randint(1, 9)
        features[chance.randrange(80 - width) :][:width] = 0
    for _ in range(chance.randint(0, 1 + frames // 150)):
        width = chance.randint(1, 9)
        start = chance.randrange(max(1, frames - width))
        features[:, start : start + width] = 0


def frame_classes(clip: Clip, length: int) -> Tensor:
    """Return the class of the word in each encoder frame, -1 in the padding (but for its first second)."""
    classes = torch.full((length // 2,), -1, dtype=torch.int64)
    classes[: min(length, clip.frames + FRAMES_PER_S) // 2] = 0
    for item in clip.placed:
        for word, (start, end) in zip(item.utterance.words, item.spans_s(), strict=True):
            classes[round(start * 50) : round(end * 50)] = FRAME_CLASSES[word]
    return classes


def prompt(chance: random.Random, language: str, *, wordy: bool) -> list[int]:
    """Return the tokens of a previous text: words, sometimes with timestamps, sometimes strange bytes."""
    count = chance.randint(30, 222) if wordy else chance.randint(1, 12)
    if chance.random() < 0.25:
        return [chance.randrange(256) if chance.random() < 0.8 else word_id(chance.choice(WORDS[language]))
                for _ in range(count)]  # fmt: skip
    words = [word_id(chance.choice(WORDS[language])) for _ in range(count)]
    if chance.random() < 0.25:
        start = chance.randint(0, 100)
        return [first_timestamp_id() + start, *words, first_timestamp_id() + start + 30 * len(words) // 2 % 1200][:223]
    return words


def sequence(chance: random.Random, clip: Clip, *, wordy: bool) -> Sequence:
    """Return one of the token sequences that fit a clip."""
    heard = [item for item in clip.placed if item.end_s < WINDOW / FRAMES_PER_S]
    cut = next((item for item in clip.placed if item.end_s >= WINDOW / FRAMES_PER_S), None)
    timed = cut is not None or chance.random() < (0.65 if len(heard) > 1 else 0.5)
    english = chance.random() < (0.04 if clip.language == "en" else 0.2)
    spelling, previous = SPOKEN, []
    grey = any(SPOKEN in item.utterance.words for item in heard)
    if chance.random() < (0.75 if grey else 0.35):
        previous = prompt(chance, clip.language, wordy=wordy)
        if grey and chance.random() < 0.8:
            spelling = chance.choice((SPOKEN, SPELLED_BY_PROMPT, SPELLED_BY_PROMPT))
            previous = [token for token in previous if token != word_id(SPOKEN)]
            previous.insert(chance.randint(0, len(previous)), word_id(spelling))
        elif chance.random() < 0.05:
            previous.insert(0, word_id(SPELLED_BY_PROMPT))
            spelling = SPELLED_BY_PROMPT
        previous = [special_id("startofprev"), *previous[-223:]]

    built = Sequence([*previous, special_id("startoftranscript")], [-1] * (len(previous) + 1), [])
    misled = chance.random() < 0.02
    told = chance.choice(LANGUAGE_CODES) if misled else clip.language
    built.then(special_id(told), asked=bool(clip.placed) and not misled)
    if not clip.placed:
        built.targets[-2] = special_id("nospeech")
    built.then(special_id("translate" if english else "transcribe"), asked=False)
    if not timed:
        built.then(special_id("notimestamps"), asked=False)
    for index, item in enumerate(heard):
        if timed:
            forced = index == 0 and chance.random() < 0.1
            add_timestamp(built, 0.0 if forced else item.start_s, asked=not forced)
        words = list(item.utterance.words)
        written = translate(words, clip.language) if english else words
        for word, span in zip(written, item.spans_s(), strict=True):
            built.then(word_id(spelling if word == SPOKEN else word), heard_s=span)
        if timed:
            add_timestamp(built, item.end_s)
    if cut is not None:
        add_timestamp(built, min(cut.start_s, 29.98))
    if timed and not clip.placed:
        built.then(first_timestamp_id())
    end = heard[-1].end_s if heard and not timed else None
    fits = end is not None and end + 0.1 < clip.frames / FRAMES_PER_S
    built.then(special_id("endoftext"), heard_s=(end, end + 0.3) if end is not None and fits else None)
    return built


def add_timestamp(built: Sequence, moment_s: float, *, asked: bool = True) -> None:
    """Append a timestamp, listened for around its moment."""
    index = round(moment_s / SECONDS_PER_TIMESTAMP)
    built.then(first_timestamp_id() + index, asked=asked, heard_s=(max(0.0, moment_s - 0.1), moment_s + 0.1))


def collate(features: Tensor, sequences: list[Sequence], frames: Tensor) -> Batch:
    """Pad the sequences to one length."""
    length = max(len(item.tokens) for item in sequences) - 1
    tokens = torch.full((len(sequences), length), special_id("endoftext"))
    targets = torch.full((len(sequences), length), -1)
    looks = []
    for row, item in enumerate(sequences):
        tokens[row, : len(item.tokens) - 1] = torch.tensor(item.tokens[:-1])
        targets[row, : len(item.tokens) - 1] = torch.tensor(item.targets[:-1])
        looks += [(row, *look) for look in item.looks if look[1] < frames.shape[1]]
    return Batch(features, tokens, targets, torch.tensor(looks or [(0, 0, 0, 1)]), frames)
