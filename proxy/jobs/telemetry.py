"""What of jobs can be counted without saying what was said? Labels are states, outcomes and kinds: closed sets."""

from __future__ import annotations

from collections.abc import Mapping

from core.program.metrics import Registry
from proxy.jobs.model import FailureKind, JobStatus, QueueState, SummaryMethod

OUTCOMES = ("completed", "downloaded", "postponed", "given_back", "lost", *FailureKind)
MESSAGES = ("delivered", "postponed", "given_up", "lost")
SWEPT = ("deadline", "audio", "result", "job", "upload", "answer", "blob")


class JobsTelemetry:
    """The metrics of jobs, among those of the proxy; a `JobsObserver`."""

    def __init__(self, metrics: Registry) -> None:
        self._waiting = metrics.gauge("jobs", "Jobs that are not over, by status.", "status")
        self._oldest = metrics.gauge("jobs_oldest_seconds", "How long the oldest job has waited that could be begun.")
        self._messages = metrics.gauge("jobs_webhooks_waiting", "Messages to webhooks that are not delivered.")
        self._ended = metrics.counter(
            "jobs_ended_total", "What came of jobs that were worked on, by outcome.", "outcome"
        )
        self._duration = metrics.histogram("job_duration_seconds", "From a job's submission to its result.")
        self._failures = metrics.counter("jobs_store_failures_total", "Times that the database of jobs was away.")
        self._swept = metrics.counter("jobs_swept_total", "What was over and went, by what it was.", "what")
        self._told = metrics.counter(
            "jobs_webhook_attempts_total", "What came of attempts to deliver a message, by outcome.", "outcome"
        )
        self._summaries = metrics.counter(
            "jobs_summaries_total", "Summaries of jobs, by how they were made; none where nothing made one.", "method"
        )
        for method in (*SummaryMethod, "none"):
            self._summaries.labels(method=method)
        for outcome in MESSAGES:
            self._told.labels(outcome=outcome)
        for outcome in OUTCOMES:
            self._ended.labels(outcome=outcome)
        for what in SWEPT:
            self._swept.labels(what=what)

    def ended(self, outcome: str, seconds: float | None) -> None:
        self._ended.labels(outcome=outcome).inc()
        if seconds is not None:
            self._duration.observe(seconds)

    def summarised(self, method: SummaryMethod | None) -> None:
        self._summaries.labels(method=method or "none").inc()

    def told(self, outcome: str) -> None:
        self._told.labels(outcome=outcome).inc()

    def store_failed(self) -> None:
        self._failures.inc()

    def swept(self, counts: Mapping[str, int]) -> None:
        for what, count in counts.items():
            self._swept.labels(what=what).inc(count)

    def queue(self, state: QueueState) -> None:
        for status in JobStatus:
            if not status.is_final:
                self._waiting.labels(status=status.value).set(state.jobs.get(status, 0))
        self._oldest.set(state.oldest_ms / 1000)
        self._messages.set(state.messages)
