"""What must the models of each kind do? Tell the speakers of a stretch of audio apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
Busy: TypeAlias = Callable[[], None]
"""Called now and then by whoever computes."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Who speaks in some audio. turns: start and end in seconds, and whose; voices: of each speaker, of length 1."""

    turns: list[tuple[float, float, int]]
    voices: Samples


class Model(Protocol):
    """same: from which cosine two voices are one person's."""

    @property
    def same(self) -> float: ...

    def diarize(self, samples: Samples, speech: npt.NDArray[np.uint8], least: int, most: int, busy: Busy) -> Stretch:
        """samples: from -1 to 1. speech: 0 to 255 for each 32 ms. Raises RuntimeError, ValueError and the like."""
