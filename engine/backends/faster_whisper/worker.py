"""How does faster-whisper turn a clip into text? A process of its own, without keys, files or network to speak of.

`python -m engine.backends.faster_whisper.worker FD PARENT_PID`, started by `transcriber` beside it, speaks `messages`
over the socket FD. One thread reads; `parallel_clips` threads decode, each with a replica of the model. The process
ends with its engine.

A call is cancelled while it waits, between the encoder and the decoder, or between segments: CTranslate2 can be stopped
in neither of the two, so at most that much work is done in vain. Nothing that was heard is written to stderr: only
fixed sentences.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: TID251 - to switch it off
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from faster_whisper import WhisperModel

from core.media import sandbox
from core.media.types import SAMPLE_RATE_HZ
from core.program.memory import keep_memory_private
from core.transcript.types import Segment
from engine.backends.faster_whisper.alignment import TooLongError, align
from engine.backends.faster_whisper.encodings import Encodings
from engine.backends.faster_whisper.messages import (
    Kind,
    decode_fields,
    decode_prefix,
    encode,
    options_from_fields,
    transcript_from_fields,
    transcript_to_fields,
)
from engine.backends.framing import PREFIX, Fields
from engine.speech.fallback import finite, is_silence
from engine.speech.language import OLDER_LANGUAGE
from engine.speech.whisper import DECODER_TOKENS, PROMPT_TOKENS
from engine.types import ClipTranscript, DecodingOptions, Detail

SECONDS_PER_FRAME = 0.01
SECONDS_PER_TIMESTAMP = 0.02

FAILURES = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What CTranslate2, its bindings and faster-whisper raise: of a device that fails, or of a request out of bounds."""

MAX_FAILURES = 3
"""So many calls failing one after the other may point to a broken device: then `KNOWN_GOOD` is asked for."""

REST_S = 10.0
"""A thread that had nothing to do for so long forgets what was encoded."""

_SECOND = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
KNOWN_GOOD = np.round(8_000 * np.sin(2 * np.pi * 440 * _SECOND)).astype("<i2").tobytes()
"""A second of a tone, which can be decoded, whatever the text; only a broken device cannot."""

USUAL = DecodingOptions("en", max_tokens=8)

MIN_TEMPERATURE = 0.01
"""Below it the numbers leave the range of a float, and the text is noise; vLLM raises such temperatures likewise."""

MIN_LOGPROB = -100.0
"""No text that a model has written is less likely than that, token for token: there its numbers were none."""

EX_SOFTWARE = 70


class CancelledError(Exception):
    """The engine no longer wants the answer."""


@dataclass(slots=True)
class Call:
    """One request of the engine."""

    fields: Fields
    pcm: bytes
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def number(self) -> int:
        return int(self.fields["id"])


class Model:
    """One loaded checkpoint."""

    def __init__(self, path: str, *, beam_size: int, **options: Any) -> None:
        self._beam_size = beam_size
        self._whisper = WhisperModel(path, local_files_only=True, **options)
        self._encodings = self._whisper.encode = Encodings(self._whisper.encode)
        self._at_work = threading.local()
        self._whisper.generate_with_fallback = self._heeding(self._whisper.generate_with_fallback)

    def hearing(self, clip: int) -> AbstractContextManager[None]:
        """What this thread hears while the context is open is that clip, which need not be encoded twice."""
        return self._encodings.of(clip)

    def forget(self) -> None:
        """Keep nothing of any clip."""
        self._encodings.forget()

    def _heeding(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """faster-whisper's step behind the encoder, which somebody may not want any more by then."""

        def generate_or_not(*arguments: Any) -> Any:
            self._at_work.heed()
            return generate(*arguments)

        return generate_or_not

    def languages(self, pcm: bytes) -> dict[str, float]:
        """Return the probability of every language; English-only checkpoints know one."""
        if not self._whisper.model.is_multilingual:
            return {"en": 1.0}
        features = self._whisper.feature_extractor(_samples(pcm))
        # Without the last frame, as where they become text: what was encoded for one will do for the other.
        frames = max(features.shape[-1] - 1, 1)
        _, _, probabilities = self._whisper.detect_language(features=features[:, :frames])
        return {language: finite(float(probability), 0.0) for language, probability in probabilities}

    def segments(
        self, pcm: bytes, options: DecodingOptions, heed: Callable[[], None] = lambda: None
    ) -> Iterator[Segment]:
        """Yield a clip's segments, each window's once it is decoded. Times count from the start of the clip.

        heed: raises where they are not wanted any more; asked before each window is decoded. Raises one of `FAILURES`.
        No retries and no silence are decided here: that is shared by all backends.
        """
        self._at_work.heed = heed
        decoded, _ = self._whisper.transcribe(
            _samples(pcm),
            language=self._language(options.language),
            task=options.task.value,
            beam_size=self._beam_size,
            temperature=[max(options.temperature, MIN_TEMPERATURE) if options.temperature else 0.0],
            initial_prompt=options.prompt or None,
            max_new_tokens=self._max_new_tokens(options),
            repetition_penalty=options.sampling.get("repetition_penalty", 1.0),
            condition_on_previous_text=False,
            vad_filter=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        return first_segments(map(self._segment, decoded), options.max_tokens)

    def align(
        self, pcm: bytes, transcript: ClipTranscript, options: DecodingOptions, wanted: frozenset[Detail]
    ) -> ClipTranscript:
        """Add what is wanted: the times of a transcript's words, the log probabilities of its tokens."""
        language = self._language(options.language)
        return align(self._whisper, _samples(pcm), transcript, options, wanted, language=language)

    def prompt_tokens(self, options: DecodingOptions) -> int:
        """Return how many tokens of the request's prompt the model reads."""
        if not options.prompt:
            return 0
        encoding = self._whisper.hf_tokenizer.encode(f" {options.prompt.strip()}", add_special_tokens=False)
        return min(len(encoding.ids), PROMPT_TOKENS)

    def _language(self, language: str) -> str:
        known = self._whisper.hf_tokenizer.token_to_id(f"<|{language}|>") is not None
        return language if known else OLDER_LANGUAGE.get(language, language)

    def _max_new_tokens(self, options: DecodingOptions) -> int | None:
        """What faster-whisper is told for a window to end after `max_tokens`.

        CTranslate2 ends a text where it is as long as it may be, or where prompt and text are half as long as both may
        be together: to be let write n tokens behind m others, n or 2n - m have to be asked for, whichever is more.
        """
        if options.max_tokens is None:
            return None
        prompt = self.prompt_tokens(options)
        opening = (prompt + 1 if prompt else 0) + (3 if self._whisper.model.is_multilingual else 1)
        return min(max(options.max_tokens, 2 * options.max_tokens - opening), DECODER_TOKENS - opening)

    def _segment(self, segment: Any) -> Segment:
        """Translate a `faster_whisper.transcribe.Segment`."""
        if not segment.avg_logprob > MIN_LOGPROB:  # nor is it, where it is no number at all
            raise ValueError("a text without a probability")
        start_s, end_s = self._times(segment)
        return Segment(
            start_s=start_s,
            end_s=end_s,
            text=segment.text,
            tokens=tuple(segment.tokens),
            temperature=float(segment.temperature),
            avg_logprob=float(segment.avg_logprob),
            compression_ratio=float(segment.compression_ratio),
            no_speech_prob=finite(float(segment.no_speech_prob), 0.0),
        )

    def _times(self, segment: Any) -> tuple[float, float]:
        """When a segment begins and ends: as the model says, where it does.

        faster-whisper, like OpenAI's own code, lets a window's only segment begin with the window.
        """
        first_timestamp = self._whisper.hf_tokenizer.token_to_id("<|notimestamps|>") + 1
        opens, closes = segment.tokens[0] - first_timestamp, segment.tokens[-1] - first_timestamp
        window_s = segment.seek * SECONDS_PER_FRAME
        return (
            float(segment.start) if opens < 0 else window_s + opens * SECONDS_PER_TIMESTAMP,
            float(segment.end) if closes <= 0 else window_s + closes * SECONDS_PER_TIMESTAMP,
        )


class Server:
    """Answers the engine's calls."""

    def __init__(self, channel: socket.socket, models: dict[str, Model]) -> None:
        self._channel = channel
        self._models = models
        self._calls: dict[int, Call] = {}
        self._waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._failures = 0
        self._doubting = threading.Lock()

    def run(self, threads: int) -> None:
        """Serve until the engine is gone."""
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()
        self._send(Kind.READY, {})
        while (message := receive(self._channel)) is not None:
            self._take(*message)

    def _take(self, fields: Fields, pcm: bytes) -> None:
        if fields["kind"] is not Kind.CANCEL:
            call = Call(fields, pcm)
            self._calls[call.number] = call
            self._waiting.put(call)
        elif call_to_end := self._calls.get(fields["id"]):
            call_to_end.cancelled.set()

    def _work(self) -> None:
        while True:
            call = self._next()
            try:
                self._answer(call)
                self._failures = 0
            except CancelledError:
                self._reply(call, Kind.CANCELLED, {})
            except TooLongError:  # no fault of the device's
                self._reply(call, Kind.FAILED, {})
            except FAILURES as exc:
                self._fail(call, exc)
            finally:
                del self._calls[call.number]

    def _next(self) -> Call:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=REST_S)
            for model in self._models.values():
                model.forget()

    def _fail(self, call: Call, failure: Exception) -> None:
        """Fail a call. Whose fault that is, what the caller asked for or the device, only another clip can tell."""
        _say(f"a clip could not be decoded: {type(failure).__name__}")
        self._reply(call, Kind.FAILED, {})
        with self._doubting:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                self._failures = 0
                _check_device(self._models[call.fields["model"]])

    def _answer(self, call: Call) -> None:
        _heed_cancel(call)
        model = self._models[call.fields["model"]]
        with model.hearing(call.fields["clip"]):
            self._hear(call, model)

    def _hear(self, call: Call, model: Model) -> None:
        if call.fields["kind"] is Kind.LANGUAGES:
            self._reply(call, Kind.LANGUAGES, {"probabilities": model.languages(call.pcm)})
            return
        options = options_from_fields(call.fields["options"])
        if call.fields["kind"] is Kind.ALIGN:
            wanted = frozenset(map(Detail, call.fields["wanted"]))
            transcript = model.align(call.pcm, transcript_from_fields(call.fields["transcript"]), options, wanted)
        else:
            transcript = self._transcript(call, model, options)
        self._reply(call, Kind.TRANSCRIPT, transcript_to_fields(transcript))

    def _transcript(self, call: Call, model: Model, options: DecodingOptions) -> ClipTranscript:
        segments = tuple(self._decode(call, model, options))
        _heed_cancel(call)
        return ClipTranscript(
            text="".join(segment.text for segment in segments),
            segments=segments,
            output_tokens=sum(len(segment.tokens) for segment in segments),
            prompt_tokens=model.prompt_tokens(options),
        )

    def _decode(self, call: Call, model: Model, options: DecodingOptions) -> Iterator[Segment]:
        """Yield a clip's segments; in a stream send each one's text first, and leave out what is silence."""
        streamed = call.fields["kind"] is Kind.STREAM
        for segment in model.segments(call.pcm, options, partial(_heed_cancel, call)):
            _heed_cancel(call)
            if streamed and is_silence(segment):
                continue
            if streamed:
                self._reply(call, Kind.DELTA, {"text": segment.text})
            yield segment

    def _reply(self, call: Call, kind: Kind, fields: Fields) -> None:
        self._send(kind, {"id": call.number, **fields})

    def _send(self, kind: Kind, fields: Fields) -> None:
        message = encode(kind, fields)
        # An engine that is gone is noticed by the thread that reads.
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.sendall(message)


def _check_device(model: Model) -> None:
    """End the process where not even a clip that is known to be good can be decoded."""
    try:
        list(model.segments(KNOWN_GOOD, USUAL))
    except FAILURES as exc:
        _say(f"nor could one that is known to be good: {type(exc).__name__}")
        os._exit(EX_SOFTWARE)


def first_segments(segments: Iterator[Segment], max_tokens: int | None) -> Iterator[Segment]:
    """Yield as many of a clip's segments as have no more than `max_tokens` together.

    Another window is not decoded where they have as many.
    """
    if max_tokens is None:
        yield from segments
        return
    left = max_tokens
    for segment in segments:
        left -= len(segment.tokens)
        if left >= 0:
            yield segment
        if left <= 0:
            return


def receive(channel: socket.socket) -> tuple[Fields, bytes] | None:
    """Read one message of the engine, or None when it is gone."""
    prefix = _read(channel, PREFIX.size)
    if prefix is None:
        return None
    json_bytes, pcm_bytes = decode_prefix(prefix)
    text, pcm = _read(channel, json_bytes), _read(channel, pcm_bytes)
    return None if text is None or pcm is None else (decode_fields(text), pcm)


def _read(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = channel.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return bytes(data)


def _samples(pcm: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0


def _heed_cancel(call: Call) -> None:
    if call.cancelled.is_set():
        raise CancelledError


def _say(sentence: str) -> None:
    print(f"faster-whisper worker: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  the only way out


def _say_exception(kind: type[BaseException], _error: BaseException | None, _trace: TracebackType | None) -> None:
    """Name the kind of an error; its message may quote what was heard."""
    _say(f"stopped by {kind.__name__}")


def _stop_on_thread_failure(failure: threading.ExceptHookArgs) -> None:
    _say_exception(failure.exc_type, None, None)
    os._exit(EX_SOFTWARE)


def harden(parent_pid: int) -> None:
    """Keep what is heard out of logs and core dumps, and end when the engine does."""
    sys.excepthook = _say_exception
    threading.excepthook = _stop_on_thread_failure
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's, which then ends this process
    keep_memory_private()
    with contextlib.suppress(OSError):  # not Linux: the end of the socket has to do
        sandbox.die_with_parent(parent_pid)


def main() -> None:
    descriptor, parent_pid = map(int, sys.argv[1:])
    harden(parent_pid)
    channel = socket.socket(fileno=descriptor)
    message = receive(channel)
    if message is None:
        return
    fields, _ = message
    options, threads = fields["options"], fields["parallel_clips"]
    models = {name: Model(path, num_workers=threads, **options) for name, path in fields["models"].items()}
    Server(channel, models).run(threads)
    os._exit(0)  # at once, in the middle of whatever is being decoded


if __name__ == "__main__":
    main()
