"""Every metric says what it is, and no label can grow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import Metric

from proxy.telemetry import DURATION_BUCKETS_S, PREFIX, Telemetry

LABELS = {"status", "code", "outcome", "reason", "version", "check", "le"}

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"

METRICS = list(Telemetry().registry.collect())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_the_prefix_and_a_help_text(metric: Metric) -> None:
    assert metric.name.startswith(f"{PREFIX}_")
    assert metric.documentation.endswith(".")
    assert len(metric.documentation) > 10


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_are_closed_sets(metric: Metric) -> None:
    assert {label for sample in metric.samples for label in sample.labels} <= LABELS


def test_every_metric_has_its_line_in_the_docs_and_no_other_has() -> None:
    rows = re.findall(r"^\| `(sottovoce_proxy_\w+)` \| (\w+) \| [^|]* \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [
        (f"{metric.name}_total" if metric.type == "counter" else metric.name, metric.type, metric.documentation)
        for metric in METRICS
    ]


def test_a_refusal_is_counted_by_the_first_check_that_failed() -> None:
    telemetry = Telemetry()
    telemetry.verified("refused", "scheduled", "snp measurement")
    telemetry.verified("accepted", "scheduled", None)
    name = f"{PREFIX}_attestation_failures_total"
    assert telemetry.registry.get_sample_value(name, {"check": "snp measurement"}) == 1


def test_buckets_reach_beyond_ten_minutes() -> None:
    assert max(DURATION_BUCKETS_S) > 600


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
