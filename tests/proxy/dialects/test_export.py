"""Captions and text, to the byte; and the knobs that a query may turn."""

from __future__ import annotations

import pytest

from core.transcript.types import Segment, Task, Transcript
from proxy.dialects.export import Export, ExportError, Format, Speakers, export, parse_export
from proxy.dialects.segmentation import Segmentation
from tests.proxy.dialects.test_segmentation import spoken


def transcript(*segments: Segment) -> Transcript:
    text = " ".join(segment.text for segment in segments)
    return Transcript(Task.TRANSCRIBE, "en", 10.0, text, segments)


ALONE = transcript(spoken("Hello, thanks for joining. Yes & <no> indeed."))
TWO = transcript(
    spoken("Hello there, friend.", speaker=0),
    spoken("Hi.", start_s=2, speaker=1),
    spoken("So it is.", start_s=3, speaker=1),
)


def made(of: Transcript, **query: str) -> str:
    return export(of, parse_export(query))


def test_subrip_is_written_to_the_byte() -> None:
    assert made(ALONE, format="srt") == (
        "1\n00:00:00,000 --> 00:00:02,000\nHello, thanks for joining.\n\n"
        "2\n00:00:02,000 --> 00:00:04,000\nYes & <no> indeed.\n\n"
    )


def test_webvtt_is_written_to_the_byte_and_escaped() -> None:
    assert made(ALONE, format="vtt", max_words="3") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nHello, thanks for\n\n"
        "00:00:01.500 --> 00:00:02.000\njoining.\n\n"
        "00:00:02.000 --> 00:00:03.500\nYes &amp; &lt;no&gt;\n\n"
        "00:00:03.500 --> 00:00:04.000\nindeed.\n\n"
    )


def test_subrip_names_each_speaker_where_there_is_more_than_one() -> None:
    assert made(TWO, format="srt").splitlines()[2] == "SPEAKER 1: Hello there, friend."
    assert "SPEAKER 2: Hi." in made(TWO, format="srt")


def test_webvtt_has_voice_tags() -> None:
    assert "<v SPEAKER 1>Hello there, friend.</v>" in made(TWO, format="vtt")


def test_text_has_a_turn_to_a_paragraph() -> None:
    assert made(TWO, format="text") == "SPEAKER 1: Hello there, friend.\n\nSPEAKER 2: Hi. So it is.\n"


def test_text_with_a_knob_has_a_cue_to_a_line() -> None:
    assert made(TWO, format="text", max_words="2", include_speakers="false") == (
        "Hello there,\nfriend.\n\nHi.\nSo it\nis.\n"
    )


def test_text_of_a_job_that_tells_nobody_apart_is_one_paragraph() -> None:
    assert made(ALONE, format="text") == "Hello, thanks for joining. Yes & <no> indeed.\n"


def test_text_of_silence_is_empty() -> None:
    assert made(transcript(), format="text") == ""


def test_one_speaker_is_named_only_where_asked() -> None:
    one = transcript(spoken("Hello.", speaker=0))
    assert made(one, format="text") == "Hello.\n"
    assert made(one, format="text", include_speakers="true") == "SPEAKER 1: Hello.\n"


def test_nobody_is_named_where_nobody_was_told_apart() -> None:
    assert made(ALONE, format="srt", include_speakers="true") == made(ALONE, format="srt")


def test_the_examples_of_the_document_work() -> None:
    short = made(TWO, format="srt", max_words="3", max_duration="3", sentence_aware="false")
    assert short.splitlines()[2] == "SPEAKER 1: Hello there, friend."
    assert short.splitlines()[6] == "SPEAKER 2: Hi. So it"
    assert "<v SPEAKER 1>Hello there friend</v>" in made(TWO, format="vtt", include_speakers="true", strip_chars=",.")
    assert made(TWO, format="text", include_speakers="false") == "Hello there, friend.\n\nHi. So it is.\n"


def test_all_parameters_are_read() -> None:
    query = {
        "format": "vtt",
        "max_words": "50",
        "max_chars": "10",
        "max_duration": "60",
        "sentence_aware": "false",
        "include_speakers": "auto",
        "strip_chars": ",.",
    }
    rules = Segmentation(50, 10, 60, sentence_aware=False, strip_chars=",.")
    assert parse_export(query) == Export(Format.VTT, rules, Speakers.AUTO, is_cut=True)


def test_json_is_the_default_and_looks_at_nothing_else() -> None:
    assert parse_export({}) == Export(Format.JSON)
    assert parse_export({"max_words": "0", "strip_chars": "x" * 99}) == Export(Format.JSON)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "docx"),
        ("format", ""),
        ("max_words", "0"),
        ("max_words", "51"),
        ("max_words", "4.0"),
        ("max_words", "²"),
        ("max_chars", "9"),
        ("max_chars", "501"),
        ("max_duration", "0"),
        ("max_duration", "61"),
        ("max_duration", "2.5"),
        ("sentence_aware", "yes"),
        ("include_speakers", "some"),
        ("strip_chars", "x" * 33),
    ],
)
def test_what_is_out_of_range_is_refused_by_name_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ExportError) as caught:
        parse_export({"format": "srt", name: value})
    assert caught.value.name == name
    assert name in str(caught.value)


@pytest.mark.parametrize(("name", "values"), [("max_words", "1 50"), ("max_chars", "10 500"), ("max_duration", "1 60")])
def test_the_ends_of_each_range_are_allowed(name: str, values: str) -> None:
    for value in values.split():
        parse_export({"format": "srt", name: value})


def test_cues_of_a_job_without_word_times_are_cut_at_segments() -> None:
    plain = transcript(Segment(0, 1, "One two three four five six."), Segment(1, 2, "Seven."))
    assert made(plain, format="srt").count("-->") == 2
