"""What the fields of a form ask for: one row for every field of OpenAI's two routes and of vLLM's extensions.

Sources: OpenAI's `CreateTranscriptionRequest` and `CreateTranslationRequest`, vLLM's transcription protocol. Three
kinds of fields have no row here: those that are refused because silence about them would mislead (`_REFUSED`),
those that change nothing (`_IGNORED`), and unknown ones, which are ignored and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from engine.errors import ErrorCode, RequestError
from engine.openai import chunking
from engine.openai.languages import code_of
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import Form
from engine.openai.raw_audio import raw_samples
from engine.openai.values import FormValues, Many, One, boolean, choice, integer, number, text
from engine.types import Granularity, ResponseFormat, Task, TranscriptionRequest


class Include(StrEnum):
    LOGPROBS = "logprobs"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A checked request, and how many different field names of the form meant nothing to us (for a metric)."""

    request: TranscriptionRequest
    unknown_fields: int


MAX_COMPLETION_TOKENS: Final = 448
"""The decoder's context; the backend takes the prompt's share off."""

MAX_PROMPT_CHARS: Final = 4096
"""What is kept of glossary and prompt: the end. The model reads its last 223 tokens, which in no language have so many
as 18 characters each; all that is given up is text behind a long run of spaces or dots, which are one token."""

# `<|...|>` as Whisper's special tokens are spelled. A space takes its place, so that what stood around it cannot
# join into another one.
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|\s]*\|>")
# C0 and C1 but for white space: they tell a model nothing.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


def _phrase(value: str) -> str | None:
    return " ".join(_plain(value).split())


def _phrases(value: str) -> tuple[str, ...]:
    return tuple(filter(None, map(_phrase, value.split(","))))


def _english(value: str) -> str | None:
    return "en" if code_of(value) == "en" else None


def _plain(value: str) -> str:
    return _SPECIAL_TOKEN.sub(" ", _CONTROL.sub(" ", value)).strip()


MODEL: Final = One("model", text)
LANGUAGE: Final = One("language", code_of, ErrorCode.INVALID_LANGUAGE)
LANGUAGES: Final = Many("languages", code_of, ErrorCode.INVALID_LANGUAGE)
KEYWORDS: Final = Many("keywords", _phrase)
HOTWORDS: Final = One("hotwords", _phrases)
PROMPT: Final = One("prompt", _plain)
RESPONSE_FORMAT: Final = One("response_format", choice(ResponseFormat), unsupported=frozenset({"diarized_json"}))
TEMPERATURE: Final = One("temperature", number(0.0, 1.0))
GRANULARITIES: Final = Many("timestamp_granularities", choice(Granularity))
STREAM: Final = One("stream", boolean)
INCLUDE: Final = Many("include", choice(Include))
MAX_TOKENS: Final = One("max_completion_tokens", integer(1, 2**63 - 1))
TO_LANGUAGE: Final = One("to_language", _english, ErrorCode.UNSUPPORTED_VALUE)

# Only vLLM's own clients send these two, and their presence tells that they want vLLM's events.
STREAM_INCLUDE_USAGE: Final = One("stream_include_usage", boolean)
STREAM_CONTINUOUS_USAGE: Final = One("stream_continuous_usage_stats", boolean)

# vLLM's `SamplingParams`, with its ranges. A model takes those that its row in the catalogue names.
SAMPLING: Final[tuple[One[int] | One[float], ...]] = (
    One("seed", integer(-(2**63), 2**63 - 1)),
    One("top_p", number(0.0, 1.0, above_low=True)),
    One("top_k", integer(-1, 2**31 - 1)),
    One("min_p", number(0.0, 1.0)),
    One("frequency_penalty", number(-2.0, 2.0)),
    One("presence_penalty", number(-2.0, 2.0)),
    One("repetition_penalty", number(0.0, 2.0, above_low=True)),
)

_REFUSED: Final = (
    "known_speaker_names",
    "known_speaker_references",  # who names speakers must not get a text without them
    "use_beam_search",
    "n",
    "length_penalty",
    "include_stop_str_in_output",  # one caller's beams cost every caller time
    "vllm_xargs",  # reaches plugins of the engine
)
_IGNORED: Final = frozenset({"watermarking", "without_timestamps"})

_KNOWN: Final = _IGNORED | {
    row.name
    for row in (
        *(MODEL, LANGUAGE, LANGUAGES, KEYWORDS, HOTWORDS, PROMPT, RESPONSE_FORMAT, TEMPERATURE, GRANULARITIES),
        *(STREAM, INCLUDE, MAX_TOKENS, TO_LANGUAGE, STREAM_INCLUDE_USAGE, STREAM_CONTINUOUS_USAGE),
        *(chunking.VAD_FILTER, *SAMPLING),
    )
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """Two things that do not go together, and the field that is blamed."""

    broken: Callable[[TranscriptionRequest, ServedModel], bool]
    code: ErrorCode
    param: str


_STREAMABLE: Final = (ResponseFormat.JSON, ResponseFormat.TEXT)

_RULES: Final = (
    _Rule(lambda asked, model: asked.task not in model.tasks, ErrorCode.UNSUPPORTED_VALUE, MODEL.name),
    _Rule(
        lambda asked, model: asked.language is not None and asked.language not in model.languages,
        ErrorCode.INVALID_LANGUAGE,
        LANGUAGE.name,
    ),
    _Rule(
        lambda asked, model: not model.languages.issuperset(asked.languages),
        ErrorCode.INVALID_LANGUAGE,
        LANGUAGES.name,
    ),
    _Rule(
        lambda asked, _: asked.stream and asked.response_format not in _STREAMABLE,
        ErrorCode.UNSUPPORTED_VALUE,
        STREAM.name,
    ),
    _Rule(
        lambda asked, _: asked.task is Task.TRANSLATE and Granularity.WORD in asked.granularities,
        ErrorCode.UNSUPPORTED_VALUE,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda asked, _: (
            Granularity.WORD in asked.granularities and asked.response_format is not ResponseFormat.VERBOSE_JSON
        ),
        ErrorCode.INVALID_VALUE,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda asked, model: Granularity.WORD in asked.granularities and not model.word_timestamps,
        ErrorCode.UNSUPPORTED_PARAMETER,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda asked, model: asked.logprobs and not model.logprobs,
        ErrorCode.UNSUPPORTED_PARAMETER,
        INCLUDE.name,
    ),
    _Rule(
        lambda asked, _: asked.logprobs and asked.response_format is not ResponseFormat.JSON,
        ErrorCode.UNSUPPORTED_VALUE,
        INCLUDE.name,
    ),
    _Rule(
        lambda asked, _: asked.logprobs and asked.stream and asked.vllm_stream_shape,  # which has no place for them
        ErrorCode.UNSUPPORTED_VALUE,
        INCLUDE.name,
    ),
)


def parse_transcription(form: Form, models: ModelCatalogue) -> ParsedRequest:
    """What a form sent to `/v1/audio/transcriptions` asks for. Raises RequestError naming the field at fault."""
    values = _values(form)
    return _parsed(_request(Task.TRANSCRIBE, form, values, models), values)


def parse_translation(form: Form, models: ModelCatalogue) -> ParsedRequest:
    """What a form sent to `/v1/audio/translations` asks for: `language` is a hint at the source.

    Raises RequestError naming the field at fault.
    """
    values = _values(form)
    TO_LANGUAGE.of(values)  # a transcription ignores it, as vLLM does
    return _parsed(_request(Task.TRANSLATE, form, values, models), values)


def _values(form: Form) -> FormValues:
    if form.audio is None:
        raise RequestError(ErrorCode.MISSING_REQUIRED_PARAMETER, "file")
    if not form.audio:
        raise RequestError(ErrorCode.AUDIO_TOO_SHORT, "file")
    values = FormValues.of(form.fields)
    for name in _REFUSED:
        if values.has(name):
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, name)
    return values


def _request(task: Task, form: Form, values: FormValues, models: ModelCatalogue) -> TranscriptionRequest:
    model = models.find(MODEL.of(values))
    request = TranscriptionRequest(
        model=model.id,
        task=task,
        language=LANGUAGE.of(values),
        languages=LANGUAGES.of(values),
        prompt=_prompt(values),
        response_format=RESPONSE_FORMAT.of(values) or ResponseFormat.JSON,
        temperature=TEMPERATURE.of(values) or 0.0,
        granularities=frozenset(GRANULARITIES.of(values)) or frozenset({Granularity.SEGMENT}),
        stream=STREAM.of(values) or False,
        vllm_stream_shape=values.has(STREAM_INCLUDE_USAGE.name) or values.has(STREAM_CONTINUOUS_USAGE.name),
        stream_include_usage=STREAM_INCLUDE_USAGE.of(values) or False,
        logprobs=Include.LOGPROBS in INCLUDE.of(values),
        voice_activity=chunking.voice_activity(values),
        max_completion_tokens=_max_completion_tokens(values),
        sampling=_sampling(values, model),
        raw_samples=raw_samples(form),
    )
    STREAM_CONTINUOUS_USAGE.of(values)  # checked; the total at the end says as much
    for rule in _RULES:
        if rule.broken(request, model):
            raise RequestError(rule.code, rule.param)
    return request


def _prompt(values: FormValues) -> str | None:
    """The caller's prompt behind a glossary of its keywords, which is how Whisper is told of names: the end of it."""
    words = dict.fromkeys((*KEYWORDS.of(values), *(HOTWORDS.of(values) or ())))
    glossary = ", ".join(filter(None, words))
    parts = (f"Glossary: {glossary}." if glossary else "", PROMPT.of(values) or "")
    return " ".join(filter(None, parts))[-MAX_PROMPT_CHARS:] or None


def _max_completion_tokens(values: FormValues) -> int | None:
    asked = MAX_TOKENS.of(values)
    return None if asked is None else min(asked, MAX_COMPLETION_TOKENS)


def _sampling(values: FormValues, model: ServedModel) -> dict[str, float]:
    sampling: dict[str, float] = {}
    for row in SAMPLING:
        value = row.of(values)
        if value is None:
            continue
        if row.name not in model.sampling:
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, row.name)
        sampling[row.name] = value
    return sampling


def _parsed(request: TranscriptionRequest, values: FormValues) -> ParsedRequest:
    names = values.lists.keys() - _KNOWN - {chunking.NAME}
    members = {(name, key) for name, key in values.members if name != chunking.NAME or key not in chunking.MEMBERS}
    return ParsedRequest(request, len(names) + len(members))
