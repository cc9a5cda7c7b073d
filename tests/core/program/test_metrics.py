"""A metric says what it is before it has counted anything, and a snapshot stays as it was."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from core.program.metrics import Described, Registry


def test_a_metric_is_described_before_it_has_counted() -> None:
    metrics = Registry("ours")
    metrics.counter("errors_total", "Errors.", "code")
    metrics.histogram("wait_seconds", "Waiting.", buckets=[1, 2])
    metrics.gauge("ready", "Whether it is ready.")
    assert metrics.described == [
        Described("ours_errors_total", "counter", ("code",), "Errors."),
        Described("ours_wait_seconds", "histogram", (), "Waiting."),
        Described("ours_ready", "gauge", (), "Whether it is ready."),
    ]


def test_a_snapshot_stays_as_it_was() -> None:
    metrics = Registry("ours")
    errors = metrics.counter("errors_total", "Errors.")
    errors.inc()
    before = metrics.snapshot()
    errors.inc()
    assert b"ours_errors_total 1.0" in before.exposition()
    assert b"ours_errors_total 2.0" in metrics.snapshot().exposition()


def test_snapshots_are_told_one_behind_the_other() -> None:
    first, second = Registry("first"), Registry("second")
    first.counter("errors_total", "Errors.")
    second.gauge("ready", "Whether it is ready.")
    told = (first.snapshot() + second.snapshot()).exposition().decode()
    assert [family.name for family in text_string_to_metric_families(told)] == ["first_errors", "second_ready"]


def test_when_a_series_was_first_counted_is_not_told() -> None:
    metrics = Registry("ours")
    metrics.counter("errors_total", "Errors.").inc()
    metrics.histogram("wait_seconds", "Waiting.").observe(1)
    assert b"_created" not in metrics.snapshot().exposition()
