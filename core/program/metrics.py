"""What does a program count, and how is it told? Metrics that say what they are, in Prometheus' text format.

A `Registry` knows of each of its metrics the name, the type, the labels and the meaning, whether or not it has counted
anything yet; `docs/metrics.md` is made of that. A moment's values are a `Snapshot`: what a scrape gets, and what is
pushed to a collector (`core.program.otlp`), are two spellings of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what a scrape gets."""
DURATION_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)


@dataclass(frozen=True, slots=True)
class Described:
    """What a metric is. kind: counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Registry:
    """Metrics whose names begin alike; several in one process count apart. described: in the order they were made."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.registry = CollectorRegistry()
        self.described: list[Described] = []

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(self._describe("counter", name, meaning, labels), meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(self._describe("gauge", name, meaning, labels), meaning, labels, registry=self.registry)

    def histogram(
        self, name: str, meaning: str, *labels: str, buckets: Sequence[float] = DURATION_BUCKETS_S
    ) -> Histogram:
        full_name = self._describe("histogram", name, meaning, labels)
        return Histogram(full_name, meaning, labels, buckets=buckets, registry=self.registry)

    def _describe(self, kind: str, name: str, meaning: str, labels: tuple[str, ...]) -> str:
        self.described.append(Described(f"{self._prefix}_{name}", kind, labels, meaning))
        return self.described[-1].name

    def snapshot(self) -> Snapshot:
        """The values of now."""
        return Snapshot(tuple(map(_without_beginnings, self.registry.collect())))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Values of one moment."""

    families: tuple[Metric, ...] = ()

    def __add__(self, other: Snapshot) -> Snapshot:
        return Snapshot(self.families + other.families)

    def collect(self) -> Iterator[Metric]:
        """What the library asks of a registry."""
        return iter(self.families)

    def exposition(self) -> bytes:
        """Prometheus' text format 0.0.4."""
        return generate_latest(self)


def _without_beginnings(family: Metric) -> Metric:
    """Leave out when each series was first counted: a moment that a request may be known by.

    The library can be told so for a whole process only, of which the rest may be an application's.
    """
    family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return family
