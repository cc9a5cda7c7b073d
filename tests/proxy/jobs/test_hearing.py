"""What an engine is asked, and what is made of its answer, where speakers are told apart."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from core.transcript.types import Speaker, Task, Voice
from proxy.jobs.hearing import _fields, _transcript, _Verbose
from proxy.jobs.model import JobOptions, KnownSpeaker

HEARD = _Verbose.model_validate(
    {
        "language_code": "en",
        "duration": 3.0,
        "text": "Yes. No.",
        "segments": [
            {"start": 0.0, "end": 1.0, "text": "Yes.", "speaker": "B"},
            {"start": 1.0, "end": 3.0, "text": "No.", "speaker": "A"},
        ],
        "words": [
            {"word": "Yes.", "start": 0.0, "end": 0.9, "speaker": "B"},
            {"word": "No.", "start": 1.0, "end": 2.0},
        ],
    }
)


def asked(options: JobOptions, of: int = 1) -> dict[str, str]:
    """What is sent beside what always is."""
    always = {"model", "response_format", "timestamp_granularities[]"}
    return {name: value for name, value in _fields(options, "m", of) if name not in always}


def test_speakers_are_asked_for_and_how_many() -> None:
    assert asked(JobOptions()) == asked(JobOptions(), of=3) == {}
    two = {"diarize": "true", "min_speakers": "2", "max_speakers": "2"}
    assert asked(JobOptions(diarize=True, speaker_count=2)) == two
    assert asked(JobOptions(diarize=True, min_speakers=2, max_speakers=2)) == two
    assert asked(JobOptions(diarize=True, speaker_count=50)) == {"diarize": "true"}


def test_a_part_of_several_tells_voices_and_may_have_fewer_speakers_than_its_recording() -> None:
    told = {"diarize": "true", "include[]": "speaker_embeddings"}
    assert asked(JobOptions(diarize=True), of=2) == told
    assert asked(JobOptions(diarize=True, speaker_count=3), of=2) == told | {"max_speakers": "3"}
    assert asked(JobOptions(diarize=True, min_speakers=3), of=2) == told


def test_whom_the_caller_knows_is_told_with_every_part_and_which_labels_are_names_comes_back() -> None:
    known = (KnownSpeaker("Ada", "data:,1"), KnownSpeaker("Bo", "data:,2"))
    options = JobOptions(diarize=True, known_speakers=known, speaker_count=2)
    pairs = [("known_speaker_names[]", "Ada"), ("known_speaker_references[]", "data:,1")]
    pairs += [("known_speaker_names[]", "Bo"), ("known_speaker_references[]", "data:,2")]
    for of in (1, 2):
        sent = list(_fields(options, "m", of))
        assert [pair for pair in sent if pair[0].startswith("known")] == pairs
        assert ("include[]", "speaker_embeddings") in sent
        assert (("min_speakers", "2") in sent) == (of == 1)


VOICES = [
    {"speaker": "A", "known": True, "seconds": 1.9, "embedding": [0.6, 0.8], "model": "m:00", "same": 0.7},
    {"speaker": "B", "known": False, "seconds": 0.9, "embedding": None, "model": None, "same": None},
]


def test_each_speaker_has_its_own_voice_and_the_name_that_the_caller_knows() -> None:
    told = _Verbose.model_validate(HEARD.model_dump() | {"speaker_embeddings": VOICES})
    made = _transcript(told, Task.TRANSCRIBE)
    assert made.speakers == (Speaker(None, 0.9), Speaker("A", 1.9, Voice((0.6, 0.8), 0.7, "m:00")))


@pytest.mark.parametrize("odd", [{"embedding": [float("nan")]}, {"embedding": "x"}, {"seconds": None}, {"same": "x"}])
def test_a_voice_that_makes_no_sense_is_no_answer_and_quoted_nowhere(odd: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        _Verbose.model_validate(HEARD.model_dump() | {"speaker_embeddings": [VOICES[0] | odd]})
    assert "0.6" not in str(caught.value)


def test_speakers_are_counted_as_they_begin() -> None:
    made = _transcript(HEARD, Task.TRANSCRIBE)
    assert [segment.speaker for segment in made.segments] == [0, 1]
    assert [segment.words[0].speaker for segment in made.segments] == [0, None]
    assert made.speakers == (Speaker(speaking_s=1.0), Speaker(speaking_s=2.0))


def test_nobody_is_there_where_nobody_was_told_apart() -> None:
    plain = HEARD.model_copy(update={"segments": (), "words": ()})
    assert _transcript(plain, Task.TRANSCRIBE).speakers == ()
