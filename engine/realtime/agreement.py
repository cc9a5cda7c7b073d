"""What of a text is sure enough to be shown while somebody still speaks? What two looks at it have in common.

LocalAgreement-2 (Macháček et al., "Turning Whisper into Real-Time Transcription System", 2023): of the words on which
two looks at a growing clip agree, the last one of the later look is held back, for it may be half of one. What was
shown is never taken back; where a later text has other words in that place, it goes on behind them. Words are compared
without case and punctuation, which change most; languages without spaces by their characters.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from core.transcript.languages import SPACELESS

_WORD = re.compile(r"\s*\S+")


class Agreement:
    """What was shown of one clip's text, and what was last thought that it is."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._last: list[str] = []

    def look(self, text: str, language: str, *, show: bool) -> str:
        """What can be shown of a clip that goes on, beyond what was. show: whether anything may be, so early."""
        units = _units(text, language)
        common = _common(units, self._last)
        self._last = units
        count = min(common, len(units) - 1)
        if not show or count <= len(self._shown) or _common(units, self._shown) < len(self._shown):
            return ""
        return self._show(units[len(self._shown) : count])

    def rest(self, text: str, language: str) -> str:
        """What is left to be shown of a clip whose text is final."""
        units = _units(text, language)
        return self._show(units[_place(self._shown, units) :])

    def _show(self, units: list[str]) -> str:
        self._shown += units
        return "".join(units)


def _units(text: str, language: str) -> list[str]:
    """The words of a text, each with the space before it, or its characters."""
    return list(text.strip()) if language in SPACELESS else _WORD.findall(text)


def _key(unit: str) -> str:
    return "".join(character for character in unit.casefold() if character.isalnum())


def _common(units: list[str], others: list[str]) -> int:
    """How many units two texts have in common from their start."""
    count = 0
    for unit, other in zip(units, others, strict=False):
        if _key(unit) != _key(other):
            break
        count += 1
    return count


def _place(shown: list[str], units: list[str]) -> int:
    """How much of a final text is behind what was shown, which may be other words."""
    keys, final = [_key(unit) for unit in shown], [_key(unit) for unit in units]
    matches = SequenceMatcher(None, keys, final, autojunk=False).get_matching_blocks()
    found = [match for match in matches if match.size]
    if not found:
        return min(len(shown), len(units))
    last = found[-1]
    return min(last.b + last.size + (len(shown) - last.a - last.size), len(units))
