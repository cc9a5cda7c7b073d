"""Raw, clean and agent, by rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Task, Transcript
from proxy.dialects.modes import FILLERS, Mode, clean, clean_text, shaped


def transcript(*segments: Segment, language: str = "en") -> Transcript:
    text = " ".join(segment.text.strip() for segment in segments)
    return Transcript(Task.TRANSCRIBE, language, 2.5, text, segments)


HEARD = transcript(Segment(0.0, 1.0004, " Um, good morning."), Segment(1.2, 2.0, "It  rains."))


def test_raw_is_what_was_heard() -> None:
    assert shaped(HEARD, Mode.RAW) == {
        "text": "Um, good morning. It  rains.",
        "language": "en",
        "duration": 2.5,
        "segments": [
            {"id": 0, "start": 0.0, "end": 1.0, "text": "Um, good morning."},
            {"id": 1, "start": 1.2, "end": 2.0, "text": "It  rains."},
        ],
    }


def test_clean_is_the_same_without_fillers() -> None:
    told = shaped(HEARD, Mode.CLEAN)
    assert told["text"] == "good morning. It rains."
    assert [segment["text"] for segment in told["segments"]] == ["good morning.", "It rains."]


def test_agent_is_short_and_in_the_form_that_is_documented() -> None:
    assert shaped(HEARD, Mode.AGENT) == {
        "v": 1,
        "lang": "en",
        "dur": 2.5,
        "text": "Um, good morning. It  rains.",
        "segs": [[0.0, 1.0, "Um, good morning."], [1.2, 2.0, "It  rains."]],
    }


def test_agent_names_a_speaker_only_where_one_was_told_apart() -> None:
    told = shaped(transcript(Segment(0, 1, "Hi.", speaker=1), Segment(1, 2, "Oh.")), Mode.AGENT)
    assert told["segs"] == [[0, 1, "Hi.", 1], [1, 2, "Oh."]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I, um, think so.", "I, think so."),
        ("Yes um.", "Yes."),
        ("Yes, uh.", "Yes."),
        ("Um. Yes.", "Yes."),
        ("UH yes", "yes"),
        ("the the dog", "the dog"),
        ("The the the dog", "The dog"),
        ("to the, the dog", "to the, the dog"),
        ("he had had five five", "he had had five five"),
        ("umbrella hummus", "umbrella hummus"),
        ("a  b\n c", "a b c"),
        ("", ""),
        ("um uh", ""),
    ],
)
def test_fillers_and_words_said_twice_are_left_out_and_nothing_else(text: str, expected: str) -> None:
    assert clean_text(text, "en") == expected


def test_each_language_has_its_own_fillers() -> None:
    assert clean_text("Ähm, ja um acht", "de") == "ja um acht"
    assert clean_text("um uh", "sw") == "um uh"


def test_a_long_pause_begins_a_paragraph() -> None:
    paused = transcript(Segment(0, 1, "One."), Segment(2.4, 3, "Two."), Segment(4.5, 5, "Three."), Segment(9, 10, "um"))
    assert clean(paused) == "One. Two.\n\nThree."


def test_a_text_without_segments_is_cleaned_too() -> None:
    assert clean(Transcript(Task.TRANSCRIBE, "en", 1.0, "um yes", ())) == "yes"


WORDS = st.sampled_from(["um", "uh,", "the", "The", "dog.", "had", "five", "um."])


@given(text=st.lists(WORDS, max_size=12).map(" ".join))
def test_clean_text_has_no_filler_and_no_word_that_was_not_there(text: str) -> None:
    cleaned = clean_text(text, "en")
    bare = [word.strip(".,").lower() for word in cleaned.split()]
    assert not set(bare) & FILLERS["en"]
    assert set(bare) <= {word.strip(".,").lower() for word in text.split()}
    assert clean_text(cleaned, "en") == cleaned
