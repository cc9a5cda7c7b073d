"""Who speaks when, by a small encoder of voices: GE2E (Wan et al. 2018), as the package Resemblyzer has it.

`encoder.onnx`, which is made from its checkpoint (`examples/ge2e.py`), takes `mels` (windows x 160 frames x 40 bands of
power) and gives `voices` (windows x 256, of length 1). Windows of 1.6 s are taken every 0.4 s where there is speech,
and clustered. It was trained to tell voices apart in clean recordings: `docs/speakers.md` says how far that
goes. There is one label at a time, so that of two who speak at once one is missed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from core.media.types import SAMPLE_RATE_HZ
from engine.backends.speakers.clustering import Matrix, cluster, normalised
from engine.backends.speakers.model import Busy, Samples, Stretch

MODEL = "encoder.onnx"

FFT = 400
HOP = 160
BANDS = 40
FRAMES = 160
STEP = 40
"""Frames of 10 ms: a window is 1.6 s, and begins every 0.4 s."""

BATCH = 64

LOUDNESS = 10 ** (-30 / 20)
"""RMS of the speech that the encoder was trained with; what is quieter is made as loud."""

SPEECH = 77
"""Of 255. Quiet voices at the other end of a table are no likelier."""

PADDING = 3
GAP = 10
"""Frames of 32 ms: so much is kept around speech, and a shorter pause does not end it."""

APART = 0.30
"""Cosine distance. Chosen on the recordings that `docs/speakers.md` names, of which no value fits all."""

MIN_WINDOWS = 4
MIN_SHARE = 8
"""A voice of fewer windows, in little audio of less than an eighth, is another's that sounded odd."""


class BasicModel:
    """Implements `engine.backends.speakers.model.Model`."""

    same = 0.70

    def __init__(self, directory: str) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1  # threads would be outside the sandbox
        options.log_severity_level = 4
        path = str(Path(directory) / MODEL)
        self._encoder = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._filters = mel_filters()

    def diarize(self, samples: Samples, speech: npt.NDArray[np.uint8], least: int, most: int, busy: Busy) -> Stretch:
        regions = spoken(speech, len(samples))
        starts = [start for region in regions for start in window_starts(*region)]
        if not starts:
            return Stretch([], np.zeros((0, 256), np.float32))
        mels = mel_power(levelled(samples, regions), self._filters)
        voices = self._encode(mels, starts, busy)
        labels = cluster(voices, apart=APART, least=least, most=len(voices))
        labels = largest(
            voices, labels, least, most
        )  # to merge whole clusters instead would join voices to keep oddities
        return Stretch(turns_of(regions, labels), means(voices, labels))

    def _encode(self, mels: Samples, starts: list[int], busy: Busy) -> Matrix:
        found = []
        padded = np.pad(mels, ((0, FRAMES), (0, 0)))
        for at in range(0, len(starts), BATCH):
            windows = np.stack([padded[start : start + FRAMES] for start in starts[at : at + BATCH]])
            found.append(self._encoder.run(None, {"mels": windows.astype(np.float32)})[0])
            busy()
        return normalised(np.concatenate(found))


def spoken(speech: npt.NDArray[np.uint8], samples: int) -> list[tuple[int, int]]:
    """Where there is speech: first frame of 10 ms, and the one behind the last."""
    regions: list[list[int]] = []
    for window in np.flatnonzero(speech >= SPEECH):
        if regions and window - regions[-1][1] <= GAP:
            regions[-1][1] = int(window) + 1
        else:
            regions.append([int(window), int(window) + 1])
    frames = samples // HOP
    padded = ((max(0, start - PADDING), end + PADDING) for start, end in regions)
    return [(int(start * 3.2), min(int(end * 3.2), frames)) for start, end in padded if int(start * 3.2) < frames]


def window_starts(start: int, end: int) -> list[int]:
    """Where the windows of a region begin: one around the middle of a short one, else every `STEP` frames."""
    if end - start < FRAMES + STEP:
        return [max(0, (start + end - FRAMES) // 2)]
    return list(range(start, end - FRAMES + 1, STEP))


def turns_of(regions: list[tuple[int, int]], labels: npt.NDArray[np.int64]) -> list[tuple[float, float, int]]:
    """Each window speaks for the `STEP` frames in its middle, the first and the last of a region for the rest too."""
    turns: list[tuple[float, float, int]] = []
    at = 0
    for start, end in regions:
        count = len(window_starts(start, end))
        own = labels[at : at + count]
        at += count
        cuts = [start, *(start + (FRAMES - STEP) // 2 + STEP * number for number in range(1, count)), end]
        for number, label in enumerate(own):
            begin_s, end_s = cuts[number] / 100, cuts[number + 1] / 100
            if number and turns[-1][2] == label:
                turns[-1] = (turns[-1][0], end_s, int(label))
            else:
                turns.append((begin_s, end_s, int(label)))
    return turns


def largest(voices: Matrix, labels: npt.NDArray[np.int64], least: int, most: int) -> npt.NDArray[np.int64]:
    """The labels of the `most` largest clusters, as far as they have windows enough, and numbered anew.

    What was in others is given to the voice that it is most like.
    """
    sizes = np.bincount(labels)
    enough_windows = min(MIN_WINDOWS, 1 + len(labels) // MIN_SHARE)
    ranked = np.argsort(-sizes, kind="stable")
    enough = [int(label) for place, label in enumerate(ranked) if place < least or sizes[label] >= enough_windows]
    kept = enough[:most] or [int(ranked[0])]
    centres = np.stack([normalised(voices[labels == label].mean(axis=0)) for label in kept])
    nearest = np.asarray(kept)[np.argmax(voices @ centres.T, axis=1)]
    changed = np.where(np.isin(labels, kept), labels, nearest)
    order = {int(label): place for place, label in enumerate(dict.fromkeys(changed.tolist()))}
    return np.array([order[int(label)] for label in changed], np.int64)


def means(voices: Matrix, labels: npt.NDArray[np.int64]) -> Matrix:
    """The mean voice of each label."""
    return normalised(np.stack([voices[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)]))


def levelled(samples: Samples, regions: list[tuple[int, int]]) -> Samples:
    """The audio, its speech made as loud as `LOUDNESS` if it is quieter."""
    voiced = np.concatenate([samples[start * HOP : end * HOP] for start, end in regions])
    rms = float(np.sqrt(np.mean(np.square(voiced)))) if len(voiced) else 0.0
    return samples * np.float32(max(1.0, LOUDNESS / rms)) if rms > 0 else samples


def mel_power(samples: Samples, filters: Samples) -> Samples:
    """Power in mel bands, a row for each 10 ms: librosa's `melspectrogram(n_fft=400, hop_length=160, n_mels=40)`."""
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    pieces = []
    for at in range(0, len(frames), 4096):
        spectrum = np.abs(np.fft.rfft(frames[at : at + 4096] * window, axis=1)) ** 2
        pieces.append((spectrum @ filters.T).astype(np.float32))
    return np.concatenate(pieces)


def mel_filters() -> Samples:
    """Slaney's mel filters (Auditory Toolbox, 1998), each of area 1: bands x frequencies."""
    edges = _hz(np.linspace(0.0, _mel(SAMPLE_RATE_HZ / 2), BANDS + 2))
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE_HZ)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None], np.float32)


_LINEAR_HZ = 200.0 / 3
_LOG_STEP = np.log(6.4) / 27.0


def _mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < 1000 else 15.0 + float(np.log(hz / 1000.0)) / _LOG_STEP


def _hz(mels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.where(mels < 15.0, mels * _LINEAR_HZ, 1000.0 * np.exp(_LOG_STEP * (mels - 15.0)))
