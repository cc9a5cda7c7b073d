"""What does Whisper's encoder see of a recording?

`log_mel` is WhisperFeatureExtractor(feature_size=80) up to the logarithm; `normalise` is its last two lines. The cut
between them is where the training mixes sentences, noise and loudness without another Fourier transform.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

FRAMES_PER_S = 100
FLOOR = -10.0
"""log10 of the smallest power that counts; digital silence."""


@cache
def _filters() -> Tensor:
    bank = mel_filter_bank(201, 80, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float()


def log_mel(samples: Tensor) -> Tensor:
    """Return log10 mel power of 16 kHz `samples`: (frames, 80), one frame per 160 samples, never below FLOOR."""
    spectrum = torch.stft(samples, 400, 160, window=torch.hann_window(400), return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    return (power.T @ _filters()).clamp(min=10.0**FLOOR).log10()


def normalise(features: Tensor) -> Tensor:
    """Return what the encoder is given for one window of `log_mel` features."""
    return (features.clamp(min=float(features.max()) - 8.0) + 4.0) / 4.0
