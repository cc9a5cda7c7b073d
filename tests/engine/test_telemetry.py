from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.program.metrics import DURATION_BUCKETS_S
from engine.backends.readings import READ_S
from engine.speech.observer import Observer, Sample
from engine.telemetry import (
    MODEL_SERVER_SERIES,
    PREFIX,
    WINDOW_S,
    AttestationOutcome,
    SpeechMetrics,
    Telemetry,
)
from tests.places import ROOT

LEGAL = re.compile(rf"{PREFIX}(_[a-z0-9]+)+")
DOCUMENT = ROOT / "docs" / "metrics.md"
WRITTEN = re.compile(rf"{PREFIX}_(instruct|summary)_")
"""What is told of summaries, which no recogniser writes."""
SERVER = [Sample(name, 1.0) for name in MODEL_SERVER_SERIES]
"""Everything that a model server may say, once."""

EVENTS: dict[str, Callable[[SpeechMetrics], None]] = {
    "answered": lambda speech: speech.answered("transcriptions", 200),
    "keyed": lambda speech: speech.keyed("started"),
    "text_completed": lambda speech: speech.text_completed("transcriptions", 601.0),
    "fields_ignored": lambda speech: speech.fields_ignored(2),
    "file_heard": lambda speech: speech.file_heard(30.5, left_out_s=4.5, took_s=6.1, output_tokens=5),
    "turn_heard": lambda speech: speech.turn_heard(2.5, waited_s=0.4, output_tokens=3),
    "file_not_decoded": lambda speech: speech.file_not_decoded("unsupported_file"),
    "clip_waited": lambda speech: speech.clip_waited(0.2),
    "clip_heard": lambda speech: speech.clip_heard(),
    "clip_failed": lambda speech: speech.clip_failed(),
    "clip_decoded_again": lambda speech: speech.clip_decoded_again(3),
    "stream_without_fallback": lambda speech: speech.stream_without_fallback(),
    "loop_ended": lambda speech: speech.loop_ended(),
    "first_delta": lambda speech: speech.first_delta(0.1),
}
COUNTED = {
    "answered": {"requests_total": 1},
    "keyed": {"keyed_requests_total": 1},
    "text_completed": {"request_duration_seconds_count": 1, "request_duration_seconds_sum": 601},
    "fields_ignored": {"unknown_fields_total": 2},
    "file_heard": {
        "audio_seconds_total": 30.5,
        "audio_left_out_seconds_total": 4.5,
        "output_tokens_total": 5,
        "real_time_factor_count": 1,
        "real_time_factor_sum": 0.2,
    },
    "turn_heard": {
        "audio_seconds_total": 2.5,
        "output_tokens_total": 3,
        "turn_text_seconds_count": 1,
        "turn_text_seconds_sum": 0.4,
    },
    "file_not_decoded": {"decode_failures_total": 1},
    "clip_waited": {"clip_queue_seconds_count": 1, "clip_queue_seconds_sum": 0.2},
    "clip_heard": {"clips_total": 1},
    "clip_failed": {"clip_failures_total": 1},
    "clip_decoded_again": {"fallbacks_total": 3},
    "stream_without_fallback": {"streams_without_fallback_total": 1},
    "loop_ended": {"loops_ended_total": 1},
    "first_delta": {"first_text_seconds_count": 1, "first_text_seconds_sum": 0.1},
}
"""Each event, and what it adds to which series; buckets are looked at apart."""


def exposed(telemetry: Telemetry) -> list[Metric]:
    return list(text_string_to_metric_families(telemetry.snapshot().exposition().decode()))


def full() -> Telemetry:
    """A telemetry with at least one sample of everything."""
    telemetry = Telemetry("fake")
    for event in EVENTS.values():
        event(telemetry.speech)
    telemetry.summaries.text_written(7, 3)
    telemetry.summaries.summary_failed()
    telemetry.close_window({"nano": SERVER})
    return telemetry


def samples(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name.removeprefix(f"{PREFIX}_"), frozenset(sample.labels.items())): sample.value
        for family in exposed(telemetry)
        for sample in family.samples
    }


def published(telemetry: Telemetry, name: str) -> list[float]:
    return [value for (found, _), value in samples(telemetry).items() if found == name]


def test_what_an_instruct_model_wrote_is_counted() -> None:
    telemetry = full()
    assert published(telemetry, "instruct_texts_total") == published(telemetry, "summary_failures_total") == [1]
    assert sorted(published(telemetry, "instruct_tokens_total")) == [3, 7]


# --- all of them


@pytest.mark.parametrize("family", exposed(full()), ids=lambda family: family.name)
def test_every_metric_has_a_legal_name_and_a_sentence_of_help(family: Metric) -> None:
    assert LEGAL.fullmatch(family.name)
    assert re.fullmatch(r"[A-Z0-9].{10,}\.", family.documentation)


def test_every_metric_is_what_it_was_described_as() -> None:
    telemetry = full()
    telemetry.gateway.refused.labels(reason="replay").inc()
    telemetry.sessions.frames.labels(direction="up").inc()
    telemetry.sessions.ended.labels(reason="app").inc()
    telemetry.close_window({"nano": SERVER})
    described = [*telemetry.live.described, *telemetry.windowed.described]
    described += [series.described for series in MODEL_SERVER_SERIES.values()]
    assert {metric.name: (metric.kind, metric.labels, metric.meaning) for metric in described} == {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            tuple(label for label in family.samples[0].labels if label != "le"),
            family.documentation,
        )
        for family in exposed(telemetry)
    }


def test_the_docs_name_the_window() -> None:
    assert WINDOW_S >= 60
    assert f"in windows of {WINDOW_S:.0f} s" in DOCUMENT.read_text()


def test_the_docs_say_how_long_a_model_server_is_waited_for() -> None:
    assert f"does not answer within {READ_S:.0f} s" in DOCUMENT.read_text()


def test_what_an_alert_waits_for_begins_at_zero() -> None:
    assert published(Telemetry("fake"), "attestations_total") == [0.0] * len(AttestationOutcome)


def test_no_metric_is_in_both_registries() -> None:
    telemetry = Telemetry("fake")
    live, windowed = (
        {family.name for family in metrics.registry.collect()} for metrics in (telemetry.live, telemetry.windowed)
    )
    assert not live & windowed


def test_what_is_live_is_what_is_seen_from_outside_anyway() -> None:
    assert {family.name.removeprefix(f"{PREFIX}_") for family in Telemetry("fake").live.registry.collect()} == {
        "attestations",
        "backend_ready",
        "build_info",
        "envelopes_refused",
        "insecure_evidence",
        "instruct_model_ready",
        "key_expiry_timestamp_seconds",
        "live_frames",
        "live_sessions",
        "received_bytes",
        "requests_in_flight",
    }


def test_every_series_of_speech_names_its_backend() -> None:
    telemetry = full()
    heard = [family for family in telemetry.windowed.registry.collect() if not WRITTEN.match(family.name)]
    found = [sample for family in heard for sample in family.samples]
    assert {sample.labels["backend"] for sample in found} == {"fake"}


def test_every_duration_is_told_apart_beyond_ten_minutes() -> None:
    assert max(DURATION_BUCKETS_S) > 600
    assert 600 in DURATION_BUCKETS_S
    histograms = [family for family in full().windowed.registry.collect() if family.type == "histogram"]
    durations = [family for family in histograms if family.name.endswith("_seconds")]
    assert len(durations) == 4
    for family in durations:
        bounds = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        assert bounds == {*DURATION_BUCKETS_S, float("inf")}


def test_no_metric_tells_when_it_was_first_counted() -> None:
    assert b"_created" not in full().snapshot().exposition()


def test_two_engines_in_one_process_count_apart() -> None:
    first, second = Telemetry("fake"), Telemetry("fake")
    first.gateway.received_bytes.inc(5)
    assert published(second, "received_bytes_total") == [0.0]


# --- what is counted, and when it shows


def test_the_events_are_all_there_are() -> None:
    methods = {name for name, _ in inspect.getmembers(SpeechMetrics, inspect.isfunction) if not name.startswith("_")}
    assert methods == EVENTS.keys() == COUNTED.keys()
    observed = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")}
    assert observed < methods


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_shows_in_its_own_series_and_only_when_the_window_closes(name: str) -> None:
    telemetry = Telemetry("fake")
    before, text = samples(telemetry), telemetry.snapshot().exposition()
    EVENTS[name](telemetry.speech)
    assert telemetry.snapshot().exposition() == text
    telemetry.close_window()
    after = samples(telemetry)
    added = {series: value - before.get(series, 0.0) for series, value in after.items()}
    sums: dict[str, float] = {}
    for (series, _), value in added.items():
        if value and not series.endswith("_bucket"):
            sums[series] = sums.get(series, 0.0) + value
    assert sums == pytest.approx(COUNTED[name])


def test_a_file_without_audio_has_no_real_time_factor() -> None:
    telemetry = Telemetry("fake")
    telemetry.speech.file_heard(0.0, left_out_s=0.0, took_s=1.0, output_tokens=0)
    telemetry.close_window()
    assert published(telemetry, "real_time_factor_count") == [0.0]


def test_what_is_seen_from_outside_anyway_shows_at_once() -> None:
    telemetry = Telemetry("fake")
    telemetry.gateway.refused.labels(reason="replay").inc()
    assert published(telemetry, "envelopes_refused_total") == [1.0]


# --- what a model server says of itself


def told(*said: Sample, model: str = "nano") -> Telemetry:
    telemetry = Telemetry("vllm")
    telemetry.close_window({model: said})
    return telemetry


def test_every_series_of_a_model_server_has_a_name_of_its_own() -> None:
    names = [series.name for series in MODEL_SERVER_SERIES.values()]
    assert len(set(names)) == len(names)
    assert all(name.startswith("vllm_") for name in names)


def test_a_servers_series_has_our_name_and_its_model() -> None:
    telemetry = told(Sample("vllm:num_preemptions_total", 3.0), Sample("vllm:kv_cache_usage_perc", 0.25))
    found = samples(telemetry)
    assert found["vllm_preemptions_total", frozenset({("model", "nano")})] == 3.0
    assert found["vllm_kv_cache_usage_ratio", frozenset({("model", "nano")})] == 0.25
    assert b"vllm:" not in telemetry.snapshot().exposition()


def test_a_series_off_the_list_is_not_published() -> None:
    before = Telemetry("vllm").snapshot().exposition()
    assert told(Sample("vllm:secret_total", 3.0)).snapshot().exposition() == before


def test_reasons_are_vllms_own_words_or_other() -> None:
    ends = [("stop", 4.0), ("length", 1.0), ("canary", 2.0), ("", 1.0)]
    telemetry = told(*(Sample("vllm:request_success_total", value, reason) for reason, value in ends))
    found = {
        dict(labels)["reason"]: value
        for (name, labels), value in samples(telemetry).items()
        if name == "vllm_requests_ended_total"
    }
    assert found == {"stop": 4.0, "length": 1.0, "other": 3.0}
    assert b"canary" not in telemetry.snapshot().exposition()


def test_a_reason_makes_no_series_of_its_own_elsewhere() -> None:
    telemetry = told(Sample("vllm:num_preemptions_total", 3.0, "canary"), Sample("vllm:num_preemptions_total", 1.0))
    assert published(telemetry, "vllm_preemptions_total") == [4.0]
    assert b"canary" not in telemetry.snapshot().exposition()


def test_servers_of_several_models_are_kept_apart() -> None:
    telemetry = Telemetry("vllm")
    readings: dict[str, Iterable[Sample]] = {
        name: [Sample("vllm:prompt_tokens_total", count)] for name, count in (("a", 1.0), ("b", 2.0))
    }
    telemetry.close_window(readings)
    assert sorted(published(telemetry, "vllm_prompt_tokens_total")) == [1.0, 2.0]


def test_a_server_that_says_nothing_is_absent_and_not_as_it_last_was() -> None:
    telemetry = told(*SERVER)
    assert published(telemetry, "vllm_requests_running") == [1.0]
    telemetry.close_window()
    assert b"vllm_" not in telemetry.snapshot().exposition()
