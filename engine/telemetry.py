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
from enum import StrEnum
from types import MappingProxyType

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from core.program.metrics import DURATION_BUCKETS_S, Described, Registry, Snapshot
from core.program.run import project_version
from engine.speech.observer import Sample

WINDOW_S = 60.0
REAL_TIME_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
PREFIX = "sottovoce_engine"


class AttestationOutcome(StrEnum):
    """What became of a request for the engine's attestation."""

    ATTESTED = "attested"
    BAD_NONCE = "bad_nonce"
    BUSY = "busy"
    FAILED = "failed"


class GatewayMetrics:
    """Outside the envelope."""

    def __init__(self, metrics: Registry) -> None:
        self.refused = metrics.counter(
            "envelopes_refused_total", "Requests refused outside the envelope, by reason.", "reason"
        )
        self.received_bytes = metrics.counter("received_bytes_total", "Bytes of sealed requests received.")
        self.in_flight = metrics.gauge("requests_in_flight", "Requests admitted and not yet answered.")
        self.attestations = metrics.counter(
            "attestations_total", "Attestation documents handed out, by outcome.", "outcome"
        )
        for outcome in AttestationOutcome:  # a first failure is a rise from zero, which is what an alert looks for
            self.attestations.labels(outcome=outcome)
        self.key_expiry = metrics.gauge("key_expiry_timestamp_seconds", "When the current key is replaced.")
        self.insecure = metrics.gauge(
            "insecure_evidence", "1 while the engine attests itself with development evidence, which proves nothing."
        )
        self.backend_ready = metrics.gauge("backend_ready", "1 while the speech backend accepts work.")
        self.writer_ready = metrics.gauge(
            "instruct_model_ready", "1 while the instruct model accepts work; 0 also where there is none."
        )
        build = metrics.gauge("build_info", "The version that runs; the value is always 1.", "version")
        build.labels(version=project_version()).set(1)


class LiveMetrics:
    """Live sessions: how many there are shows anyway, and frames go whatever is said; why one ended is said inside."""

    def __init__(self, live: Registry, windowed: Registry) -> None:
        self.sessions = live.gauge("live_sessions", "Live sessions that are open.")
        self.frames = live.counter(
            "live_frames_total", "Frames of live sessions, up or down; as many whatever is said.", "direction"
        )
        self.ended = windowed.counter("live_sessions_ended_total", "Live sessions that are over, by why.", "reason")


class SummaryMetrics:
    """Inside the envelope: published in windows. Implements `engine.summaries.observer.SummaryObserver`."""

    def __init__(self, metrics: Registry) -> None:
        self._texts = metrics.counter(
            "instruct_texts_total", "Texts that the instruct model wrote: of one summary several where it is long."
        )
        self._failures = metrics.counter("summary_failures_total", "Summaries that were begun, and failed.")
        self._tokens = metrics.counter(
            "instruct_tokens_total", "Tokens that the instruct model read and wrote.", "direction"
        )

    def text_written(self, input_tokens: int, output_tokens: int) -> None:
        self._texts.inc()
        self._tokens.labels("input").inc(input_tokens)
        self._tokens.labels("output").inc(output_tokens)

    def summary_failed(self) -> None:
        self._failures.inc()


class SpeechMetrics:
    """Inside the envelope: published in windows. Implements `engine.speech.observer.Observer`.

    backend: the label of every series here, so that engines with different backends can be compared.
    """

    def __init__(self, metrics: Registry, backend: str) -> None:
        self._metrics = metrics
        self._backend = backend
        self._count_requests()
        self._count_files()
        self._count_clips()
        self._count_streams()
        self._count_turns()

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

        self._keyed = self._counter(
            "keyed_requests_total",
            "Requests with an idempotency key: started, joined under way, replayed, or reused for another.",
            "outcome",
        )

    def keyed(self, outcome: str) -> None:
        self._keyed.labels(self._backend, outcome).inc()

    def _count_files(self) -> None:
        self._audio = self._bound(self._counter("audio_seconds_total", "Seconds of audio transcribed."))
        self._left_out = self._bound(
            self._counter(
                "audio_left_out_seconds_total",
                "Seconds of them that no model heard, because voice activity detection found no speech.",
            )
        )
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
            self._counter("loops_ended_total", "Texts ended because they repeated themselves; what is behind is heard.")
        )

    def _count_turns(self) -> None:
        self._turn_text = self._histogram(
            "turn_text_seconds", "From the end of a turn of a live session to its whole text."
        ).labels(self._backend)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return self._metrics.counter(name, meaning, "backend", *labels)

    def _bound(self, counter: Counter) -> Counter:
        return counter.labels(self._backend)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = DURATION_BUCKETS_S
    ) -> Histogram:
        return self._metrics.histogram(name, meaning, "backend", *labels, buckets=buckets)

    def answered(self, endpoint: str, status: int) -> None:
        """An inner request was answered."""
        self._requests.labels(self._backend, endpoint, str(status)).inc()

    def text_completed(self, endpoint: str, took_s: float) -> None:
        """A request's whole text was there this long after its last byte."""
        self._durations.labels(self._backend, endpoint).observe(took_s)

    def fields_ignored(self, count: int) -> None:
        """A form had so many fields that no API defines."""
        self._unknown_fields.inc(count)

    def file_heard(self, duration_s: float, *, left_out_s: float, took_s: float, output_tokens: int) -> None:
        self._audio.inc(duration_s)
        self._left_out.inc(left_out_s)
        self._output_tokens.inc(output_tokens)
        if duration_s:
            self._real_time_factor.observe(took_s / duration_s)

    def turn_heard(self, duration_s: float, *, waited_s: float, output_tokens: int) -> None:
        self._turn_text.observe(waited_s)
        self._audio.inc(duration_s)
        self._output_tokens.inc(output_tokens)

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

    @property
    def described(self) -> Described:
        kind = "counter" if self.name.endswith("_total") else "gauge"
        return Described(
            f"{PREFIX}_{self.name}", kind, ("model", "reason") if self.by_reason else ("model",), self.meaning
        )


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
        self.live, self.windowed = Registry(PREFIX), Registry(PREFIX)
        self.gateway = GatewayMetrics(self.live)
        self.sessions = LiveMetrics(self.live, self.windowed)
        self.speech = SpeechMetrics(self.windowed, backend)
        self.summaries = SummaryMetrics(self.windowed)
        self._published = self.windowed.snapshot()

    def close_window(self, readings: Mapping[str, Iterable[Sample]] = MappingProxyType({})) -> None:
        """Publish what the windowed metrics have come to; called on a timer that no scrape influences.

        readings: what the server of each model has just said of itself; a model that is not in it is published without.
        """
        self._published = self.windowed.snapshot() + Snapshot(tuple(_families(readings)))

    def snapshot(self) -> Snapshot:
        """What whoever looks gets, however often."""
        return self.live.snapshot() + self._published


def _families(readings: Mapping[str, Iterable[Sample]]) -> Iterator[Metric]:
    """The published series; one of which no server has said anything is left out."""
    for source, series in MODEL_SERVER_SERIES.items():
        is_counter = series.described.kind == "counter"
        family_of = CounterMetricFamily if is_counter else GaugeMetricFamily
        family = family_of(series.described.name, series.meaning, labels=series.described.labels)
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
