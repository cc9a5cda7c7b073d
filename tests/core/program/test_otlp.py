"""What a collector reads is what a scrape shows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from core.program.metrics import Registry
from core.program.otlp import Source, encode_metrics, encode_spans
from core.program.spans import Span
from tests.core.program.collector import named

SOURCE = Source("ours", "1.2", "0123", began_ns=5)


def decoded(metrics: Registry) -> dict[str, otlp.Metric]:
    request = ExportMetricsServiceRequest.FromString(encode_metrics(metrics.snapshot(), SOURCE, now_ns=9))
    (of_source,) = request.resource_metrics
    assert named(list(of_source.resource.attributes)) == {
        "service.name": "ours",
        "service.version": "1.2",
        "service.instance.id": "0123",
    }
    (scoped,) = of_source.scope_metrics
    return {metric.name: metric for metric in scoped.metrics}


def test_a_counter_is_a_sum_since_the_beginning() -> None:
    metrics = Registry("ours")
    metrics.counter("errors_total", "Errors.", "code").labels(code="full").inc(3)
    metric = decoded(metrics)["ours_errors_total"]
    assert metric.description == "Errors."
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.sum.data_points
    assert (point.as_double, point.start_time_unix_nano, point.time_unix_nano) == (3.0, 5, 9)
    assert named(list(point.attributes)) == {"code": "full"}


def test_a_gauge_is_what_it_is_now() -> None:
    metrics = Registry("ours")
    metrics.gauge("ready", "Ready.").set(0.5)
    (point,) = decoded(metrics)["ours_ready"].gauge.data_points
    assert (point.as_double, point.time_unix_nano) == (0.5, 9)


def test_what_has_counted_nothing_yet_is_left_out() -> None:
    metrics = Registry("ours")
    metrics.counter("errors_total", "Errors.", "code")
    assert decoded(metrics) == {}


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.floats(0, 20), min_size=1, max_size=20), min_size=1))
def test_a_histogram_counts_what_lies_between_its_bounds(observed: dict[str, list[float]]) -> None:
    metrics = Registry("ours")
    histogram = metrics.histogram("wait_seconds", "Waiting.", "kind", buckets=[1, 5, 10])
    for kind, values in observed.items():
        for value in values:
            histogram.labels(kind=kind).observe(value)
    points = decoded(metrics)["ours_wait_seconds"].histogram.data_points
    assert {named(list(point.attributes))["kind"] for point in points} == set(observed)
    for point in points:
        values = observed[str(named(list(point.attributes))["kind"])]
        assert list(point.explicit_bounds) == [1, 5, 10]
        bounds = zip((-math.inf, 1, 5, 10), (1, 5, 10, math.inf), strict=True)
        assert list(point.bucket_counts) == [sum(low < value <= high for value in values) for low, high in bounds]
        assert point.count == len(values)
        assert math.isclose(point.sum, sum(values), abs_tol=1e-9)


def test_a_span_is_told_with_its_ids_times_and_words() -> None:
    whole = Span("request", b"t" * 16, b"s" * 8, b"", 10, 20, {"http.response.status_code": 200}, failed=False)
    part = Span("send", b"t" * 16, b"p" * 8, b"s" * 8, 11, 19, {"why": "full"}, failed=True)
    request = ExportTraceServiceRequest.FromString(encode_spans([whole, part], SOURCE))
    (scoped,) = request.resource_spans[0].scope_spans
    first, second = scoped.spans
    assert (first.name, first.trace_id, first.span_id, first.parent_span_id) == ("request", b"t" * 16, b"s" * 8, b"")
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (10, 20)
    assert named(list(first.attributes)) == {"http.response.status_code": 200}
    assert first.status.code == Status.STATUS_CODE_UNSET
    assert (second.parent_span_id, second.status.code, second.status.message) == (
        b"s" * 8,
        Status.STATUS_CODE_ERROR,
        "",
    )
    assert not second.trace_state
