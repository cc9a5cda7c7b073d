"""Who speaks when, by pyannote.audio 4: a pipeline such as `community-1`, from a directory on the operator's disk.

Runs in an environment of its own (`/opt/pyannote`), for it brings PyTorch. Its turns are the exclusive ones: one
speaker at a time, which is how they are joined with words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyannote.audio import Pipeline

from core.media.types import SAMPLE_RATE_HZ
from engine.backends.speakers.clustering import normalised
from engine.backends.speakers.model import Busy, Samples, Stretch


class PyannoteModel:
    """Implements `engine.backends.speakers.model.Model`."""

    same = 0.5

    def __init__(self, directory: str, *, device: str) -> None:
        pipeline = Pipeline.from_pretrained(directory)
        if pipeline is None:
            raise ValueError("pyannote.audio cannot use this directory")
        self._pipeline = pipeline.to(torch.device(device))

    def diarize(self, samples: Samples, speech: npt.NDArray[np.uint8], least: int, most: int, busy: Busy) -> Stretch:
        if not speech.any():
            return Stretch([], np.zeros((0, 1), np.float32))

        def hook(*_: Any, **__: Any) -> None:
            busy()

        waveform = torch.from_numpy(samples.copy()).unsqueeze(0)
        found = self._pipeline(
            {"waveform": waveform, "sample_rate": SAMPLE_RATE_HZ}, min_speakers=least, max_speakers=most, hook=hook
        )
        labels = list(found.speaker_diarization.labels())
        places = {label: place for place, label in enumerate(labels)}
        turns = [
            (float(turn.start), float(turn.end), places[label])
            for turn, _, label in found.exclusive_speaker_diarization.itertracks(yield_label=True)
        ]
        embeddings = found.speaker_embeddings
        voices = np.zeros((len(labels), 1)) if embeddings is None else np.nan_to_num(np.asarray(embeddings))
        return Stretch(turns, normalised(voices))
