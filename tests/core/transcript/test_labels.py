"""What speakers are called."""

from __future__ import annotations

from core.transcript.labels import speaker_labels
from core.transcript.types import Speaker


def test_strangers_are_called_by_letters_that_no_name_has() -> None:
    assert speaker_labels([Speaker(), Speaker("A"), Speaker()]) == ["B", "A", "C"]
    assert speaker_labels([Speaker()] * 28)[24:] == ["Y", "Z", "AA", "AB"]
