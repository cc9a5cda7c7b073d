from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from engine.speech.observer import Observer
from engine.telemetry import PREFIX, Telemetry

LEGAL = re.compile(rf"{PREFIX}(_[a-z0-9]+)+")


def families() -> list[Metric]:
    telemetry = Telemetry()
    return [*telemetry.live.collect(), *telemetry.windowed.collect()]


def published(telemetry: Telemetry, name: str) -> list[float]:
    text = telemetry.exposition().decode()
    families = text_string_to_metric_families(text)
    return [sample.value for family in families for sample in family.samples if sample.name == f"{PREFIX}_{name}"]


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_metric_has_a_legal_name_and_a_sentence_of_help(family: Metric) -> None:
    assert LEGAL.fullmatch(family.name)
    assert re.fullmatch(r"[A-Z0-9].{10,}\.", family.documentation)


def test_the_exposition_holds_every_metric_and_can_be_parsed() -> None:
    parsed = {family.name for family in text_string_to_metric_families(Telemetry().exposition().decode())}
    assert parsed == {family.name for family in families()}


def test_no_metric_is_in_both_registries() -> None:
    telemetry = Telemetry()
    live, windowed = (
        {family.name for family in registry.collect()} for registry in (telemetry.live, telemetry.windowed)
    )
    assert not live & windowed


def test_a_scrape_within_a_window_shows_nothing_new_of_what_was_said() -> None:
    telemetry = Telemetry()
    before = telemetry.exposition()
    speech = telemetry.speech
    speech.requests.labels(endpoint="transcriptions", status="200").inc()
    speech.duration.labels(endpoint="transcriptions").observe(1.5)
    speech.unknown_fields.inc()
    speech.output_tokens.inc(5)
    speech.file_heard(30.5)
    speech.clip_heard(30.0)
    speech.clip_decoded_again(2)
    speech.loop_ended()
    speech.first_delta(0.1)
    assert telemetry.exposition() == before
    telemetry.close_window()
    assert published(telemetry, "audio_seconds_total") == [30.5]
    assert published(telemetry, "requests_total") == [1.0]
    after = telemetry.exposition()
    speech.file_heard(1.0)
    assert telemetry.exposition() == after


def test_every_metric_of_what_was_said_is_windowed() -> None:
    telemetry = Telemetry()
    registries = (telemetry.live, telemetry.windowed)
    live, windowed = ({family.name for family in registry.collect()} for registry in registries)
    named = {f"{PREFIX}_{name}" for name in ("audio_seconds", "output_tokens", "request_duration_seconds", "requests")}
    assert named <= windowed
    assert {name.removeprefix(f"{PREFIX}_") for name in live} == {
        "attestations",
        "backend_ready",
        "envelopes_refused",
        "insecure_evidence",
        "key_expiry_timestamp_seconds",
        "received_bytes",
        "requests_in_flight",
    }


def test_what_is_seen_from_outside_anyway_is_live() -> None:
    telemetry = Telemetry()
    telemetry.gateway.refused.labels(reason="replay").inc()
    assert published(telemetry, "envelopes_refused_total") == [1.0]


def test_no_metric_tells_when_it_was_first_counted() -> None:
    telemetry = Telemetry()
    telemetry.speech.requests.labels(endpoint="transcriptions", status="400").inc()
    telemetry.close_window()
    assert b"_created" not in telemetry.exposition()


def test_two_engines_in_one_process_count_apart() -> None:
    first, second = Telemetry(), Telemetry()
    first.gateway.received_bytes.inc(5)
    assert published(second, "received_bytes_total") == [0.0]


def test_the_pipeline_reports_to_the_speech_metrics() -> None:
    telemetry = Telemetry()
    observer: Observer = telemetry.speech
    observer.clip_decoded_again(3)
    telemetry.close_window()
    assert published(telemetry, "fallbacks_total") == [3.0]
    assert isinstance(telemetry.windowed, CollectorRegistry)
