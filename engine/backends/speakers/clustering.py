"""Which embeddings are of one voice? Average linkage by hand, and the joining of stretches of a long file.

Average linkage (UPGMA) over cosine distances, by chains of nearest neighbours (Murtagh 1983): O(n^2) time and memory,
without SciPy, which would weigh more than the rest of the engine. A long file is clustered stretch by stretch; the
speakers of each are then matched with those of the stretches before it, by how alike their mean voices are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float32]


def normalised(vectors: npt.NDArray[Any]) -> Matrix:
    """Each row with length 1, or 0."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def cluster(vectors: Matrix, *, apart: float, least: int, most: int) -> npt.NDArray[np.int64]:
    """The number of each row's cluster, counted as they first occur.

    vectors: rows of length 1. apart: the mean cosine distance from which two clusters are two voices. least, most: how
    many clusters there are, whatever the distances say, as far as there are rows.
    """
    count = len(vectors)
    if count == 0:
        return np.zeros(0, np.int64)
    merges = sorted(_merges(1.0 - vectors @ vectors.T), key=lambda merge: merge[0])
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    clusters = count
    for distance, left, right in merges:
        if clusters <= least or (distance >= apart and clusters <= most):
            break
        parents[root(left)] = root(right)
        clusters -= 1
    roots = [root(row) for row in range(count)]
    order = {number: place for place, number in enumerate(dict.fromkeys(roots))}
    return np.array([order[number] for number in roots], np.int64)


def _merges(distances: Matrix) -> list[tuple[float, int, int]]:
    """All that average linkage merges: how far apart, and a row of either side."""
    count = len(distances)
    distances = distances.astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(count, np.float32)
    gone = np.zeros(count, bool)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < count - 1:
        if not chain:
            chain.append(int(np.argmin(gone)))
        last = chain[-1]
        row = distances[last]
        nearest = int(np.argmin(row))
        if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
            nearest = chain[-2]
        if len(chain) > 1 and nearest == chain[-2]:
            merges.append((float(row[nearest]), last, nearest))
            _merge(distances, sizes, gone, last, nearest)
            del chain[-2:]
        else:
            chain.append(nearest)
    return merges


def _merge(
    distances: Matrix, sizes: npt.NDArray[np.float32], gone: npt.NDArray[np.bool_], away: int, kept: int
) -> None:
    """Merge `away` into `kept` (Lance and Williams)."""
    total = sizes[away] + sizes[kept]
    merged = (sizes[away] * distances[away] + sizes[kept] * distances[kept]) / total
    distances[kept], distances[:, kept] = merged, merged
    distances[kept, kept] = np.inf
    distances[away], distances[:, away] = np.inf, np.inf
    sizes[kept] = total
    gone[away] = True


@dataclass(slots=True)
class Gathered:
    """A speaker of the file so far. voice: the mean, weighted by the seconds spoken."""

    voice: Matrix
    spoken_s: float


class Gathering:
    """The speakers of a file, stretch by stretch. alike: from which cosine two voices of two stretches are one."""

    def __init__(self, *, alike: float, most: int) -> None:
        self._alike = alike
        self._most = most
        self.speakers: list[Gathered] = []

    def add(self, voices: Matrix, spoken_s: list[float]) -> list[int]:
        """Which speaker of the file each of a stretch is.

        The most alike pairs first, no two of one stretch as the same speaker, unless there would be more than `most`.
        """
        found: dict[int, int] = {}
        for index, speaker in self._pairs(voices):
            if index not in found and speaker not in found.values():
                found[index] = speaker
        for index in range(len(voices)):
            if index not in found:
                found[index] = self._stranger(voices[index])
        for index, speaker in found.items():
            self._hear(self.speakers[speaker], voices[index], spoken_s[index])
        return [found[index] for index in range(len(voices))]

    def _pairs(self, voices: Matrix) -> list[tuple[int, int]]:
        if not self.speakers or not len(voices):
            return []
        likenesses = voices @ normalised(np.stack([speaker.voice for speaker in self.speakers])).T
        pairs = [(float(likenesses[pair]), *pair) for pair in np.ndindex(*likenesses.shape)]
        return [(pair[1], pair[2]) for pair in sorted(pairs, reverse=True) if pair[0] >= self._alike]

    def _stranger(self, voice: Matrix) -> int:
        if len(self.speakers) < self._most:
            self.speakers.append(Gathered(np.zeros_like(voice), 0.0))
            return len(self.speakers) - 1
        known = normalised(np.stack([speaker.voice for speaker in self.speakers]))
        return int(np.argmax(known @ voice))

    def _hear(self, speaker: Gathered, voice: Matrix, spoken_s: float) -> None:
        speaker.voice = speaker.voice + voice * max(spoken_s, 1e-3)
        speaker.spoken_s += spoken_s
