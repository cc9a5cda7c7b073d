"""The voice activity detector hears quiet speech, speech after loud speech and after silence, and nothing in noise."""

from __future__ import annotations

import os
from itertools import pairwise

# Before onnxruntime is imported: it would report to its makers, and leave a file in the home directory.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import pytest
from faster_whisper.vad import get_vad_model
from hypothesis import given, settings
from hypothesis import strategies as st

from core.media.content import InMemory
from core.media.frames import WINDOW_BYTES
from core.media.media import pcm_of
from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from core.media.vad import MEMORY_STRETCHES, STRETCH_WINDOWS, VoiceActivityDetector, load_model
from tests.places import ROOT

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


def kennedy() -> bytes:
    """J. F. Kennedy's sentence of 1961, recorded in a large place: 11 s, of which he speaks for 7."""
    (track,) = pcm_of(InMemory((ROOT / "examples" / "kennedy.flac").read_bytes()))
    pcm = b"".join(track)
    return pcm[: len(pcm) // WINDOW_BYTES * WINDOW_BYTES]


KENNEDY = kennedy()


def quieter(pcm: bytes, gain_db: float) -> bytes:
    return bytes(np.rint(np.frombuffer(pcm, "<i2") * 10 ** (gain_db / 20)).astype("<i2"))


def bare(pcm: bytes) -> npt.NDArray[np.uint8]:
    """What the model alone makes of a file, as faster-whisper asks it."""
    # It blanks the end of the last window it is given: it gets one more, which is left out here.
    audio = np.frombuffer(pcm + bytes(WINDOW_BYTES), "<i2").astype(np.float32) / 32_768
    return np.asarray(np.rint(get_vad_model()(audio).reshape(-1)[:-1] * 255), np.uint8)


def heard(pcm: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(VoiceActivityDetector(MODEL).probabilities(pcm), np.uint8)


def spoken_s(likelihoods: npt.NDArray[np.uint8]) -> float:
    return float((likelihoods >= 128).sum()) * WINDOW_SAMPLES / SAMPLE_RATE_HZ


def test_every_window_is_at_least_as_likely_speech_as_to_a_model_that_has_just_begun() -> None:
    stretch = KENNEDY[: MEMORY_STRETCHES * STRETCH_WINDOWS * WINDOW_BYTES]
    ours, theirs = heard(stretch), bare(stretch)
    assert len(ours) == len(theirs)
    assert (ours.astype(int) >= theirs.astype(int) - 1).all()


@pytest.mark.parametrize("gain_db", [-20, -40, -60])
def test_speech_is_heard_however_quiet_it_is(gain_db: float) -> None:
    as_recorded = spoken_s(heard(KENNEDY))
    assert as_recorded > 6
    assert spoken_s(heard(quieter(KENNEDY, gain_db))) > 0.95 * as_recorded


def test_the_model_alone_hears_nothing_of_what_is_very_quiet() -> None:
    # What the levelled listener is there for: should another model not depend on level, it is not needed.
    assert spoken_s(bare(quieter(KENNEDY, -60))) == 0


@pytest.mark.parametrize("turns", [1, 3, 5])
def test_a_quieter_speaker_is_heard_after_a_louder_one(turns: int) -> None:
    windows = len(KENNEDY) // WINDOW_BYTES
    both = heard(KENNEDY * turns + quieter(KENNEDY, -30))
    assert spoken_s(both[-windows:]) > 0.8 * spoken_s(heard(KENNEDY))


def test_the_model_alone_is_deaf_after_a_louder_speaker() -> None:
    # What forgetting is there for.
    windows = len(KENNEDY) // WINDOW_BYTES
    assert spoken_s(bare(KENNEDY * 5 + quieter(KENNEDY, -35))[-windows:]) < 0.2 * spoken_s(heard(KENNEDY))


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
def test_speech_after_a_long_silence_is_noticed_as_soon_as_after_a_short_one(stretches: int) -> None:
    silence = bytes(stretches * STRETCH_WINDOWS * WINDOW_BYTES)
    late = heard(silence + KENNEDY)[stretches * STRETCH_WINDOWS :]
    soon = heard(bytes(WINDOW_BYTES) + KENNEDY)[1:]
    assert abs(int(np.argmax(late >= 128)) - int(np.argmax(soon >= 128))) <= 1


def test_silence_is_no_speech() -> None:
    assert max(heard(bytes(100 * WINDOW_BYTES))) < 64


@pytest.mark.parametrize("level_db", [-80, -60, -40, -20])
def test_noise_is_no_speech_at_any_level(level_db: float) -> None:
    noise = np.random.default_rng(7).standard_normal(600 * WINDOW_SAMPLES) * 32_767 * 10 ** (level_db / 20)
    assert spoken_s(heard(noise.clip(-32_768, 32_767).astype("<i2").tobytes())) == 0


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
