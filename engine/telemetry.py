"""What does the engine let its operator see? Everything here is visible to whoever runs the machine.

Two registries. What the operator sees from outside anyway (requests, bytes, refusals) is live. What depends on what was
said (audio seconds, tokens, durations) is published as it stood at the end of the last full window, so that no scrape
can single out a request by looking twice. For the same reason no metric says when it was first counted.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

WINDOW_S = 60.0
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
PREFIX = "sottovoce_engine"


class GatewayMetrics:
    """Outside the envelope."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            f"{PREFIX}_envelopes_refused_total",
            "Requests refused outside the envelope, by reason.",
            ["reason"],
            registry=registry,
        )
        self.received_bytes = Counter(
            f"{PREFIX}_received_bytes_total", "Bytes of sealed requests received.", registry=registry
        )
        self.in_flight = Gauge(
            f"{PREFIX}_requests_in_flight", "Requests admitted and not yet answered.", registry=registry
        )
        self.attestations = Counter(
            f"{PREFIX}_attestations_total",
            "Attestation documents handed out, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.key_expiry = Gauge(
            f"{PREFIX}_key_expiry_timestamp_seconds", "When the current key is replaced.", registry=registry
        )
        self.insecure = Gauge(
            f"{PREFIX}_insecure_evidence",
            "1 while the engine attests itself with development evidence, which proves nothing.",
            registry=registry,
        )
        self.backend_ready = Gauge(
            f"{PREFIX}_backend_ready", "1 while the speech backend accepts work.", registry=registry
        )


class SpeechMetrics:
    """Inside the envelope: published in windows. Implements `engine.speech.observer.Observer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            f"{PREFIX}_requests_total",
            "Inner requests answered, by endpoint and status.",
            ["endpoint", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            f"{PREFIX}_request_duration_seconds",
            "From the last byte of a request to its text being complete.",
            ["endpoint"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.audio = Counter(f"{PREFIX}_audio_seconds_total", "Seconds of audio transcribed.", registry=registry)
        self.output_tokens = Counter(f"{PREFIX}_output_tokens_total", "Tokens written by the model.", registry=registry)
        self.clips = Counter(f"{PREFIX}_clips_total", "Clips handed to the backend.", registry=registry)
        self.fallbacks = Counter(
            f"{PREFIX}_fallbacks_total", "Times a clip was decoded again at a higher temperature.", registry=registry
        )
        self.loops_ended = Counter(
            f"{PREFIX}_loops_ended_total", "Streamed clips ended because they repeated themselves.", registry=registry
        )
        self.first_text = Histogram(
            f"{PREFIX}_first_text_seconds",
            "From the beginning of a stream's work to its first text.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.unknown_fields = Counter(
            f"{PREFIX}_unknown_fields_total", "Form fields that no API defines, ignored.", registry=registry
        )

    def file_heard(self, duration_s: float) -> None:
        self.audio.inc(duration_s)

    def clip_heard(self, duration_s: float) -> None:  # noqa: ARG002 - the file's length is what counts
        self.clips.inc()

    def clip_decoded_again(self, times: int) -> None:
        self.fallbacks.inc(times)

    def loop_ended(self) -> None:
        self.loops_ended.inc()

    def first_delta(self, waited_s: float) -> None:
        self.first_text.observe(waited_s)


class Telemetry:
    """All metrics of an engine, and the text a scrape gets."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library knows this for the whole process only
        self.live = CollectorRegistry()
        self.windowed = CollectorRegistry()
        self.gateway = GatewayMetrics(self.live)
        self.speech = SpeechMetrics(self.windowed)
        self._published = generate_latest(self.windowed)

    def close_window(self) -> None:
        """Publish what the windowed metrics have come to; called on a timer that no scrape influences."""
        self._published = generate_latest(self.windowed)

    def exposition(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self.live) + self._published
