"""What can be counted without saying what was said? Metrics of the proxy, in a registry of their own.

Labels are closed sets: an outcome, a reason, an error code, a status, the place of an engine among those of the proxy.
Never a path, a URL, a model, a key, or an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from time import monotonic

from core.program.metrics import Described, Registry, Snapshot
from core.program.run import project_version
from core.program.spans import Spans
from proxy.errors import ErrorCode

PREFIX = "sottovoce_proxy"


class SpanName(StrEnum):
    """Every span that there is; `docs/operate/observability.md` says what each lasts for."""

    REQUEST = "request"
    LEASE = "lease"
    SEND = "send"
    ANSWER = "answer"
    VERIFICATION = "verification"


class Telemetry:
    """Every metric of a proxy. The methods are what the rest of the package reports; one event each."""

    def __init__(self, spans: Spans | None = None) -> None:
        self.spans = spans or Spans()
        self.metrics = Registry(PREFIX)
        self.registry = self.metrics.registry
        self._requests(self.metrics)
        self._live(self.metrics)
        self._attestation(self.metrics)
        build = self.metrics.gauge("build_info", "The version that runs; the value is always 1.", "version")
        build.labels(version=project_version()).set(1)

    def _requests(self, metrics: Registry) -> None:
        self._in_flight = metrics.gauge("requests_in_flight", "Requests of apps that are being answered.")
        self._answered = metrics.counter("requests_total", "Requests of apps answered, by status.", "status")
        self._errors = metrics.counter("errors_total", "Errors that this proxy made itself, by code.", "code")
        for code in ErrorCode:  # a first error is a rise from zero, which is what an alert looks for
            self._errors.labels(code=code.value)
        self._duration = metrics.histogram("request_duration_seconds", "From a request's head to its answer's end.")
        self._first_event = metrics.histogram("first_event_seconds", "From a request's head to its first event.")
        self._uploaded = metrics.counter("request_bytes_total", "Bytes of request bodies taken from apps.")
        self._delivered = metrics.counter("answer_bytes_total", "Bytes of answers given to apps, once authenticated.")
        self._mismatches = metrics.counter("key_mismatches_total", "Answers 422: not opened with the attested key.")
        self._truncated = metrics.counter("truncated_answers_total", "Answers that lacked their authenticated end.")
        self._retries = metrics.counter("retries_total", "Requests sealed and sent again, by reason.", "reason")

    def _live(self, metrics: Registry) -> None:
        self._live_sessions = metrics.gauge("live_sessions", "Live sessions of apps that are open.")
        self._live_ended = metrics.counter(
            "live_sessions_ended_total", "Live sessions that are over, by who ended them or by code.", "reason"
        )
        self._live_frames = metrics.counter(
            "live_frames_total", "Frames of live sessions, up to engines or down from them.", "direction"
        )

    def _attestation(self, metrics: Registry) -> None:
        self._verifications = metrics.counter(
            "attestation_verifications_total", "Verifications of the engine, by outcome.", "outcome"
        )
        self._reverifications = metrics.counter(
            "attestation_reverifications_total", "Verifications of the engine, by what asked for them.", "reason"
        )
        self._failed_checks = metrics.counter(
            "attestation_failures_total", "Verifications that refused, by the first check that failed.", "check"
        )
        self._log_failures = metrics.counter(
            "identity_log_failures_total", "Accepted identities that could not be written to the log."
        )
        self.collateral_age = metrics.gauge(
            "attestation_collateral_age_seconds",
            "How old the oldest piece of collateral in use is; 0 without any.",
            "engine",
        )
        self.collateral_expires_at = metrics.gauge(
            "attestation_collateral_expiry_timestamp_seconds",
            "When the first certificate or piece of collateral in use expires; 0 without any.",
            "engine",
        )
        self.verified_at = metrics.gauge(
            "attestation_verified_timestamp_seconds", "When the engine in use was verified; 0 without one.", "engine"
        )
        self.expires_at = metrics.gauge(
            "attestation_expiry_timestamp_seconds", "When the key in use expires; 0 without one.", "engine"
        )
        self.age = metrics.gauge(
            "attestation_age_seconds", "How old the verification in use is; 0 without one.", "engine"
        )
        self.engine_ready = metrics.gauge(
            "engine_ready", "1 while requests would be sealed and sent to this engine.", "engine"
        )
        self.engine_requests = metrics.gauge(
            "engine_requests_in_flight", "Requests and live sessions that this engine has of this proxy.", "engine"
        )
        self.ready = metrics.gauge("ready", "1 while requests would be sealed and sent.")
        self.insecure = metrics.gauge(
            "insecure",
            "1 while the policy accepts development evidence, which proves nothing, or believes other roots.",
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is being answered."""
        began = monotonic()
        with self._in_flight.track_inprogress(), self.spans.trace(SpanName.REQUEST):
            try:
                yield
            finally:
                self._duration.observe(monotonic() - began)

    @contextmanager
    def live_session(self) -> Iterator[None]:
        """A live session is open."""
        with self._live_sessions.track_inprogress():
            yield

    def live_ended(self, reason: str) -> None:
        """A live session is over. reason: app, engine, refused, stopped, stalled, or an error code of ours."""
        self._live_ended.labels(reason=reason).inc()

    def live_frame(self, direction: str) -> None:
        self._live_frames.labels(direction=direction).inc()

    def first_event_clock(self) -> Callable[[], None]:
        """Call what is returned when an event leaves; only the first call counts."""
        began: list[float] = [monotonic()]

        def left() -> None:
            if began:
                self._first_event.observe(monotonic() - began.pop())

        return left

    def answered(self, status: int) -> None:
        self.spans.say(**{"http.response.status_code": status})
        self._answered.labels(status=str(status)).inc()

    def failed(self, code: str) -> None:
        self.spans.fail(**{"error.type": code})
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

    def will_verify(self, outcomes: Iterable[str], reasons: Iterable[str]) -> None:
        """Say how verifications may end, and why they may be made: each begins at zero, so that its first is a rise."""
        for outcome in outcomes:
            self._verifications.labels(outcome=outcome)
        for reason in reasons:
            self._reverifications.labels(reason=reason)

    def verified(self, outcome: str, reason: str, first_failed: str | None) -> None:
        self.spans.say(**{"sottovoce.outcome": outcome, "sottovoce.reason": reason})
        self._verifications.labels(outcome=outcome).inc()
        self._reverifications.labels(reason=reason).inc()
        if first_failed is not None:
            self.spans.fail(**{"sottovoce.check": first_failed})
            self._failed_checks.labels(check=first_failed).inc()

    def log_failed(self) -> None:
        self._log_failures.inc()

    @property
    def described(self) -> Sequence[Described]:
        """Every metric that there is."""
        return self.metrics.described

    def snapshot(self) -> Snapshot:
        """What a scrape gets."""
        return self.metrics.snapshot()
