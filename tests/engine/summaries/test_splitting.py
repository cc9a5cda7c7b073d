from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.summaries.splitting import halves
from engine.summaries.types import Turn

TURNS = st.lists(st.builds(Turn, st.text(min_size=2), st.sampled_from([None, "A", "B"])), min_size=1)


@given(TURNS)
def test_halves_are_all_of_it_in_order_and_neither_is_empty(turns: list[Turn]) -> None:
    first, second = halves(turns)
    assert first
    assert second
    assert "".join(turn.text for turn in (*first, *second)) == "".join(turn.text for turn in turns)
    if len(turns) > 1:
        assert [*first, *second] == turns


def test_halves_are_about_as_long() -> None:
    first, second = halves([Turn("x" * 10) for _ in range(100)])
    assert abs(len(first) - len(second)) <= 1


def test_a_single_turn_is_cut_between_two_words_and_stays_its_speakers() -> None:
    assert halves([Turn("one two three four", "A")]) == ((Turn("one two three", "A"),), (Turn(" four", "A"),))
    assert halves([Turn("\u4f60\u597d\u4e16\u754c")]) == ((Turn("\u4f60\u597d"),), (Turn("\u4e16\u754c"),))


def test_one_character_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        halves([Turn("x")])
