"""Average linkage, as SciPy would have it; and speakers found again in the next stretch of a file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.speakers.clustering import Gathering, Matrix, cluster, normalised


def voices(count: int, *, of: int, seed: int = 0, noise: float = 0.05) -> tuple[Matrix, list[int]]:
    """Noisy voices of some people, in any order."""
    random = np.random.default_rng(seed)
    people = random.normal(size=(of, 32))
    who = [number % of for number in range(count)]
    return normalised(people[who] + noise * random.normal(size=(count, 32))), who


def by_hand(vectors: Matrix, apart: float) -> list[set[int]]:
    """Average linkage as it is defined: the two clusters with the least mean distance are joined, while it is small."""
    distances = 1.0 - vectors @ vectors.T
    clusters = [{row} for row in range(len(vectors))]
    while len(clusters) > 1:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        mean = {
            pair: np.mean([distances[i, j] for i in clusters[pair[0]] for j in clusters[pair[1]]]) for pair in pairs
        }
        nearest = min(mean, key=lambda pair: mean[pair])
        if mean[nearest] >= apart:
            break
        clusters[nearest[1]] |= clusters.pop(nearest[0])
    return clusters


@given(st.integers(1, 12), st.integers(0, 50), st.sampled_from([0.1, 0.5, 0.9, 1.2]))
def test_it_is_average_linkage(count: int, seed: int, apart: float) -> None:
    vectors = normalised(np.random.default_rng(seed).normal(size=(count, 6)))
    labels = cluster(vectors, apart=apart, least=1, most=count)
    found = [{int(row) for row in np.flatnonzero(labels == label)} for label in set(labels.tolist())]
    assert sorted(map(sorted, found)) == sorted(map(sorted, by_hand(vectors, apart)))


@pytest.mark.parametrize("of", [1, 2, 5])
def test_people_are_told_apart_and_counted_as_they_come(of: int) -> None:
    vectors, who = voices(40, of=of)
    assert cluster(vectors, apart=0.5, least=1, most=20).tolist() == who


@pytest.mark.parametrize(("least", "most", "found"), [(3, 20, 3), (1, 1, 1), (4, 4, 4), (9, 9, 9)])
def test_the_count_is_kept_within_its_bounds(least: int, most: int, found: int) -> None:
    vectors, _ = voices(40, of=2)
    assert len(set(cluster(vectors, apart=0.5, least=least, most=most).tolist())) == found


def test_there_are_no_more_clusters_than_rows() -> None:
    assert cluster(np.zeros((0, 4), np.float32), apart=0.5, least=3, most=5).tolist() == []
    assert cluster(normalised(np.eye(2)), apart=0.5, least=3, most=5).tolist() == [0, 1]


def test_a_stretch_of_ten_minutes_is_clustered() -> None:
    vectors, who = voices(1500, of=4)
    assert cluster(vectors, apart=0.5, least=1, most=20).tolist() == who


def test_speakers_are_found_again_in_the_next_stretch() -> None:
    people, _ = voices(3, of=3)
    gathering = Gathering(alike=0.7, most=20)
    assert gathering.add(people[:2], [5.0, 5.0]) == [0, 1]
    assert gathering.add(people[[2, 0]], [5.0, 5.0]) == [2, 0]
    assert [speaker.spoken_s for speaker in gathering.speakers] == [10.0, 5.0, 5.0]


def test_two_of_one_stretch_are_never_one() -> None:
    people, _ = voices(1, of=1)
    gathering = Gathering(alike=0.7, most=20)
    gathering.add(people, [5.0])
    assert sorted(gathering.add(np.concatenate([people, people]), [5.0, 5.0])) == [0, 1]


def test_where_there_can_be_no_more_a_stranger_is_the_most_alike() -> None:
    people, _ = voices(3, of=3)
    gathering = Gathering(alike=0.99, most=2)
    assert set(gathering.add(people[:2], [5.0, 5.0])) == {0, 1}
    assert gathering.add(people[2:], [5.0])[0] in (0, 1)
    assert len(gathering.speakers) == 2


def test_a_stretch_in_which_nobody_speaks_changes_nothing() -> None:
    gathering = Gathering(alike=0.7, most=2)
    assert gathering.add(np.zeros((0, 4), np.float32), []) == []
