"""How a transcript is streamed: server-sent events in OpenAI's shape, or in that of vLLM's own server.

::

    data: {"type":"transcript.text.delta","delta":"I"} LF LF
    data: {"type":"transcript.text.done","text":"I see.","usage":{"type":"tokens",...}} LF LF
    data: [DONE] LF LF

Of `diarized_json` each segment comes as a delta with its `segment_id`, then as `transcript.text.segment`: all of them
at the end, since who speaks is known when all was heard.

A stream that ends without `[DONE]` is not complete: after an error event nothing follows. vLLM's shape (chunks as
of a chat completion) is what its clients, `vllm bench serve` among them, understand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from core.transcript.faults import Fault
from core.transcript.types import Task, Transcript
from engine.openai.errors import envelope
from engine.openai.formats import (
    diarized_segments,
    json_bytes,
    language_objects,
    logprob_objects,
    token_usage,
    voice_objects,
)
from engine.openai.rendering import Rendering, ResponseFormat
from engine.types import Hearing, TextDelta

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment, which readers skip; keeps idle time-outs on the way from ending a quiet stream."""

# Line ends to readers that split decoded text (`str.splitlines`, httpx); JSON leaves them as they are.
_LINE_ENDS: Final = {"\x85": rb"\u0085", "\u2028": rb"\u2028", "\u2029": rb"\u2029"}


class EventStream(Protocol):
    """The events of one answer, as bytes to send: `delta` any number of times, then `done`, or an `error_event`."""

    def delta(self, delta: TextDelta) -> bytes:
        """The event for the next piece of text; nothing for an empty piece."""

    def done(self, transcription: Transcript) -> bytes:
        """The events that end a complete stream, `[DONE]` included."""


def event_stream(hearing: Hearing, rendering: Rendering, *, request_id: str, created: int) -> EventStream:
    """The stream in the shape that `rendering` asks for.

    request_id, created: of vLLM's chunks; `created` in Unix seconds.
    """
    if rendering.vllm_stream_shape:
        return VllmEvents(hearing, include_usage=rendering.stream_include_usage, request_id=request_id, created=created)
    if rendering.response_format is ResponseFormat.DIARIZED_JSON:
        return DiarizedEvents(rendering)
    return OpenAIEvents(rendering)


def error_event(error: Fault) -> bytes:
    """The last event of a failed stream, in either shape; OpenAI's SDK raises an `APIError` with its code and type."""
    return _event(envelope(error))


class OpenAIEvents:
    """OpenAI's `transcript.text.*` events. Keeps one bit: whether text was sent, as the text starts unindented."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering
        self._begun = False

    def delta(self, delta: TextDelta) -> bytes:
        text = delta.text if self._begun else delta.text.lstrip()
        if not text:
            return b""
        self._begun = True
        event: dict[str, object] = {"type": "transcript.text.delta", "delta": text}
        if self._rendering.logprobs:
            event["logprobs"] = logprob_objects(delta.logprobs)
        return _event(event)

    def done(self, transcription: Transcript) -> bytes:
        text = transcription.text.strip()
        event: dict[str, object] = {"type": "transcript.text.done", "text": text}
        if self._rendering.languages:
            event |= language_objects(transcription)
        if self._rendering.logprobs:
            event["logprobs"] = logprob_objects(transcription.logprobs)
        event |= voice_objects(transcription, self._rendering)
        return _event(event | {"usage": token_usage(transcription)}) + DONE


class DiarizedEvents:
    """OpenAI's events with speakers. The deltas joined, a space before each but the first, are the segments' texts."""

    def __init__(self, rendering: Rendering) -> None:
        self._end = OpenAIEvents(rendering)

    def delta(self, delta: TextDelta) -> bytes:  # noqa: ARG002 - whose words these are is not known yet
        return b""

    def done(self, transcription: Transcript) -> bytes:
        events = bytearray()
        for segment in diarized_segments(transcription):
            events += _event({"type": "transcript.text.delta", "delta": segment["text"], "segment_id": segment["id"]})
            events += _event(segment)
        return bytes(events) + self._end.done(transcription)


class VllmEvents:
    """vLLM's `transcription.chunk` and `translation.chunk`."""

    def __init__(self, hearing: Hearing, *, include_usage: bool, request_id: str, created: int) -> None:
        kind = "translation" if hearing.task is Task.TRANSLATE else "transcription"
        self._include_usage = include_usage
        self._head: dict[str, object] = {
            "id": f"{hearing.task.value}-{request_id}",
            "object": f"{kind}.chunk",
            "created": created,
            "model": hearing.model,
        }

    def delta(self, delta: TextDelta) -> bytes:
        return self._chunk([{"delta": {"content": delta.text}}]) if delta.text else b""

    def done(self, transcription: Transcript) -> bytes:
        last = self._chunk([{"delta": {"content": ""}, "finish_reason": "stop", "stop_reason": None}])
        return last + (self._usage(transcription) if self._include_usage else b"") + DONE

    def _chunk(self, choices: list[dict[str, object]]) -> bytes:
        return _event(self._head | {"choices": choices})

    def _usage(self, transcription: Transcript) -> bytes:
        prompt_tokens = transcription.input_text_tokens + transcription.input_audio_tokens
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + transcription.output_tokens,
            "completion_tokens": transcription.output_tokens,
        }
        return _event(self._head | {"choices": [], "usage": usage})


def _event(data: Mapping[str, object]) -> bytes:
    payload = json_bytes(data)
    for character, escape in _LINE_ENDS.items():
        payload = payload.replace(character.encode(), escape)
    return b"data: " + payload + b"\n\n"
