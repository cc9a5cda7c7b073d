"""What did the encoder make of a clip? Each is encoded once for its language, its text and its words.

A pass of the encoder costs as much for a short clip as for one of 30 s: beside a short text that is most of the work.
What is kept are activations of the model, in the memory that hears the clips anyway, of the last few clips, and of none
for longer than it takes until nothing is to be heard. What one recording left behind is not felt by the next: the same
audio in another request is another clip, and takes as long as if nobody had sent it before.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

KEPT = 8
"""The clips that vote on a file's language, and those of a few other files whose turns come between."""


class Encodings:
    """Takes the place of `encode` of `faster_whisper.WhisperModel`, for all its threads.

    encode: features (bands x frames, float32) to what the decoder reads, 1500 positions x the model's width: 7.7 MB in
    float32 for large, 3 MB for base. kept: how many of these.
    """

    def __init__(self, encode: Callable[[Features], Any], kept: int = KEPT) -> None:
        self._encode = encode
        self._kept = kept
        self._last: OrderedDict[tuple[int, bytes], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._at_work = threading.local()

    @contextmanager
    def of(self, clip: int) -> Iterator[None]:
        """What this thread encodes while the context is open is of that clip; outside of any nothing is kept."""
        self._at_work.clip = clip
        try:
            yield
        finally:
            del self._at_work.clip

    def forget(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._last.clear()

    def __call__(self, features: Features) -> Any:
        clip = getattr(self._at_work, "clip", None)
        if clip is None:
            return self._encode(features)
        key = clip, hashlib.sha256(features.tobytes()).digest()
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
