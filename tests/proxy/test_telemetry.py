"""Every metric says what it is, and no label can grow."""

from __future__ import annotations

import pytest
from prometheus_client import Metric

from proxy.engines.trust import Outcome, Reason
from proxy.errors import ErrorCode
from proxy.telemetry import PREFIX, Telemetry

LABELS = {"status", "code", "outcome", "reason", "version", "check", "engine", "le"}

METRICS = list(Telemetry().registry.collect())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_the_prefix_and_a_help_text(metric: Metric) -> None:
    assert metric.name.startswith(f"{PREFIX}_")
    assert metric.documentation.endswith(".")
    assert len(metric.documentation) > 10


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_are_closed_sets(metric: Metric) -> None:
    assert {label for sample in metric.samples for label in sample.labels} <= LABELS


def test_no_metric_tells_when_it_was_first_counted() -> None:
    telemetry = Telemetry()
    telemetry.answered(200)
    assert b"_created" not in telemetry.snapshot().exposition()


def test_what_an_alert_waits_for_begins_at_zero() -> None:
    telemetry = Telemetry()
    telemetry.will_verify(Outcome, Reason)
    names: dict[str, list[dict[str, str]]] = {
        "errors_total": [{"code": code} for code in ErrorCode],
        "attestation_verifications_total": [{"outcome": outcome} for outcome in Outcome],
        "attestation_reverifications_total": [{"reason": reason} for reason in Reason],
    }
    for name, series in names.items():
        assert [telemetry.registry.get_sample_value(f"{PREFIX}_{name}", labels) for labels in series] == [0] * len(
            series
        )


def test_a_refusal_is_counted_by_the_first_check_that_failed() -> None:
    telemetry = Telemetry()
    telemetry.verified("refused", "scheduled", "snp measurement")
    telemetry.verified("accepted", "scheduled", None)
    name = f"{PREFIX}_attestation_failures_total"
    assert telemetry.registry.get_sample_value(name, {"check": "snp measurement"}) == 1


def test_only_the_first_event_is_timed() -> None:
    telemetry = Telemetry()
    left = telemetry.first_event_clock()
    left()
    left()
    assert telemetry.registry.get_sample_value(f"{PREFIX}_first_event_seconds_count") == 1


def test_a_request_in_flight_is_counted_while_it_is() -> None:
    telemetry = Telemetry()
    name = f"{PREFIX}_requests_in_flight"
    with telemetry.request():
        assert telemetry.registry.get_sample_value(name) == 1
    assert telemetry.registry.get_sample_value(name) == 0


def test_two_proxies_in_one_process_count_for_themselves() -> None:
    first, second = Telemetry(), Telemetry()
    first.answered(200)
    assert second.registry.get_sample_value(f"{PREFIX}_requests_total", {"status": "200"}) is None
