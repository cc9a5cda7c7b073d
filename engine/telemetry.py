"""What does the engine let its operator see? Everything here is visible to whoever runs the machine.

Two registries. What the operator sees from outside anyway (requests, bytes, refusals) is live. What depends on what was
said (audio seconds, tokens, durations) is published as it stood at the end of the last full window, so that no scrape
can single out a request by looking twice. For the same reason no metric says when it was first counted.

What a model server counts itself depends on what was said too. It is read at the end of a window, the few series of
`MODEL_SERVER_SERIES` are published under names of ours, and a server that did not answer then is absent until it does.

`docs/metrics.md` lists all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.backends.vllm_answers import Sample

WINDOW_S = 60.0
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
REAL_TIME_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
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
    """Inside the envelope: published in windows. Implements `engine.speech.observer.Observer`.

    backend: the label of every series here, so that engines with different backends can be compared.
    """

    def __init__(self, registry: CollectorRegistry, backend: str) -> None:
        self._registry = registry
        self._backend = backend
        self._count_requests()
        self._count_files()
        self._count_clips()
        self._count_streams()

    def _count_requests(self) -> None:
        self._requests = self._counter(
            "requests_total", "Inner requests answered, by endpoint and status.", "endpoint", "status"
        )
        self._durations = self._histogram(
            "request_duration_seconds", "From the last byte of a request to its text being complete.", "endpoint"
        )
        self._unknown_fields = self._bound(
            self._counter("unknown_fields_total", "Form fields that no API defines, ignored.")
        )

    def _count_files(self) -> None:
        self._audio = self._bound(self._counter("audio_seconds_total", "Seconds of audio transcribed."))
        self._output_tokens = self._bound(self._counter("output_tokens_total", "Tokens written by the model."))
        self._real_time_factor = self._histogram(
            "real_time_factor",
            "Seconds of work for a second of audio, by file; below 1 is faster than speech.",
            buckets=REAL_TIME_BUCKETS,
        ).labels(self._backend)
        self._decode_failures = self._counter(
            "decode_failures_total", "Files that did not become audio, by reason.", "reason"
        )

    def _count_clips(self) -> None:
        self._clips = self._bound(self._counter("clips_total", "Clips that became text."))
        self._clip_failures = self._bound(
            self._counter("clip_failures_total", "Clips, or looks at a clip's language, on which the backend failed.")
        )
        self._queue = self._histogram(
            "clip_queue_seconds", "How long a clip, or a look at its language, waited for its turn at the backend."
        ).labels(self._backend)
        self._fallbacks = self._bound(
            self._counter("fallbacks_total", "Times a clip was decoded again at a higher temperature.")
        )

    def _count_streams(self) -> None:
        self._first_text = self._histogram(
            "first_text_seconds", "From the beginning of a stream's work to its first text."
        ).labels(self._backend)
        self._without_fallback = self._bound(
            self._counter(
                "streams_without_fallback_total",
                "Streams at temperature 0: each clip is decoded once, whatever the text looks like.",
            )
        )
        self._loops_ended = self._bound(
            self._counter("loops_ended_total", "Streamed clips ended because they repeated themselves.")
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", meaning, ["backend", *labels], registry=self._registry)

    def _bound(self, counter: Counter) -> Counter:
        return counter.labels(self._backend)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = DURATION_BUCKETS_S
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", meaning, ["backend", *labels], buckets=buckets, registry=self._registry)

    def answered(self, endpoint: str, status: int) -> None:
        """An inner request was answered."""
        self._requests.labels(self._backend, endpoint, str(status)).inc()

    def text_completed(self, endpoint: str, took_s: float) -> None:
        """A request's whole text was there this long after its last byte."""
        self._durations.labels(self._backend, endpoint).observe(took_s)

    def fields_ignored(self, count: int) -> None:
        """A form had so many fields that no API defines."""
        self._unknown_fields.inc(count)

    def file_heard(self, duration_s: float, *, took_s: float, output_tokens: int) -> None:
        self._audio.inc(duration_s)
        self._output_tokens.inc(output_tokens)
        if duration_s:
            self._real_time_factor.observe(took_s / duration_s)

    def file_not_decoded(self, reason: str) -> None:
        self._decode_failures.labels(self._backend, reason).inc()

    def clip_waited(self, waited_s: float) -> None:
        self._queue.observe(waited_s)

    def clip_heard(self) -> None:
        self._clips.inc()

    def clip_failed(self) -> None:
        self._clip_failures.inc()

    def clip_decoded_again(self, times: int) -> None:
        self._fallbacks.inc(times)

    def stream_without_fallback(self) -> None:
        self._without_fallback.inc()

    def loop_ended(self) -> None:
        self._loops_ended.inc()

    def first_delta(self, waited_s: float) -> None:
        self._first_text.observe(waited_s)


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a model server's, under a name and with a meaning of ours; `_total` makes it a counter.

    by_reason: whether it is kept apart by why a text ended.
    """

    name: str
    meaning: str
    by_reason: bool = False


MODEL_SERVER_SERIES: Mapping[str, Series] = MappingProxyType(
    {
        "vllm:num_requests_running": Series(
            "vllm_requests_running", "Clips that vLLM was working on when the window ended."
        ),
        "vllm:num_requests_waiting": Series(
            "vllm_requests_waiting", "Clips that waited inside vLLM when the window ended."
        ),
        "vllm:kv_cache_usage_perc": Series(
            "vllm_kv_cache_usage_ratio", "Share of vLLM's key-value cache in use when the window ended, from 0 to 1."
        ),
        "vllm:num_preemptions_total": Series(
            "vllm_preemptions_total", "Times vLLM put a clip aside for want of memory."
        ),
        "vllm:request_success_total": Series(
            "vllm_requests_ended_total", "Clips that vLLM finished, by why their text ended.", by_reason=True
        ),
        "vllm:prompt_tokens_total": Series(
            "vllm_prompt_tokens_total", "Prompt tokens that vLLM read, spectrogram frames included."
        ),
        "vllm:generation_tokens_total": Series(
            "vllm_generation_tokens_total", "Tokens that vLLM wrote, those of abandoned clips included."
        ),
        "vllm:request_queue_time_seconds_sum": Series(
            "vllm_queue_seconds_total", "Seconds that clips waited inside vLLM, added up."
        ),
        "vllm:request_queue_time_seconds_count": Series(
            "vllm_queued_clips_total", "Clips whose waiting inside vLLM was added up."
        ),
        "vllm:e2e_request_latency_seconds_sum": Series(
            "vllm_clip_seconds_total", "Seconds that clips spent inside vLLM, added up."
        ),
        "vllm:e2e_request_latency_seconds_count": Series(
            "vllm_timed_clips_total", "Clips whose time inside vLLM was added up."
        ),
    }
)
"""What is published of that which a model server counts itself, by the server's names."""

END_REASONS = frozenset({"stop", "length", "abort", "error", "repetition"})
"""vLLM's own words; whatever else a server that was attached to may say is `other`."""


class Telemetry:
    """All metrics of an engine, and the text a scrape gets."""

    def __init__(self, backend: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library knows this for the whole process only
        self.live = CollectorRegistry()
        self.windowed = CollectorRegistry()
        self.gateway = GatewayMetrics(self.live)
        self.speech = SpeechMetrics(self.windowed, backend)
        self._published = generate_latest(self.windowed)

    def close_window(self, readings: Mapping[str, Iterable[Sample]] = MappingProxyType({})) -> None:
        """Publish what the windowed metrics have come to; called on a timer that no scrape influences.

        readings: what the server of each model has just said of itself; a model that is not in it is published without.
        """
        servers = CollectorRegistry()
        servers.register(_Snapshot(tuple(_families(readings))))
        self._published = generate_latest(self.windowed) + generate_latest(servers)

    def exposition(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self.live) + self._published


@dataclass(frozen=True, slots=True, eq=False)  # the registry keeps its collectors by what they are
class _Snapshot:
    """What was read once, as the library wants to collect it."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _families(readings: Mapping[str, Iterable[Sample]]) -> Iterator[Metric]:
    """The published series; one of which no server has said anything is left out."""
    for source, series in MODEL_SERVER_SERIES.items():
        family_of = CounterMetricFamily if series.name.endswith("_total") else GaugeMetricFamily
        labels = ["model", "reason"] if series.by_reason else ["model"]
        family = family_of(f"{PREFIX}_{series.name}", series.meaning, labels=labels)
        for label_values, value in _totals(source, series, readings).items():
            family.add_metric(label_values, value)
        if family.samples:
            yield family


def _totals(source: str, series: Series, readings: Mapping[str, Iterable[Sample]]) -> dict[tuple[str, ...], float]:
    totals: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for model, samples in readings.items():
        for sample in samples:
            if sample.name == source:
                reason = sample.reason if sample.reason in END_REASONS else "other"
                totals[(model, reason) if series.by_reason else (model,)] += sample.value
    return totals
