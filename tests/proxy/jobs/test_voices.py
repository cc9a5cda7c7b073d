"""Speakers of parts become speakers of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from math import cos, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Speaker, Voice
from proxy.jobs.voices import join_voices

Speak = Callable[..., Speaker]


def speakers(same: float, model: str = "m:00") -> Speak:
    """Speakers whose voices are one person's from that likeness on. A voice is an angle: alike are near ones."""

    def speaker(angle: float, speaking_s: float = 10.0, name: str | None = None) -> Speaker:
        return Speaker(name, speaking_s, Voice((cos(angle), sin(angle)), same, model))

    return speaker


who = speakers(0.7)
ANNA, BERT, CARL = 0.0, 1.5, 3.0
NOBODY = Speaker(None, 1.0)


def test_nobody_is_nobody() -> None:
    assert join_voices([]) == ()
    assert join_voices([[], []]) == ((), ())


def test_the_same_people_are_found_again_in_any_order() -> None:
    parts = [[who(ANNA), who(BERT)], [who(BERT + 0.2), who(ANNA - 0.2)], [who(CARL), who(ANNA + 0.1)]]
    assert join_voices(parts) == ((0, 1), (1, 0), (2, 0))


def test_speakers_are_counted_as_they_appear() -> None:
    assert join_voices([[who(BERT)], [], [who(ANNA), who(BERT)]]) == ((0,), (), (1, 0))


def test_two_who_were_told_apart_stay_two() -> None:
    assert join_voices([[who(0.0), who(0.05)], [who(0.01), who(0.04)]]) == ((0, 1), (0, 1))
    assert join_voices([[who(0.0), who(0.0)]], most=1) == ((0, 1),)


def test_two_who_were_told_apart_do_not_become_one_through_a_third() -> None:
    first, second = join_voices([[who(0.0), who(0.3)], [who(0.15)]])
    assert len(set(first)) == 2
    assert second[0] in first


def test_the_likest_is_taken_first() -> None:
    assert join_voices([[who(0.0)], [who(0.4), who(0.1)]]) == ((0,), (1, 0))


def test_a_later_part_may_show_that_the_nearest_before_it_was_somebody_else() -> None:
    """In the order of the parts the second would be the first, who is within reach; the third is nearer to it."""
    parts = [[who(0.0)], [who(0.6)], [who(0.7), who(0.1)]]
    assert join_voices(parts) == ((0,), (1,), (1, 0))


@pytest.mark.parametrize(("same", "joined"), [(0.7, ((0,), (1,))), (0.6, ((0,), (0,)))])
def test_who_is_like_nobody_is_somebody_new(same: float, joined: tuple[tuple[int, ...], ...]) -> None:
    speak = speakers(same)
    assert join_voices([[speak(0.0)], [speak(0.9)]]) == joined


def test_whoever_spoke_long_is_known_best() -> None:
    speak = speakers(0.75)
    long_then_short = [[speak(0.0, 100.0)], [speak(0.6, 0.1)], [speak(-0.7)]]
    assert join_voices(long_then_short) == ((0,), (0,), (0,))
    short_then_long = [[speak(0.0, 0.1)], [speak(0.6, 100.0)], [speak(-0.7)]]
    assert join_voices(short_then_long) == ((0,), (0,), (1,))


def test_likeness_is_the_mean_of_all_pairs_and_not_the_best_of_them() -> None:
    """Each is like the next, and the first is not like the last."""
    chain = join_voices([[who(0.0)], [who(0.7)], [who(1.4)]])
    assert chain == ((0,), (0,), (1,))


def test_without_embeddings_every_part_has_people_of_its_own() -> None:
    everything = speakers(-1.0)
    parts = [[NOBODY, NOBODY], [NOBODY], [everything(0.0)], [NOBODY, everything(0.0)]]
    assert join_voices(parts) == ((0, 1), (2,), (3,), (4, 3))
    assert join_voices([[NOBODY], [NOBODY]], most=1) == ((0,), (1,))


def test_embeddings_of_different_models_are_not_compared() -> None:
    other = speakers(0.7, "n:00")
    assert join_voices([[who(ANNA)], [other(ANNA)], [who(ANNA)]]) == ((0,), (1,), (0,))
    assert join_voices([[who(ANNA)], [other(ANNA)]], most=1) == ((0,), (1,))
    longer = Speaker(None, 1.0, Voice((1.0, 0.0, 0.0), 0.7, "m:00"))
    assert join_voices([[who(ANNA)], [longer]]) == ((0,), (1,))


# --- how many there are


def test_there_are_no_more_than_the_most_however_unlike_they_are() -> None:
    parts = [[who(0.0), who(1.6)], [who(1.0)], [who(0.9), who(2.5)]]
    assert len({number for part in join_voices(parts) for number in part}) > 2
    assert join_voices(parts, most=2) == ((0, 1), (1,), (1, 0))


def test_there_are_no_fewer_than_the_least_however_alike_they_are() -> None:
    parts = [[who(0.0)], [who(0.1)], [who(0.15)]]
    assert join_voices(parts) == ((0,), (0,), (0,))
    assert join_voices(parts, least=2) == ((0,), (1,), (1,))
    assert join_voices(parts, least=7) == ((0,), (1,), (2,))


# --- whom the caller knows


def test_one_name_is_one_person_whatever_the_voices_say() -> None:
    parts = [[who(ANNA, name="Anna")], [who(BERT, name="Anna")], [Speaker("Anna", 1.0)]]
    assert join_voices(parts) == ((0,), (0,), (0,))
    assert join_voices(list(reversed(parts))) == ((0,), (0,), (0,))


def test_two_names_are_two_people_whatever_the_voices_say() -> None:
    parts = [[who(ANNA, name="Anna")], [who(ANNA, name="Ada")], [who(ANNA)]]
    first, second, third = join_voices(parts, most=1)
    assert first != second
    assert third in (first, second)


def test_a_stranger_who_sounds_like_a_known_voice_is_that_person() -> None:
    assert join_voices([[who(BERT)], [who(ANNA, name="Anna")], [who(ANNA + 0.1)]]) == ((0,), (1,), (1,))


def test_a_name_without_a_voice_takes_the_voice_of_its_name() -> None:
    assert join_voices([[Speaker("Anna", 1.0)], [who(ANNA, name="Anna")], [who(ANNA)]]) == ((0,), (0,), (0,))


PARTS = st.lists(
    st.lists(st.tuples(st.floats(0, 6.3), st.sampled_from([None, None, "A", "B"])), max_size=4), max_size=6
)


@given(PARTS, st.floats(-1, 1), st.integers(1, 5), st.none() | st.integers(1, 5))
def test_whatever_the_voices_what_must_not_be_one_is_not_one(
    parts: Sequence[Sequence[tuple[float, str | None]]], same: float, least: int, most: int | None
) -> None:
    speak = speakers(same)
    heard: list[list[Speaker]] = []
    for part in parts:
        names = [name for _, name in part]
        heard.append([speak(angle, name=name if names.count(name) == 1 else None) for angle, name in part])
    joined = join_voices(heard, least=least, most=most)
    assert [len(each) for each in joined] == [len(part) for part in parts]
    assert all(len(set(each)) == len(each) for each in joined)
    flat = [
        (number, one) for each, part in zip(joined, heard, strict=True) for number, one in zip(each, part, strict=True)
    ]
    for (left, one), (right, other) in combinations(flat, 2):
        if one.name and other.name:
            assert (left == right) == (one.name == other.name)
    firsts = list(dict.fromkeys(number for number, _ in flat))
    assert firsts == list(range(len(firsts)))
    assert all(right - left == 1 for left, right in pairwise(firsts))
