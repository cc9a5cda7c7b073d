"""The block-wise voice activity detector hears what faster-whisper's hears in one piece."""

from __future__ import annotations

import os
from itertools import pairwise

# Before onnxruntime is imported: it would report to its makers, and leave a file in the home directory.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest
from faster_whisper.vad import get_vad_model
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.speech.frames import WINDOW_BYTES
from engine.speech.vad import REMEMBERED_STRETCHES, STRETCH_WINDOWS, VoiceActivityDetector, load_model
from engine.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES

MODEL = load_model()
WINDOWS = 250


def _vowels() -> bytes:
    """Something like a voice, coming and going: a buzz at a speaker's pitch with the resonances of a throat."""
    t = np.arange(WINDOWS * WINDOW_SAMPLES) / SAMPLE_RATE_HZ
    pitch = 130 + 25 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
    sound = np.zeros_like(t)
    for harmonic in range(1, 30):
        hz = 130 * harmonic
        weight = sum(1 / (1 + ((hz - formant) / 90) ** 2) for formant in (700, 1_220, 2_600)) + 0.02
        sound += weight * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * (np.sin(2 * np.pi * 0.25 * t) > 0)
    noise = np.random.default_rng(7).normal(0, 0.003, t.shape)
    return bytes((np.clip(sound / 6 * syllables + noise, -1, 1) * 32_767).astype("<i2"))


VOWELS = _vowels()


def _as_bytes(probabilities: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[int]:
    return [int(p) for p in np.rint(probabilities.reshape(-1) * 255)]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    # faster-whisper blanks the end of the last window it is given: it gets one more, which is left out here.
    audio = np.frombuffer(VOWELS + bytes(WINDOW_BYTES), "<i2").astype(np.float32) / 32_768
    return _as_bytes(get_vad_model()(audio))[:-1]


def test_the_probabilities_are_faster_whispers(expected: list[int]) -> None:
    heard = VoiceActivityDetector(MODEL).probabilities(VOWELS)
    assert len(heard) == WINDOWS
    assert max(abs(ours - theirs) for ours, theirs in zip(heard, expected, strict=True)) <= 1


def test_the_signal_of_these_tests_has_both_speech_and_silence(expected: list[int]) -> None:
    assert max(expected) > 127
    assert min(expected) < 30


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(0, WINDOWS), max_size=12))
def test_the_cut_between_blocks_makes_no_difference(cuts: set[int]) -> None:
    whole = VoiceActivityDetector(MODEL).probabilities(VOWELS)
    detector, edges = VoiceActivityDetector(MODEL), [0, *sorted(cuts), WINDOWS]
    pieces = [
        detector.probabilities(memoryview(VOWELS)[a * WINDOW_BYTES : b * WINDOW_BYTES]) for a, b in pairwise(edges)
    ]
    assert all(abs(a - b) <= 1 for a, b in zip(b"".join(pieces), whole, strict=True))


@pytest.mark.parametrize("stretches", [3, 10, 30])
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_speech_after_a_long_silence_sounds_like_speech_after_a_short_one(stretches: int, cut: int) -> None:
    stretch = bytes(STRETCH_WINDOWS * WINDOW_BYTES)
    soon = VoiceActivityDetector(MODEL).probabilities(stretch * REMEMBERED_STRETCHES + VOWELS)
    detector, late = VoiceActivityDetector(MODEL), stretch * stretches + VOWELS
    heard = detector.probabilities(late[: cut * WINDOW_BYTES]) + detector.probabilities(late[cut * WINDOW_BYTES :])
    assert max(abs(a - b) for a, b in zip(heard[-WINDOWS:], soon[-WINDOWS:], strict=True)) <= 1
    assert len(heard) == stretches * STRETCH_WINDOWS + WINDOWS


def test_without_its_hold_the_model_would_hear_speech_late() -> None:
    # What the hold is there for: should another model not drift, it is not needed.
    audio = np.frombuffer(bytes(20 * STRETCH_WINDOWS * WINDOW_BYTES) + VOWELS, "<i2").astype(np.float32) / 32_768
    drifted = _as_bytes(get_vad_model()(np.append(audio, np.zeros(WINDOW_SAMPLES, np.float32))))[-WINDOWS - 1 :]
    held = VoiceActivityDetector(MODEL).probabilities(bytes(20 * STRETCH_WINDOWS * WINDOW_BYTES) + VOWELS)[-WINDOWS:]
    assert sum(drifted[:16]) < sum(held[:16])


def test_silence_is_no_speech() -> None:
    assert max(VoiceActivityDetector(MODEL).probabilities(bytes(100 * WINDOW_BYTES))) < 64


def test_files_do_not_hear_one_another() -> None:
    first = VoiceActivityDetector(MODEL)
    before = first.probabilities(VOWELS)
    assert VoiceActivityDetector(MODEL).probabilities(VOWELS) == before
    assert first.probabilities(VOWELS) != before


@pytest.mark.parametrize("size", [1, WINDOW_BYTES - 2, WINDOW_BYTES + 2])
def test_a_part_of_a_window_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="whole windows"):
        VoiceActivityDetector(MODEL).probabilities(bytes(size))


def test_no_audio_has_no_probabilities() -> None:
    assert VoiceActivityDetector(MODEL).probabilities(b"") == b""
