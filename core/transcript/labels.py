"""What is each speaker called? By name where there is one, else by a letter, as OpenAI does."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from string import ascii_uppercase

from core.transcript.types import Speaker


def speaker_labels(speakers: Collection[Speaker]) -> list[str]:
    """By name where there is one, the others `A` to `Z`, `AA`, ... as they begin to speak."""
    taken = {speaker.name for speaker in speakers}
    letters = (label for label in map(_letters, count(1)) if label not in taken)
    return [speaker.name or next(letters) for speaker in speakers]


def _letters(number: int) -> str:
    """1 to `A`, 26 to `Z`, 27 to `AA`."""
    before, last = divmod(number - 1, len(ascii_uppercase))
    return (_letters(before) if before else "") + ascii_uppercase[last]
