"""What is asked of vLLM, and how its answers are read; without a server."""

from __future__ import annotations

import io
import wave
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BackendError
from core.transcript.types import Segment
from engine.backends.vllm.answers import (
    LANGUAGES_FIELDS,
    MAX_WAV_BYTES,
    Report,
    StreamReader,
    form_fields,
    report_from_verbose,
    samples_from_exposition,
    stream_fields,
    timestamp_fields,
    to_wav,
    transcript_from_text,
    transcript_from_verbose,
)
from engine.speech.observer import Sample
from engine.types import Clip, DecodingOptions
from tests.engine.backends.vllm.fake_vllm import DONE, delta, event

CLIP = Clip(start_s=60.0, pcm=bytes(32_000 * 4))


def segment(text: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {
        "id": 0,
        "seek": 0,
        "start": start,
        "end": end,
        "text": text,
        "tokens": [1, 2],
        "temperature": 0.2,
        "avg_logprob": -0.5,
        "compression_ratio": 9.0,
        "no_speech_prob": None,
        **more,
    }


# --- the clip and the fields


@pytest.mark.parametrize("seconds", [0.1, 1, 30])
def test_a_clip_becomes_a_wav_file_that_no_parser_writes_to_disk(seconds: float) -> None:
    pcm = bytes(range(256)) * int(seconds * 125)
    file = to_wav(Clip(0.0, pcm))
    assert len(file) <= MAX_WAV_BYTES == 960_044 < 1 << 20
    with wave.open(io.BytesIO(file)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, 16_000)
        assert read.readframes(read.getnframes()) == pcm


def test_a_clip_that_is_too_long_is_refused() -> None:
    with pytest.raises(BackendError):
        to_wav(Clip(0.0, bytes(960_002)))


def test_the_fields_carry_every_option() -> None:
    options = DecodingOptions(
        "yue", prompt="neon", temperature=0.4, max_tokens=9, sampling={"seed": 3.0, "top_p": 0.5, "top_k": 40.0}
    )
    assert form_fields(options) == {
        "language": "yue",
        "prompt": "neon",
        "temperature": "0.4",
        "max_completion_tokens": "9",
        "seed": "3",
        "top_p": "0.5",
        "top_k": "40",
    }


def test_each_kind_of_request_names_its_kind() -> None:
    options = DecodingOptions("en")
    assert timestamp_fields(options)["response_format"] == LANGUAGES_FIELDS["response_format"] == "verbose_json"
    assert timestamp_fields(options)["hotwords"] != LANGUAGES_FIELDS["hotwords"]
    assert "hotwords" not in stream_fields(options)
    assert stream_fields(options)["stream"] == "true"


# --- whole answers


def test_segments_are_read_and_empty_ones_left_out() -> None:
    answer = {"segments": [segment("", 0.0, 0.0), segment(" one", 0.5, 1.5), segment(" two", 1.5, 2.0)]}
    transcript = transcript_from_verbose(answer, CLIP)
    assert transcript is not None
    assert transcript.text == " one two"
    assert transcript.output_tokens == 4
    first = transcript.segments[0]
    assert (first.start_s, first.end_s, first.tokens, first.temperature) == (0.5, 1.5, (1, 2), 0.2)
    assert first.avg_logprob == -0.5
    assert first.compression_ratio < 1, "of the text as we have it, not as vLLM had it"


def test_times_stay_inside_the_clip() -> None:
    transcript = transcript_from_verbose({"segments": [segment(" a", -1.0, 2.0), segment(" b", 5.0, 6.0)]}, CLIP)
    assert transcript is not None
    assert [(one.start_s, one.end_s) for one in transcript.segments] == [(0.0, 2.0), (4.0, 4.0)]


def test_silence_is_no_text_and_no_reason_to_ask_again() -> None:
    transcript = transcript_from_verbose({"segments": [segment("", 0.0, 0.0)]}, CLIP)
    assert transcript is not None
    assert (transcript.text, transcript.segments) == ("", ())


@pytest.mark.parametrize("segments", [[], None])
def test_an_answer_without_segments_is_not_taken_for_silence(segments: list[Any] | None) -> None:
    assert transcript_from_verbose({"segments": segments, "text": ""}, CLIP) is None


def test_text_without_times_is_one_segment_over_the_clip() -> None:
    transcript = transcript_from_text(" hello", CLIP)
    assert transcript.segments == (Segment(0.0, 4.0, " hello", compression_ratio=6 / 14),)
    assert transcript_from_text(" ", CLIP).segments == ()


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_is_none_becomes_an_unlikely_one(number: float) -> None:
    transcript = transcript_from_verbose({"segments": [segment(" a", 0, 1, avg_logprob=number)]}, CLIP)
    assert transcript is not None
    assert transcript.segments[0].avg_logprob == -100


@pytest.mark.parametrize("missing", ["start", "end", "text", "tokens", "temperature", "avg_logprob"])
def test_a_segment_that_lacks_a_field_is_refused(missing: str) -> None:
    broken = segment(" a", 0, 1)
    del broken[missing]
    with pytest.raises(KeyError):
        transcript_from_verbose({"segments": [broken]}, CLIP)


# --- languages


def test_a_report_of_languages_gives_each_its_probability() -> None:
    answer = {"segments": [segment("<|en|>", 0.0, 18.4), segment("", 1.0, 1.0), segment("<|yue|>", 18.4, 1.0)]}
    report = report_from_verbose(answer)
    assert report.languages == pytest.approx({"en": 0.92, "yue": 0.05})
    assert report.no_speech == 0


@pytest.mark.parametrize("name", ["<|nospeech|>", "<|nocaptions|>"])
def test_a_report_tells_how_likely_there_is_no_speech(name: str) -> None:
    answer = {"segments": [segment(name, 0.0, 16.0), segment("<|en|>", 16.0, 20.0)]}
    assert report_from_verbose(answer) == Report({"en": 1.0}, no_speech=0.8)


@pytest.mark.parametrize("segments", [[], None, [segment(" hello", 0.0, 1.0)], [segment("", 0.0, 1.0)]])
def test_an_answer_that_is_no_report_is_seen(segments: list[Any] | None) -> None:
    with pytest.raises(ValueError, match="report"):
        report_from_verbose({"segments": segments})


# --- streams

TALK = b"".join(
    [
        delta(" hel"),
        delta("lo"),
        delta("", finish_reason="stop", stop_reason=None),
        event(usage={"prompt_tokens": 411, "completion_tokens": 3, "total_tokens": 414}),
        DONE,
    ]
)


def test_the_pieces_of_a_stream_are_its_text() -> None:
    reader = StreamReader(CLIP)
    assert reader.feed(TALK) == [" hel", "lo"]
    transcript = reader.transcript()
    assert transcript.text == " hello"
    assert transcript.output_tokens == 3
    assert transcript.prompt_tokens == 411 - 400 - 4
    assert [(one.start_s, one.end_s, one.text) for one in transcript.segments] == [(0.0, 4.0, " hello")]
    assert reader.complete


def test_a_stream_without_its_last_line_is_not_complete() -> None:
    reader = StreamReader(CLIP)
    reader.feed(TALK.removesuffix(DONE))
    assert not reader.complete


@given(st.lists(st.integers(0, len(TALK)), max_size=9))
def test_a_stream_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    reader = StreamReader(CLIP)
    bounds = [0, *sorted(cuts), len(TALK)]
    assert [piece for start, end in pairwise(bounds) for piece in reader.feed(TALK[start:end])] == [" hel", "lo"]
    assert reader.complete


def test_an_error_in_a_stream_is_raised_without_its_words() -> None:
    with pytest.raises(BackendError) as raised:
        StreamReader(CLIP).feed(b'data: {"error": {"message": "secret words"}}\n')
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("line", [b"data: {}", b"data: 3", b"data: [", b'data: {"choices": [{}]}'])
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        StreamReader(CLIP).feed(line + b"\n")


@given(st.binary(max_size=200).filter(lambda line: not line.strip().startswith(b"data")))
def test_other_lines_of_a_stream_mean_nothing(line: bytes) -> None:
    assert StreamReader(CLIP).feed(line.replace(b"\n", b"") + b"\n") == []


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="so long"):
        StreamReader(CLIP).feed(b"data: " + bytes(1 << 17))


# --- metrics

EXPOSITION = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="nano"} 2.0
vllm:num_requests_running{engine="1",model_name="nano"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="nano"} NaN
vllm:request_success_total{engine="0",finished_reason="stop",model_name="na\\"no"} 7.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="nano"} 1.0
vllm:request_prompt_tokens_bucket{engine="0",le="1.0",model_name="nano"} 5.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="nano"} 1.5e+01
http_requests_total{handler="/v1/audio/transcriptions",method="POST",status="2xx"} 9.0
process_cpu_seconds_total 3
"""


def test_of_the_metrics_only_totals_that_may_be_published_are_read() -> None:
    assert set(samples_from_exposition(EXPOSITION)) == {
        Sample("vllm:num_requests_running", 3.0),
        Sample("vllm:kv_cache_usage_perc", 0.0),
        Sample("vllm:request_success_total", 7.0, "stop"),
        Sample("vllm:request_success_total", 1.0, "abort"),
        Sample("vllm:e2e_request_latency_seconds_sum", 15.0),
    }
