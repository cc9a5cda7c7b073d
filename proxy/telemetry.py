"""What can be counted without saying what was said? Metrics of the proxy, in a registry of their own.

Labels are closed sets: an outcome, a reason, an error code, a status. Never a path, a model, a key, or an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from attestation.program import project_version

PREFIX = "sottovoce_proxy"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)


class Telemetry:
    """Every metric of a proxy. The methods are what the rest of the package reports; one event each."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests()
        self._attestation()
        build = self._gauge("build_info", "The version that runs; the value is always 1.", ["version"])
        build.labels(version=project_version()).set(1)

    def _requests(self) -> None:
        self._in_flight = self._gauge("requests_in_flight", "Requests of apps that are being answered.")
        self._answered = self._counter("requests_total", "Requests of apps answered, by status.", ["status"])
        self._errors = self._counter("errors_total", "Errors that this proxy made itself, by code.", ["code"])
        self._duration = self._histogram("request_duration_seconds", "From a request's head to its answer's end.")
        self._first_event = self._histogram("first_event_seconds", "From a request's head to its first event.")
        self._uploaded = self._counter("request_bytes_total", "Bytes of request bodies taken from apps.")
        self._delivered = self._counter("answer_bytes_total", "Bytes of answers given to apps, once authenticated.")
        self._mismatches = self._counter("key_mismatches_total", "Answers 422: not opened with the attested key.")
        self._truncated = self._counter("truncated_answers_total", "Answers that lacked their authenticated end.")
        self._retries = self._counter("retries_total", "Requests sealed and sent again, by reason.", ["reason"])

    def _attestation(self) -> None:
        self._verifications = self._counter(
            "attestation_verifications_total", "Verifications of the engine, by outcome.", ["outcome"]
        )
        self._reverifications = self._counter(
            "attestation_reverifications_total", "Verifications of the engine, by what asked for them.", ["reason"]
        )
        self._failed_checks = self._counter(
            "attestation_failures_total", "Verifications that refused, by the first check that failed.", ["check"]
        )
        self._log_failures = self._counter(
            "identity_log_failures_total", "Accepted identities that could not be written to the log."
        )
        self.collateral_age = self._gauge(
            "attestation_collateral_age_seconds", "How old the oldest piece of collateral in use is; 0 without any."
        )
        self.collateral_expires_at = self._gauge(
            "attestation_collateral_expiry_timestamp_seconds",
            "When the first certificate or piece of collateral in use expires; 0 without any.",
        )
        self.verified_at = self._gauge(
            "attestation_verified_timestamp_seconds", "When the engine in use was verified; 0 without one."
        )
        self.expires_at = self._gauge(
            "attestation_expiry_timestamp_seconds", "When the key in use expires; 0 without one."
        )
        self.age = self._gauge("attestation_age_seconds", "How old the verification in use is; 0 without one.")
        self.ready = self._gauge("ready", "1 while requests would be sealed and sent.")
        self.insecure = self._gauge(
            "insecure",
            "1 while the policy accepts development evidence, which proves nothing, or believes other roots.",
        )

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels or [], registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels or [], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets=DURATION_BUCKETS_S, registry=self.registry)

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is being answered."""
        began = monotonic()
        with self._in_flight.track_inprogress():
            try:
                yield
            finally:
                self._duration.observe(monotonic() - began)

    def first_event_clock(self) -> Callable[[], None]:
        """Call what is returned when an event leaves; only the first call counts."""
        began: list[float] = [monotonic()]

        def left() -> None:
            if began:
                self._first_event.observe(monotonic() - began.pop())

        return left

    def answered(self, status: int) -> None:
        self._answered.labels(status=str(status)).inc()

    def failed(self, code: str) -> None:
        self._errors.labels(code=code).inc()

    def uploaded(self, size_bytes: int) -> None:
        self._uploaded.inc(size_bytes)

    def delivered(self, size_bytes: int) -> None:
        self._delivered.inc(size_bytes)

    def key_mismatch(self) -> None:
        self._mismatches.inc()

    def truncated(self) -> None:
        self._truncated.inc()

    def retried(self, reason: str) -> None:
        self._retries.labels(reason=reason).inc()

    def verified(self, outcome: str, reason: str, first_failed: str | None) -> None:
        self._verifications.labels(outcome=outcome).inc()
        self._reverifications.labels(reason=reason).inc()
        if first_failed is not None:
            self._failed_checks.labels(check=first_failed).inc()

    def log_failed(self) -> None:
        self._log_failures.inc()

    def exposition(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self.registry)
