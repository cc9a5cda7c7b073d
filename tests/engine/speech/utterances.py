"""Sentences that the small checkpoint was never trained on, spoken by espeak-ng."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from core.media.content import InMemory
from core.media.media import pcm_of
from tests.places import ROOT
from tests.requirements import REQUIRE_ALL

CHECKPOINTS = ROOT / "tests" / "checkpoints"
NANO = CHECKPOINTS / "nano" / "ct2"

needs_checkpoint = pytest.mark.skipif(not NANO.is_dir(), reason="the small checkpoint is not in this tree")
needs_espeak = pytest.mark.skipif(
    not REQUIRE_ALL and shutil.which("espeak-ng") is None, reason="espeak-ng speaks the test sentences"
)

AUDIBLE = 0.01
"""Below this share of its loudest sample an utterance has not begun, or has ended."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence and how it sounds. pcm: 16 kHz, from its first audible sample to its last."""

    words: tuple[str, ...]
    pcm: bytes


@cache
def spoken(sentence: str, voice: str = "gmw/en-US", *, rate: int = 150, pitch: int = 50) -> bytes:
    """16 kHz PCM of a sentence, with the silence that espeak-ng leaves around it."""
    command = ["espeak-ng", "-v", voice, "-s", str(rate), "-p", str(pitch), "--stdout", sentence]
    (track,) = pcm_of(InMemory(subprocess.run(command, check=True, capture_output=True).stdout))
    return b"".join(track)


@cache
def held_out(language: str) -> tuple[Utterance, ...]:
    """The sentences of one language that the checkpoint's training left out, each in a voice of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHECKPOINTS)  # its modules are scripts, which import one another from their folder
        sentences = importlib.import_module("sentences").held_out()
    return tuple(
        Utterance(one.words, _audible(spoken(" ".join(one.words), one.voice, rate=one.rate, pitch=one.pitch)))
        for one in sentences
        if one.language == language
    )


def _audible(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")
    loudness = np.abs(samples.astype(np.int32))
    heard = np.flatnonzero(loudness > AUDIBLE * loudness.max())
    return samples[heard[0] : heard[-1] + 1].tobytes()
