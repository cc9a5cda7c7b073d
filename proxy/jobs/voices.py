"""Who of one part is who of another? Voices that are alike, as the engine's embeddings have them.

Average linkage over the speakers of all parts, each weighted by how long it spoke: of two clusters the likeness is the
mean of all cosines between them, and the likest are merged first, while they are as alike as their model asks of one
person. Never merged are two that were told apart in one part, two that the caller knows by different names, voices of
two models, and a speaker whose voice nobody knows; those of one name are one from the beginning.

Embeddings are biometric: they are sealed with their part while its job runs, and forgotten when its parts are joined.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import mul

from core.transcript.types import Speaker

MIN_WEIGHT_S = 0.001
"""What is said to have spoken for no time at all counts as long as this."""


@dataclass(slots=True)
class _Cluster:
    """Some speakers of parts who are one of the recording. members: by their number in the order of the parts.

    total: the sum of their voices, each times its weight, so that a product of two totals is a sum of weighted cosines.
    model, same: of those voices; no model where none is known.
    """

    members: frozenset[int]
    parts: frozenset[int]
    name: str | None
    total: tuple[float, ...] = ()
    weight: float = 0.0
    model: str | None = None
    same: float = 1.0

    def may_be(self, other: _Cluster) -> bool:
        named_apart = self.name is not None and other.name is not None and self.name != other.name
        return (
            self.model is not None
            and self.model == other.model
            and len(self.total) == len(other.total)
            and not named_apart
            and self.parts.isdisjoint(other.parts)
        )

    def likeness(self, other: _Cluster) -> float:
        """From -1 to 1."""
        return sum(map(mul, self.total, other.total), 0.0) / (self.weight * other.weight)

    def joined(self, other: _Cluster) -> _Cluster:
        voiced, unvoiced = (self, other) if self.model is not None else (other, self)
        both = voiced.model == unvoiced.model and len(voiced.total) == len(unvoiced.total)
        return _Cluster(
            self.members | other.members,
            self.parts | other.parts,
            self.name or other.name,
            tuple(map(sum, zip(voiced.total, unvoiced.total, strict=True))) if both else voiced.total,
            voiced.weight + unvoiced.weight if both else voiced.weight,
            voiced.model,
            voiced.same,
        )


def join_voices(
    parts: Sequence[Sequence[Speaker]], *, least: int = 1, most: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """For each part, which speaker of the recording each of its speakers is; counted from 0 as they appear.

    least, most: how many there are in the recording, as far as is known. Clusters that may not be merged stay apart
    even if they are more than `most`.
    """
    clusters = _one_of_each_name(_speakers(parts))
    numbers = {member: number for number, cluster in clusters.items() for member in cluster.members}
    for left, right in _merges(clusters, least, most):
        numbers |= dict.fromkeys(left.members | right.members, min(left.members | right.members))
    order = {number: place for place, number in enumerate(dict.fromkeys(numbers[one] for one in sorted(numbers)))}
    places = iter(sorted(numbers))
    return tuple(tuple(order[numbers[next(places)]] for _ in part) for part in parts)


def _speakers(parts: Sequence[Sequence[Speaker]]) -> Iterator[_Cluster]:
    """A cluster for each speaker of each part."""
    everybody = ((part, who) for part, speakers in enumerate(parts) for who in speakers)
    for number, (part, who) in enumerate(everybody):
        alone = _Cluster(frozenset({number}), frozenset({part}), who.name)
        if who.voice is not None:
            alone.weight = max(who.speaking_s, MIN_WEIGHT_S)
            alone.total = tuple(alone.weight * value for value in who.voice.values)
            alone.model, alone.same = who.voice.model, who.voice.same
        yield alone


def _one_of_each_name(speakers: Iterator[_Cluster]) -> dict[int, _Cluster]:
    clusters: dict[int, _Cluster] = {}
    named: dict[str, int] = {}
    for number, speaker in enumerate(speakers):
        place = number if speaker.name is None else named.setdefault(speaker.name, number)
        clusters[place] = clusters[place].joined(speaker) if place in clusters else speaker
    return clusters


def _merges(clusters: dict[int, _Cluster], least: int, most: int | None) -> Iterator[tuple[_Cluster, _Cluster]]:
    """What is merged, the likest first."""
    waiting: list[tuple[float, int, int]] = []

    def compare(one: int, other: int) -> None:
        if clusters[one].may_be(clusters[other]):
            likeness = clusters[one].likeness(clusters[other])
            if most is not None or likeness >= clusters[one].same:
                heapq.heappush(waiting, (-likeness, one, other))

    for one, other in combinations(clusters, 2):
        compare(one, other)
    fresh = max(clusters, default=0) + 1
    while waiting and len(clusters) > least:
        distance, one, other = heapq.heappop(waiting)
        if one not in clusters or other not in clusters:
            continue
        if -distance < clusters[one].same and (most is None or len(clusters) <= most):
            return
        left, right = clusters.pop(one), clusters.pop(other)
        yield left, right
        clusters[fresh] = left.joined(right)
        for rest in list(clusters)[:-1]:
            compare(rest, fresh)
        fresh += 1
