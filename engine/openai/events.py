"""How a transcript is streamed: server-sent events in OpenAI's shape, or in that of vLLM's own server.

::

    data: {"type":"transcript.text.delta","delta":"I"} LF LF
    data: {"type":"transcript.text.done","text":"I see.","usage":{"type":"tokens",...}} LF LF
    data: [DONE] LF LF

A stream that ends without `[DONE]` is not complete: after an error event nothing follows. vLLM's shape (chunks as
of a chat completion) is what its clients, `vllm bench serve` among them, understand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from engine.errors import RequestError
from engine.openai.errors import envelope
from engine.openai.formats import json_bytes, logprob_objects
from engine.types import Task, TextDelta, Transcription, TranscriptionRequest

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

    def done(self, transcription: Transcription) -> bytes:
        """The events that end a complete stream, `[DONE]` included."""


def event_stream(request: TranscriptionRequest, *, request_id: str, created: int) -> EventStream:
    """The stream in the shape that `request` asks for.

    request_id, created: of vLLM's chunks; `created` in Unix seconds.
    """
    if request.vllm_stream_shape:
        return VllmEvents(request, request_id=request_id, created=created)
    return OpenAIEvents(logprobs=request.logprobs)


def error_event(error: RequestError) -> bytes:
    """The last event of a failed stream, in either shape; OpenAI's SDK raises an `APIError` with its code and type."""
    return _event(envelope(error))


class OpenAIEvents:
    """OpenAI's `transcript.text.*` events. Keeps one bit: whether text was sent, as the text starts unindented."""

    def __init__(self, *, logprobs: bool = False) -> None:
        self._logprobs = logprobs
        self._begun = False

    def delta(self, delta: TextDelta) -> bytes:
        text = delta.text if self._begun else delta.text.lstrip()
        if not text:
            return b""
        self._begun = True
        event: dict[str, object] = {"type": "transcript.text.delta", "delta": text}
        if self._logprobs:
            event["logprobs"] = logprob_objects(delta.logprobs)
        return _event(event)

    def done(self, transcription: Transcription) -> bytes:
        event: dict[str, object] = {"type": "transcript.text.done", "text": transcription.text.strip()}
        if self._logprobs:
            event["logprobs"] = logprob_objects(transcription.logprobs)
        return _event(event | {"usage": _token_usage(transcription)}) + DONE


class VllmEvents:
    """vLLM's `transcription.chunk` and `translation.chunk`."""

    def __init__(self, request: TranscriptionRequest, *, request_id: str, created: int) -> None:
        kind = "translation" if request.task is Task.TRANSLATE else "transcription"
        self._include_usage = request.stream_include_usage
        self._head: dict[str, object] = {
            "id": f"{request.task.value}-{request_id}",
            "object": f"{kind}.chunk",
            "created": created,
            "model": request.model,
        }

    def delta(self, delta: TextDelta) -> bytes:
        return self._chunk([{"delta": {"content": delta.text}}]) if delta.text else b""

    def done(self, transcription: Transcription) -> bytes:
        last = self._chunk([{"delta": {"content": ""}, "finish_reason": "stop", "stop_reason": None}])
        return last + (self._usage(transcription) if self._include_usage else b"") + DONE

    def _chunk(self, choices: list[dict[str, object]]) -> bytes:
        return _event(self._head | {"choices": choices})

    def _usage(self, transcription: Transcription) -> bytes:
        prompt_tokens = transcription.input_text_tokens + transcription.input_audio_tokens
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + transcription.output_tokens,
            "completion_tokens": transcription.output_tokens,
        }
        return _event(self._head | {"choices": [], "usage": usage})


def _token_usage(transcription: Transcription) -> dict[str, object]:
    """`usage` of a stream, which OpenAI's schema counts in tokens only (an answer at once: in seconds)."""
    text_tokens, audio_tokens = transcription.input_text_tokens, transcription.input_audio_tokens
    input_tokens = text_tokens + audio_tokens
    return {
        "type": "tokens",
        "input_tokens": input_tokens,
        "input_token_details": {"text_tokens": text_tokens, "audio_tokens": audio_tokens},
        "output_tokens": transcription.output_tokens,
        "total_tokens": input_tokens + transcription.output_tokens,
    }


def _event(data: Mapping[str, object]) -> bytes:
    payload = json_bytes(data)
    for character, escape in _LINE_ENDS.items():
        payload = payload.replace(character.encode(), escape)
    return b"data: " + payload + b"\n\n"
