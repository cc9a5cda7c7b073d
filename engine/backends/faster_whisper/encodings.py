"""What did the encoder make of the last clips? A clip is encoded once for its language, its text and its words.

A pass of the encoder costs as much for a short clip as for one of 30 s: beside a short text that is most of the work.
What is kept are activations of the model, in the memory that hears the clips anyway, and only of the last few.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

KEPT = 8
"""The clips that vote on a file's language, and those of a few other files whose turns come between."""


class Encodings:
    """Takes the place of `encode` of `faster_whisper.WhisperModel`, for all its threads.

    encode: features (bands x frames, float32) to what the decoder reads, 1500 positions x the model's width: 7.7 MB in
    float32 for large, 3 MB for base. kept: of how many clips.
    """

    def __init__(self, encode: Callable[[Features], Any], kept: int = KEPT) -> None:
        self._encode = encode
        self._kept = kept
        self._last: OrderedDict[bytes, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, features: Features) -> Any:
        key = hashlib.sha256(features.tobytes()).digest()
        with self._lock:
            if (known := self._last.get(key)) is not None:
                self._last.move_to_end(key)
                return known
        encoded = self._encode(features)
        with self._lock:
            self._last[key] = encoded
            while len(self._last) > self._kept:
                self._last.popitem(last=False)
        return encoded
