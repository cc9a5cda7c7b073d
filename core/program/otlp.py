"""How are metrics and spans spelled for a collector? OTLP 1.x over HTTP, in protobuf.

A metric keeps the name, the labels and the values that a scrape shows; counters and histograms are cumulative since the
program began. https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp_metrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp_trace
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from core.program.metrics import Snapshot
from core.program.spans import Attribute, Span

_CUMULATIVE = otlp_metrics.AGGREGATION_TEMPORALITY_CUMULATIVE
_SCOPE = InstrumentationScope(name="sottovoce")


@dataclass(frozen=True, slots=True)
class Source:
    """Whose metrics and spans they are. instance: of this run, random. began_ns: when it began, in Unix time."""

    service: str
    version: str
    instance: str
    began_ns: int

    def resource(self) -> Resource:
        named = {"service.name": self.service, "service.version": self.version, "service.instance.id": self.instance}
        return Resource(attributes=_attributes(named))


def encode_metrics(snapshot: Snapshot, source: Source, now_ns: int) -> bytes:
    """The body of a request to `/v1/metrics`."""
    metrics = [_metric(family, source.began_ns, now_ns) for family in snapshot.families if family.samples]
    scoped = otlp_metrics.ScopeMetrics(scope=_SCOPE, metrics=metrics)
    of_source = otlp_metrics.ResourceMetrics(resource=source.resource(), scope_metrics=[scoped])
    return ExportMetricsServiceRequest(resource_metrics=[of_source]).SerializeToString()


def encode_spans(spans: Iterable[Span], source: Source) -> bytes:
    """The body of a request to `/v1/traces`."""
    scoped = otlp_trace.ScopeSpans(scope=_SCOPE, spans=map(_span, spans))
    of_source = otlp_trace.ResourceSpans(resource=source.resource(), scope_spans=[scoped])
    return ExportTraceServiceRequest(resource_spans=[of_source]).SerializeToString()


def _metric(family: Metric, began_ns: int, now_ns: int) -> otlp_metrics.Metric:
    if family.type == "histogram":
        points = list(_histogram_points(family, began_ns, now_ns))
        histogram = otlp_metrics.Histogram(data_points=points, aggregation_temporality=_CUMULATIVE)
        return otlp_metrics.Metric(name=family.name, description=family.documentation, histogram=histogram)
    is_counter = family.type == "counter"
    numbers = [
        otlp_metrics.NumberDataPoint(
            attributes=_attributes(sample.labels),
            start_time_unix_nano=began_ns if is_counter else 0,
            time_unix_nano=now_ns,
            as_double=sample.value,
        )
        for sample in family.samples
    ]
    if not is_counter:
        gauge = otlp_metrics.Gauge(data_points=numbers)
        return otlp_metrics.Metric(name=family.name, description=family.documentation, gauge=gauge)
    total = otlp_metrics.Sum(data_points=numbers, aggregation_temporality=_CUMULATIVE, is_monotonic=True)
    return otlp_metrics.Metric(name=f"{family.name}_total", description=family.documentation, sum=total)


def _histogram_points(family: Metric, began_ns: int, now_ns: int) -> Iterator[otlp_metrics.HistogramDataPoint]:
    """One for each set of labels. Prometheus counts what is at most a bound, OTLP what lies between two."""
    by_labels: defaultdict[tuple[tuple[str, str], ...], list[Sample]] = defaultdict(list)
    for sample in family.samples:
        of_series = sorted((name, value) for name, value in sample.labels.items() if name != "le")
        by_labels[tuple(of_series)].append(sample)
    for labels, samples in by_labels.items():
        at_most = sorted((float(each.labels["le"]), int(each.value)) for each in samples if "le" in each.labels)
        counts = [count for _, count in at_most]
        yield otlp_metrics.HistogramDataPoint(
            attributes=_attributes(dict(labels)),
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            count=counts[-1],
            sum=next(each.value for each in samples if each.name.endswith("_sum")),
            bucket_counts=[count - before for count, before in zip(counts, [0, *counts], strict=False)],
            explicit_bounds=[bound for bound, _ in at_most[:-1]],  # the last is infinity
        )


def _span(span: Span) -> otlp_trace.Span:
    failed = otlp_trace.Status(code=otlp_trace.Status.STATUS_CODE_ERROR)
    return otlp_trace.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=otlp_trace.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.began_ns,
        end_time_unix_nano=span.ended_ns,
        attributes=_attributes(span.attributes),
        status=failed if span.failed else None,
    )


def _attributes(named: Mapping[str, Attribute]) -> list[KeyValue]:
    return [
        KeyValue(key=name, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value))
        for name, value in named.items()
    ]
