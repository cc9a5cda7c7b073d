"""How is a transcript cut that is longer than a model reads at a time? In halves, until each part is short enough."""

from __future__ import annotations

from collections.abc import Sequence

from engine.summaries.types import Turn


def halves(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Two parts with about as many characters each: between two turns, and a single turn between two words.

    Raises ValueError for what cannot be cut.
    """
    if len(turns) == 1:
        first, second = _halves_of(turns[0])
        return (first,), (second,)
    half, count = sum(len(turn.text) for turn in turns) / 2, 0
    for index, turn in enumerate(turns[:-1], start=1):
        count += len(turn.text)
        if count + len(turns[index].text) / 2 >= half:
            return tuple(turns[:index]), tuple(turns[index:])
    return tuple(turns[:-1]), (turns[-1],)


def _halves_of(turn: Turn) -> tuple[Turn, Turn]:
    text, middle = turn.text, len(turn.text) // 2
    if not middle:
        raise ValueError("one character cannot be cut")
    blank = text.find(" ", middle)
    at = blank if blank > 0 else middle  # some languages have no blanks
    return Turn(text[:at], turn.speaker), Turn(text[at:], turn.speaker)
