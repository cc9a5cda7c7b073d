"""The five formats byte for byte, and what no transcript may break: times, cues and JSON."""

from __future__ import annotations

import json
import re
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import BaseModel
from openai.types.audio import (
    Transcription as SdkTranscription,
)
from openai.types.audio import (
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

from core.transcript.captions import milliseconds
from core.transcript.types import Segment, Task, TokenLogprob, Transcript, Word
from engine.openai.formats import render
from engine.openai.rendering import Granularity, Rendering, ResponseFormat
from tests.engine.openai.forms import SPOKEN, transcription

M = TypeVar("M", bound=BaseModel)

CONTENT_TYPE = {
    ResponseFormat.JSON: "application/json",
    ResponseFormat.TEXT: "text/plain; charset=utf-8",
    ResponseFormat.SRT: "text/plain; charset=utf-8",
    ResponseFormat.VERBOSE_JSON: "application/json",
    ResponseFormat.VTT: "text/vtt; charset=utf-8",
    ResponseFormat.DIARIZED_JSON: "application/json",
}


def rendered(spoken: Transcript, kind: ResponseFormat, *granularities: Granularity, logprobs: bool = False) -> bytes:
    answer = render(spoken, Rendering(kind, frozenset(granularities or {Granularity.SEGMENT}), logprobs=logprobs))
    assert answer.content_type == CONTENT_TYPE[kind]
    return answer.body


def verbose(spoken: Transcript, *granularities: Granularity) -> dict[str, object]:
    body = json.loads(rendered(spoken, ResponseFormat.VERBOSE_JSON, *granularities))
    assert isinstance(body, dict)
    return body


def strictly(model: type[M], body: bytes) -> M:
    return model.model_validate_json(body, strict=True)


@pytest.mark.parametrize("kind", ResponseFormat)
def test_every_format_is_written(kind: ResponseFormat) -> None:
    rendered(SPOKEN, kind)


def test_json_byte_for_byte() -> None:
    body = rendered(SPOKEN, ResponseFormat.JSON)
    assert body == (
        b'{"text":"Hello there. Good bye.","languages":[{"code":"en"}],"usage":{"type":"duration","seconds":9}}'
    )
    parsed = strictly(SdkTranscription, body)
    assert [language.code for language in parsed.languages or ()] == ["en"]
    usage = parsed.usage
    assert usage is not None
    assert usage.type == "duration"
    assert usage.seconds == 9


def test_json_with_logprobs() -> None:
    body = rendered(SPOKEN, ResponseFormat.JSON, logprobs=True)
    assert json.loads(body)["logprobs"] == [{"token": " Hé", "logprob": -0.25, "bytes": [32, 72, 195, 169]}]
    parsed = strictly(SdkTranscription, body)
    assert parsed.logprobs is not None
    assert parsed.logprobs[0].token == " Hé"


def test_text_byte_for_byte() -> None:
    assert rendered(SPOKEN, ResponseFormat.TEXT) == b"Hello there. Good bye.\n"
    assert rendered(transcription(text=" Zoë "), ResponseFormat.TEXT) == "Zoë\n".encode()


def test_srt_byte_for_byte() -> None:
    assert rendered(SPOKEN, ResponseFormat.SRT) == (
        b"1\n00:00:00,000 --> 00:00:03,320\nHello there.\n\n2\n00:00:03,320 --> 00:00:08,400\nGood bye.\n\n"
    )


def test_vtt_byte_for_byte() -> None:
    assert rendered(SPOKEN, ResponseFormat.VTT) == (
        b"WEBVTT\n\n00:00:00.000 --> 00:00:03.320\nHello there.\n\n00:00:03.320 --> 00:00:08.400\nGood bye.\n\n"
    )


def test_verbose_json_byte_for_byte() -> None:
    assert rendered(SPOKEN, ResponseFormat.VERBOSE_JSON, Granularity.WORD, Granularity.SEGMENT) == (
        b'{"task":"transcribe","language":"english","language_code":"en","duration":8.47,'
        b'"text":"Hello there. Good bye.","segments":['
        b'{"id":0,"seek":0,"start":0.0,"end":3.32,"text":" Hello there.","tokens":[50364,2425,456],"temperature":0.0,'
        b'"avg_logprob":-0.25,"compression_ratio":1.5,"no_speech_prob":0.125},'
        b'{"id":1,"seek":332,"start":3.32,"end":8.4,"text":" Good bye.","tokens":[2205],"temperature":0.2,'
        b'"avg_logprob":0.0,"compression_ratio":1.0,"no_speech_prob":0.0}],"words":['
        b'{"word":"Hello","start":0.0,"end":1.5},{"word":"there.","start":1.5,"end":3.32},'
        b'{"word":"Good bye.","start":3.4,"end":8.4}],"usage":{"type":"duration","seconds":9}}'
    )


@pytest.mark.parametrize(
    ("granularities", "keys"),
    [
        ([], {"segments"}),
        ([Granularity.SEGMENT], {"segments"}),
        ([Granularity.WORD], {"words"}),
        ([Granularity.WORD, Granularity.SEGMENT], {"words", "segments"}),
    ],
)
def test_segments_and_words_are_there_only_when_asked_for(granularities: list[Granularity], keys: set[str]) -> None:
    body = verbose(SPOKEN, *granularities)
    assert body.keys() & {"words", "segments"} == keys
    parsed = strictly(TranscriptionVerbose, json.dumps(body).encode())
    assert parsed.duration == 8.47
    assert parsed.language == "english"
    assert (parsed.words is not None) is ("words" in keys)


def test_a_file_without_speech_is_empty_in_every_format() -> None:
    silence = transcription(text="", duration_s=2.0)
    assert rendered(silence, ResponseFormat.JSON) == (
        b'{"text":"","languages":[],"usage":{"type":"duration","seconds":2}}'
    )
    assert rendered(silence, ResponseFormat.TEXT) == b"\n"
    assert rendered(silence, ResponseFormat.SRT) == b""
    assert rendered(silence, ResponseFormat.VTT) == b"WEBVTT\n\n"
    assert verbose(silence, *Granularity) | {"segments": [], "words": [], "text": ""} == verbose(silence, *Granularity)


def test_a_translation_is_english_and_has_no_usage() -> None:
    spoken = Transcript(Task.TRANSLATE, "de", 3.0, " Hi.", (Segment(0.0, 3.0, " Hi."),))
    body = rendered(spoken, ResponseFormat.JSON)
    assert body == b'{"text":"Hi."}'
    assert strictly(Translation, body).text == "Hi."
    long = verbose(spoken)
    assert (long["task"], long["language"], long["language_code"]) == ("translate", "english", "en")
    assert "usage" not in long
    assert strictly(TranslationVerbose, json.dumps(long).encode()).language == "english"


@pytest.mark.parametrize(("code", "name"), [("yue", "cantonese"), ("haw", "hawaiian"), ("jw", "javanese")])
def test_the_language_is_named_in_english_with_its_code_beside_it(code: str, name: str) -> None:
    body = verbose(Transcript(Task.TRANSCRIBE, code, 1.0, "a", ()))
    assert (body["language"], body["language_code"]) == (name, code)


@pytest.mark.parametrize(
    ("duration_s", "seconds"), [(0.0, 0), (0.1, 1), (8.0, 8), (8.0000001, 8), (8.001, 9), (3600.5, 3601)]
)
def test_usage_is_the_duration_in_whole_seconds_rounded_up(duration_s: float, seconds: int) -> None:
    body = json.loads(rendered(transcription(text="", duration_s=duration_s), ResponseFormat.JSON))
    assert body["usage"]["seconds"] == seconds


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0.0, "00:00:00,000"),
        (0.0005, "00:00:00,001"),
        (59.9994, "00:00:59,999"),
        (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (359999.9999, "100:00:00,000"),
    ],
)
def test_a_time_is_rounded_to_milliseconds_with_carry(seconds: float, stamp: str) -> None:
    body = rendered(transcription(Segment(seconds, seconds + 1, "a")), ResponseFormat.SRT).decode()
    assert body.split("\n")[1].startswith(f"{stamp} --> ")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), float("-inf"), -0.0])
def test_a_time_that_is_none_counts_as_the_start(seconds: float) -> None:
    assert milliseconds(seconds) == 0


@pytest.mark.parametrize(
    ("text", "srt", "vtt"),
    [
        ("a --> b", "a -> b", "a -> b"),
        ("a ----> b", "a -> b", "a -> b"),
        ("a <b> & c", "a <b> & c", "a &lt;b> &amp; c"),
        ("a\n\nb\r\nc\x0bd\u2028e\x85f\x00g", "a b c d e f g", "a b c d e f g"),
        (
            " 1\n00:00:00,000 --> 00:00:01,000\nb",
            "1 00:00:00,000 -> 00:00:01,000 b",
            "1 00:00:00,000 -> 00:00:01,000 b",
        ),
        ("日本\u3000語", "日本\u3000語", "日本\u3000語"),
        ("a \ud800 b", "a ? b", "a ? b"),
        ("&amp; <c>", "&amp; <c>", "&amp;amp; &lt;c>"),
    ],
)
def test_cue_text_is_one_line_that_no_reader_mistakes(text: str, srt: str, vtt: str) -> None:
    spoken = transcription(Segment(0.0, 1.0, text))
    assert rendered(spoken, ResponseFormat.SRT).decode() == f"1\n00:00:00,000 --> 00:00:01,000\n{srt}\n\n"
    assert rendered(spoken, ResponseFormat.VTT).decode() == f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{vtt}\n\n"


def test_empty_segments_get_no_cue_no_number_and_no_id() -> None:
    spoken = transcription(
        *(Segment(0.0, 1.0, " "), Segment(1.0, 2.0, "a"), Segment(2.0, 3.0, "\n\x00"), Segment(3.0, 4.0, "b"))
    )
    srt = rendered(spoken, ResponseFormat.SRT)
    assert srt == b"1\n00:00:01,000 --> 00:00:02,000\na\n\n2\n00:00:03,000 --> 00:00:04,000\nb\n\n"


def test_a_cue_ends_where_the_next_begins() -> None:
    spoken = transcription(
        Segment(0.0, 5.0, "a"), Segment(4.0, 8.0, "b"), Segment(6.0, 6.0, "c"), Segment(2.0, 1.0, "d")
    )
    times = re.findall(rb"(\S+) --> (\S+)", rendered(spoken, ResponseFormat.VTT))
    assert times == [
        (b"00:00:00.000", b"00:00:04.000"),
        (b"00:00:04.000", b"00:00:06.000"),
        (b"00:00:06.000", b"00:00:06.001"),
        (b"00:00:06.001", b"00:00:06.002"),
    ]


def test_words_without_text_are_left_out_and_others_stripped() -> None:
    words = (Word(" a ", 0.0, 0.5), Word(" ", 0.5, 0.6), Word("b", 0.6, 0.7004))
    body = verbose(transcription(Segment(0.0, 1.0, "a b", words=words)), Granularity.WORD)
    assert body["words"] == [{"word": "a", "start": 0.0, "end": 0.5}, {"word": "b", "start": 0.6, "end": 0.7}]


def test_figures_that_json_has_no_number_for_are_bounded() -> None:
    infinite, none = float("-inf"), float("nan")
    segment = Segment(0.0, infinite, "a", avg_logprob=infinite, compression_ratio=none, no_speech_prob=none)
    body = verbose(transcription(segment))
    assert body["segments"] == [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 0.0,
            "text": "a",
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": -9999.0,
            "compression_ratio": 0.0,
            "no_speech_prob": 0.0,
        }
    ]
    spoken = Transcript(Task.TRANSCRIBE, "en", 1.0, "a", (), logprobs=(TokenLogprob("\udcff", infinite),))
    body = json.loads(rendered(spoken, ResponseFormat.JSON, logprobs=True))
    assert body["logprobs"] == [{"token": "?", "logprob": -9999.0, "bytes": [63]}]


texts = st.text(st.characters() | st.sampled_from("-><&\n\r\x00\x85\u2028 "), max_size=20)
times = st.floats(-1, 500_000) | st.sampled_from([59.9995, 59.9996, 3599.9999, float("nan"), float("inf")])
spoken_files = st.lists(st.builds(Segment, times, times, texts), max_size=6).map(
    lambda segments: transcription(*segments)
)
TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)([.,])(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)\4(\d{3})")


def cues(blocks: list[str], mark: str) -> list[str]:
    """The texts of `blocks`; fails unless each is well-formed, lasts, and begins no earlier than the last ended."""
    clock, found = 0, []
    for block in blocks:
        line, text = block.split("\n")
        match = TIMES.fullmatch(line)
        assert match is not None
        assert match[4] == mark
        h, m, s, ms, h2, m2, s2, ms2 = (int(group) for group in match.groups() if group not in ".,")
        start, end = ((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2
        assert clock <= start < end
        clock = end
        assert text.strip()
        assert "-->" not in text
        found.append(text)
    return found


@given(spoken_files)
def test_any_transcription_is_well_formed_srt_and_vtt(spoken: Transcript) -> None:
    srt = rendered(spoken, ResponseFormat.SRT).decode().split("\n\n")
    vtt = rendered(spoken, ResponseFormat.VTT).decode().split("\n\n")
    assert vtt[0] == "WEBVTT"
    assert srt[-1] == vtt[-1] == ""
    numbered = [block.partition("\n") for block in srt[:-1]]
    assert [number for number, _, _ in numbered] == [str(i) for i in range(1, len(numbered) + 1)]
    in_srt, in_vtt = cues([block for _, _, block in numbered], ","), cues(vtt[1:-1], ".")
    assert [text.replace("&lt;", "<").replace("&amp;", "&") for text in in_vtt] == in_srt
    assert not any(re.search(r"&(?!amp;|lt;)|<", text) for text in in_vtt)


@given(spoken_files)
def test_any_transcription_is_what_the_sdk_expects(spoken: Transcript) -> None:
    strictly(SdkTranscription, rendered(spoken, ResponseFormat.JSON))
    parsed = strictly(TranscriptionVerbose, rendered(spoken, ResponseFormat.VERBOSE_JSON, *Granularity))
    assert [segment.id for segment in parsed.segments or ()] == list(range(len(parsed.segments or ())))
