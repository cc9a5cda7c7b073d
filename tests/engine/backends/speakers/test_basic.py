"""The basic encoder's front end is librosa's, its windows cover the speech, and real people are told apart."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from engine.backends.speakers.basic import (
    FRAMES,
    HOP,
    LOUDNESS,
    BasicModel,
    largest,
    levelled,
    mel_filters,
    mel_power,
    spoken,
    turns_of,
    window_starts,
)
from engine.backends.speakers.clustering import normalised
from tests.requirements import WEIGHTS, need

Labels = npt.NDArray[np.int64]


def labels(*values: int) -> Labels:
    return np.array(values, np.int64)


def test_the_filters_are_slaneys() -> None:
    filters = mel_filters()
    assert filters.shape == (40, 201)
    # librosa.filters.mel(sr=16000, n_fft=400, n_mels=40): the first band peaks at 73 Hz, each has the area of 1.
    assert int(filters[0].argmax()) * 40 == 80
    assert np.allclose(filters[20:].sum(axis=1) * 40.0, 1.0, atol=0.05)


def test_a_tone_is_in_its_band_and_the_frames_are_10_ms_apart() -> None:
    filters = mel_filters()
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    mels = mel_power(tone, filters)
    assert mels.shape == (101, 40)
    assert int(mels[50].argmax()) == int(filters[:, 25].argmax())


@pytest.mark.parametrize("frames", [0, 10, 159, 160, 199, 200, 239, 240, 1000])
def test_windows_of_a_region_lie_in_it_and_every_window_has_a_turn(frames: int) -> None:
    starts = window_starts(500, 500 + frames)
    assert starts
    if frames >= FRAMES + 40:
        assert starts[0] == 500
        assert 500 + frames - 40 < starts[-1] + FRAMES <= 500 + frames
    turns = turns_of([(500, 500 + frames)], labels(*range(len(starts))))
    assert (turns[0][0], turns[-1][1]) == (5.0, (500 + frames) / 100)
    assert all(before[1] == after[0] for before, after in pairwise(turns))


def test_turns_of_one_voice_are_joined_within_a_region_only() -> None:
    regions = [(0, 240), (300, 460)]
    count = len(window_starts(0, 240)) + len(window_starts(300, 460))
    assert turns_of(regions, labels(*[0] * count)) == [(0.0, 2.4, 0), (3.0, 4.6, 0)]


def test_speech_is_padded_and_short_pauses_do_not_end_it() -> None:
    speech = np.zeros(100, np.uint8)
    speech[10:20] = speech[25:30] = speech[60:62] = 255
    assert spoken(speech, 100 * 512) == [(int(7 * 3.2), int(33 * 3.2)), (int(57 * 3.2), int(65 * 3.2))]
    assert spoken(np.zeros(100, np.uint8), 100 * 512) == []


def test_quiet_speech_is_made_louder_and_loud_speech_left() -> None:
    quiet = np.full(10 * HOP, 0.001, np.float32)
    assert levelled(quiet, [(0, 10)])[0] == pytest.approx(LOUDNESS)
    assert levelled(np.full(10 * HOP, 0.5, np.float32), [(0, 10)])[0] == pytest.approx(0.5)
    assert not levelled(np.zeros(10 * HOP, np.float32), [(0, 10)]).any()


def test_what_sounded_odd_is_the_voice_that_it_is_most_like() -> None:
    people = np.eye(3, dtype=np.float32)
    voices = normalised(np.concatenate([np.tile(people[0], (20, 1)), np.tile(people[1], (20, 1)), [[0.1, 1.0, 0.5]]]))
    found = largest(voices, labels(*[0] * 20, *[1] * 20, 2), 1, 20)
    assert found.tolist() == [0] * 20 + [1] * 21
    assert set(largest(voices, labels(*[0] * 20, *[1] * 20, 2), 3, 20).tolist()) == {0, 1, 2}
    assert set(largest(voices, labels(*[0] * 20, *[1] * 20, 2), 1, 1).tolist()) == {0}


def test_a_pickle_that_names_code_is_not_read() -> None:
    onnx_tools = pytest.importorskip("examples.ge2e")
    with pytest.raises(pickle.UnpicklingError, match=r"no (posix|os)\.system"):
        onnx_tools.tensors_of(pickle.dumps(_Code()))


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("true",)


def test_silence_has_no_voice() -> None:
    need((WEIGHTS / "ge2e").exists(), "the encoder that `make speakers` makes")
    model = BasicModel(str(WEIGHTS / "ge2e"))
    heard = model.diarize(np.zeros(48_000, np.float32), np.zeros(94, np.uint8), 1, 20, lambda: None)
    assert (heard.turns, heard.voices.shape) == ([], (0, 256))
