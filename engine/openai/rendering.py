"""How shall a transcript be written down? What OpenAI's API lets a caller choose that changes no word of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ResponseFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VERBOSE_JSON = "verbose_json"
    VTT = "vtt"
    DIARIZED_JSON = "diarized_json"


class Granularity(StrEnum):
    SEGMENT = "segment"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The form of an answer.

    granularities: the lists that `verbose_json` has. logprobs: whether log probabilities are shown.
    speakers: whether it is shown who speaks, in a format that has a place for it. voices: and what each is like.
    usage_in_tokens: how an answer that comes at once is counted; else in seconds, and a stream always in tokens.
    languages: whether `json` and the end of a stream tell the language.
    vllm_stream_shape: stream events in the shape that vLLM's own server uses.
    """

    response_format: ResponseFormat = ResponseFormat.JSON
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})
    logprobs: bool = False
    speakers: bool = False
    voices: bool = False
    stream: bool = False
    vllm_stream_shape: bool = False
    stream_include_usage: bool = False
    usage_in_tokens: bool = False
    languages: bool = True
