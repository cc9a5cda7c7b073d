"""What the fields of a form ask for: one row for every field that is served.

Sources: OpenAI's `CreateTranscriptionRequest` and `CreateTranslationRequest`, vLLM's transcription protocol, and the
servers that `engine.openai.unserved` names, which has the fields that are refused or ignored. Fields that no API
defines are ignored and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from core.transcript.faults import AUDIO, Fault, FaultKind, option
from core.transcript.languages import code_of
from core.transcript.types import Task
from engine.openai import chunking, speakers
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import Form
from engine.openai.names import Manner
from engine.openai.raw_audio import raw_samples
from engine.openai.rendering import Granularity, Rendering, ResponseFormat
from engine.openai.subjects import subject_of
from engine.openai.unserved import IGNORED, REFUSED, REFUSED_WITHOUT_SPEAKERS, REFUSED_WITHOUT_VOICES, Refused
from engine.openai.values import BOOLEAN, TEXT, FormValues, Many, One, Reader, choice, integer, number
from engine.speech.speakers import ToldBy
from engine.speech.whisper import DECODER_TOKENS
from engine.types import Detail, Hearing


class Include(StrEnum):
    LOGPROBS = "logprobs"
    SPEAKER_EMBEDDINGS = "speaker_embeddings"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """What a form asks for, checked.

    unknown_fields: how many different field names of the form meant nothing to us (for a metric).
    """

    hearing: Hearing
    rendering: Rendering
    unknown_fields: int


MAX_PROMPT_CHARS: Final = 4096
"""What is kept of glossary and prompt: the end. The model reads its last 223 tokens, which in no language have so many
as 18 characters each; all that is given up is text behind a long run of spaces or dots, which are one token."""

# `<|...|>` as Whisper's special tokens are spelled. A space takes its place, so that what stood around it cannot
# join into another one.
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|\s]*\|>")
# C0 and C1 but for white space: they tell a model nothing.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


def _phrase(value: str) -> str:
    return " ".join(_plain(value).split())


def _phrases(value: str) -> tuple[str, ...]:
    return tuple(filter(None, map(_phrase, value.split(","))))


def _plain(value: str) -> str:
    return _SPECIAL_TOKEN.sub(" ", _CONTROL.sub(" ", value)).strip()


_LANGUAGE: Final = Reader(
    code_of, "an ISO 639-1 or 639-3 code such as `en`, a tag such as `en-US`, an English name, or `auto`"
)
_ENGLISH: Final = Reader(
    lambda value: "en" if code_of(value) == "en" else None, "English: translations are into no other language"
)
_DETECTED: Final = frozenset({"auto"})

MODEL: Final = One("model", TEXT)
LANGUAGE: Final = One("language", _LANGUAGE, unset=_DETECTED)
LANGUAGES: Final = Many("languages", _LANGUAGE, unset=_DETECTED)
DETECT_LANGUAGE: Final = One("detect_language", BOOLEAN)
TASK: Final = One("task", choice(Task))
TRANSLATE: Final = One("translate", BOOLEAN)
KEYWORDS: Final = Many("keywords", Reader(_phrase))
HOTWORDS: Final = One("hotwords", Reader(_phrases))
PROMPT: Final = One("prompt", Reader(_plain), also=("initial_prompt",))
RESPONSE_FORMAT: Final = One("response_format", choice(ResponseFormat))
GRANULARITIES: Final = Many("timestamp_granularities", choice(Granularity))
WORD_TIMESTAMPS: Final = One("word_timestamps", BOOLEAN)
STREAM: Final = One("stream", BOOLEAN)
INCLUDE: Final = Many("include", choice(Include))
MAX_TOKENS: Final = One("max_completion_tokens", integer(1, 2**63 - 1))
TO_LANGUAGE: Final = One("to_language", _ENGLISH, FaultKind.UNSUPPORTED_VALUE)

# Only vLLM's own clients send these two, and their presence tells that they want vLLM's events.
STREAM_INCLUDE_USAGE: Final = One("stream_include_usage", BOOLEAN)
STREAM_CONTINUOUS_USAGE: Final = One("stream_continuous_usage_stats", BOOLEAN)

LEAST_TEMPERATURE: Final = 0.01
"""What less counts as, as in vLLM. Logits are divided by it: by far less they overflow, and the text is of NULs."""
TEMPERATURE: Final = One("temperature", number(0.0, 1.0, least=LEAST_TEMPERATURE))

# vLLM's `SamplingParams`. A model takes those that its row in the catalogue names. The ranges are vLLM's, but for the
# two that must not be 0 there: logits are divided by a repetition penalty, and 1e-300 is 0 in float32.
SAMPLING: Final[tuple[One[int] | One[float], ...]] = (
    One("seed", integer(-(2**63), 2**63 - 1)),
    One("top_p", number(0.00001, 1.0)),
    One("top_k", integer(-1, 2**31 - 1)),
    One("min_p", number(0.0, 1.0)),
    One("frequency_penalty", number(-2.0, 2.0)),
    One("presence_penalty", number(-2.0, 2.0)),
    One("repetition_penalty", number(0.01, 2.0)),
)

ROWS: Final[tuple[One[object] | Many[object], ...]] = (
    *(MODEL, LANGUAGE, LANGUAGES, DETECT_LANGUAGE, TASK, TRANSLATE, KEYWORDS, HOTWORDS, PROMPT, RESPONSE_FORMAT),
    *(TEMPERATURE, GRANULARITIES, WORD_TIMESTAMPS, STREAM, INCLUDE, MAX_TOKENS, TO_LANGUAGE),
    *(STREAM_INCLUDE_USAGE, STREAM_CONTINUOUS_USAGE, chunking.VAD_FILTER, *SAMPLING, *speakers.ROWS),
)
"""Every field that is served, but for the file and `chunking_strategy`, which is more than one value."""

_KNOWN: Final = {name for row in ROWS for name in row.names} | IGNORED | {row.name for row in REFUSED}


@dataclass(frozen=True, slots=True)
class _Rule:
    """Two things that do not go together, and the field that is blamed."""

    broken: Callable[[Hearing, Rendering, ServedModel], bool]
    kind: FaultKind
    field: str


_STREAMABLE: Final = (ResponseFormat.JSON, ResponseFormat.TEXT, ResponseFormat.DIARIZED_JSON)
_WITH_SPEAKERS: Final = (ResponseFormat.VERBOSE_JSON, ResponseFormat.DIARIZED_JSON)

_RULES: Final = (
    _Rule(lambda hearing, _, model: hearing.language is None and not model.detects, FaultKind.MISSING, LANGUAGE.name),
    _Rule(lambda hearing, _, model: hearing.task not in model.tasks, FaultKind.UNSUPPORTED_VALUE, MODEL.name),
    _Rule(
        lambda hearing, _, model: hearing.language is not None and hearing.language not in model.languages,
        FaultKind.UNSUPPORTED_VALUE,
        LANGUAGE.name,
    ),
    _Rule(
        lambda hearing, _, model: not model.languages.issuperset(hearing.languages),
        FaultKind.UNSUPPORTED_VALUE,
        LANGUAGES.name,
    ),
    _Rule(
        lambda _, rendering, __: rendering.stream and rendering.response_format not in _STREAMABLE,
        FaultKind.UNSUPPORTED_VALUE,
        STREAM.name,
    ),
    _Rule(
        # vLLM's shape has no place for speakers.
        lambda _, rendering, __: (
            rendering.stream
            and rendering.vllm_stream_shape
            and rendering.response_format is ResponseFormat.DIARIZED_JSON
        ),
        FaultKind.UNSUPPORTED_VALUE,
        STREAM.name,
    ),
    _Rule(
        lambda hearing, rendering, model: (
            rendering.response_format is ResponseFormat.DIARIZED_JSON
            and (model.speakers is None or hearing.task is Task.TRANSLATE)
        ),
        FaultKind.UNSUPPORTED_VALUE,
        RESPONSE_FORMAT.name,
    ),
    _Rule(
        lambda hearing, rendering, _: rendering.speakers and hearing.task is Task.TRANSLATE,
        FaultKind.UNSUPPORTED_VALUE,
        speakers.DIARIZE.name,
    ),
    _Rule(
        lambda _, rendering, __: rendering.speakers and rendering.response_format not in _WITH_SPEAKERS,
        FaultKind.INVALID,
        speakers.DIARIZE.name,
    ),
    _Rule(
        lambda _, rendering, model: rendering.voices and not (rendering.speakers and model.speakers is ToldBy.VOICES),
        FaultKind.UNSUPPORTED_VALUE,
        INCLUDE.name,
    ),
    _Rule(
        lambda hearing, _, __: hearing.task is Task.TRANSLATE and Detail.WORDS in hearing.details,
        FaultKind.UNSUPPORTED_VALUE,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda hearing, rendering, _: (
            Detail.WORDS in hearing.details and rendering.response_format is not ResponseFormat.VERBOSE_JSON
        ),
        FaultKind.INVALID,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda hearing, _, model: Detail.WORDS in hearing.details and Detail.WORDS not in model.details,
        FaultKind.UNSUPPORTED,
        GRANULARITIES.name,
    ),
    _Rule(
        lambda hearing, _, model: Detail.LOGPROBS in hearing.details and Detail.LOGPROBS not in model.details,
        FaultKind.UNSUPPORTED,
        INCLUDE.name,
    ),
    _Rule(
        lambda hearing, rendering, _: (
            Detail.LOGPROBS in hearing.details and rendering.response_format is not ResponseFormat.JSON
        ),
        FaultKind.UNSUPPORTED_VALUE,
        INCLUDE.name,
    ),
    _Rule(
        # vLLM's shape has no place for them.
        lambda hearing, rendering, _: (
            Detail.LOGPROBS in hearing.details and rendering.stream and rendering.vllm_stream_shape
        ),
        FaultKind.UNSUPPORTED_VALUE,
        INCLUDE.name,
    ),
)


def parse_transcription(form: Form, models: ModelCatalogue) -> ParsedRequest:
    """What a form sent to `/v1/audio/transcriptions` asks for. Raises Fault naming the field at fault."""
    return _parsed(Task.TRANSCRIBE, form, models)


def parse_translation(form: Form, models: ModelCatalogue) -> ParsedRequest:
    """What a form sent to `/v1/audio/translations` asks for: `language` is a hint at the source.

    Raises Fault naming the field at fault.
    """
    return _parsed(Task.TRANSLATE, form, models)


def parse_live(fields: Iterable[tuple[str, str]], models: ModelCatalogue, *, logprobs: bool) -> Hearing:
    """What is asked for what somebody is about to say, by the fields of a form that mean the same.

    Raises Fault naming the field at fault.
    """
    values = FormValues.of(fields)
    model, rendering = models.find(MODEL.of(values)), Rendering(logprobs=logprobs)
    hearing = Hearing(
        model=model.id,
        language=LANGUAGE.of(values),
        languages=LANGUAGES.of(values),
        prompt=_prompt(values),
        details=_details(rendering),
    )
    _check(hearing, rendering, model)
    return hearing


def _parsed(route: Task, form: Form, models: ModelCatalogue) -> ParsedRequest:
    values = FormValues.of(form.fields)
    for row in REFUSED:
        if row.is_asked_for(values):
            raise Fault(FaultKind.UNSUPPORTED, option(row.name))
    if form.audio is None:
        raise Fault(FaultKind.MISSING, AUDIO)
    if not form.audio:
        raise Fault(FaultKind.TOO_SHORT, AUDIO)
    model = models.find(MODEL.of(values))
    for row in _refused_by(model):
        if row.is_asked_for(values):
            raise Fault(FaultKind.UNSUPPORTED, option(row.name))
    manner = model.manner(MODEL.of(values))
    rendering = _rendering(values, manner)
    hearing = _hearing(_task(route, values), form, values, model, rendering)
    _check_manner(hearing, rendering, manner)
    _check(hearing, rendering, model)
    return ParsedRequest(_with_words(hearing, model), rendering, _unknown_fields(values))


def _check(hearing: Hearing, rendering: Rendering, model: ServedModel) -> None:
    for rule in _RULES:
        if rule.broken(hearing, rendering, model):
            raise Fault(rule.kind, subject_of(rule.field))


def _check_manner(hearing: Hearing, rendering: Rendering, manner: Manner) -> None:
    if hearing.task not in manner.tasks:
        raise Fault(FaultKind.UNSUPPORTED_VALUE, MODEL.subject)
    if rendering.response_format not in manner.formats:
        raise Fault(FaultKind.UNSUPPORTED_VALUE, RESPONSE_FORMAT.subject)
    blamed = {Detail.WORDS: GRANULARITIES, Detail.LOGPROBS: INCLUDE}
    for detail, row in blamed.items():
        if detail in hearing.details - manner.details:
            raise Fault(FaultKind.UNSUPPORTED, row.subject)


def _refused_by(model: ServedModel) -> tuple[Refused, ...]:
    if model.speakers is None:
        return REFUSED_WITHOUT_SPEAKERS
    return () if model.speakers is ToldBy.VOICES else REFUSED_WITHOUT_VOICES


def _with_words(hearing: Hearing, model: ServedModel) -> Hearing:
    """Where speakers are told apart, words are asked for too: between two of them a segment is cut."""
    if hearing.speakers is None or Detail.WORDS not in model.details:
        return hearing
    return replace(hearing, details=hearing.details | {Detail.WORDS})


def _task(route: Task, values: FormValues) -> Task:
    """What is to be done: what the route says, unless `task` or `translate` ask its other one for a translation."""
    asked, translate = TASK.of(values), TRANSLATE.of(values) or route is Task.TRANSLATE
    if asked is Task.TRANSCRIBE and translate:
        raise Fault(FaultKind.UNSUPPORTED_VALUE, TASK.subject)
    if asked is not Task.TRANSLATE and not translate:
        return Task.TRANSCRIBE
    TO_LANGUAGE.of(values)  # a transcription ignores it, as vLLM does
    return Task.TRANSLATE


def _hearing(task: Task, form: Form, values: FormValues, model: ServedModel, rendering: Rendering) -> Hearing:
    language, max_tokens = LANGUAGE.of(values), MAX_TOKENS.of(values)
    return Hearing(
        model=model.id,
        task=task,
        language=None if DETECT_LANGUAGE.of(values) else language,
        languages=LANGUAGES.of(values),
        prompt=_prompt(values),
        temperature=TEMPERATURE.of(values) or 0.0,
        details=_details(rendering),
        voice_activity=chunking.voice_activity(values),
        max_tokens=None if max_tokens is None else min(max_tokens, DECODER_TOKENS),  # the prompt included
        sampling=_sampling(values, model),
        raw_samples=raw_samples(form),
        speakers=speakers.wish(values, wanted=rendering.speakers, voices=rendering.voices),
    )


def _rendering(values: FormValues, manner: Manner) -> Rendering:
    STREAM_CONTINUOUS_USAGE.of(values)  # checked; the total at the end says as much
    granularities = frozenset(GRANULARITIES.of(values)) or frozenset({Granularity.SEGMENT})
    response_format = RESPONSE_FORMAT.of(values) or ResponseFormat.JSON
    include = INCLUDE.of(values)
    return Rendering(
        response_format=response_format,
        granularities=granularities | {Granularity.WORD} if WORD_TIMESTAMPS.of(values) else granularities,
        logprobs=Include.LOGPROBS in include,
        speakers=bool(speakers.DIARIZE.of(values)) or response_format is ResponseFormat.DIARIZED_JSON,
        voices=Include.SPEAKER_EMBEDDINGS in include,
        stream=bool(STREAM.of(values)) and manner.streams,
        vllm_stream_shape=values.has(STREAM_INCLUDE_USAGE.name) or values.has(STREAM_CONTINUOUS_USAGE.name),
        stream_include_usage=STREAM_INCLUDE_USAGE.of(values) or False,
        usage_in_tokens=manner.usage_in_tokens,
        languages=manner.tells_languages,
    )


def _details(rendering: Rendering) -> frozenset[Detail]:
    asked = {Detail.WORDS: Granularity.WORD in rendering.granularities, Detail.LOGPROBS: rendering.logprobs}
    return frozenset(detail for detail, wanted in asked.items() if wanted)


def _prompt(values: FormValues) -> str | None:
    """The caller's prompt behind a glossary of its keywords, which is how Whisper is told of names: the end of it."""
    words = dict.fromkeys((*KEYWORDS.of(values), *(HOTWORDS.of(values) or ())))
    glossary = ", ".join(filter(None, words))
    parts = (f"Glossary: {glossary}." if glossary else "", PROMPT.of(values) or "")
    return " ".join(filter(None, parts))[-MAX_PROMPT_CHARS:] or None


def _sampling(values: FormValues, model: ServedModel) -> dict[str, float]:
    sampling: dict[str, float] = {}
    for row in SAMPLING:
        value = row.of(values)
        if value is None:
            continue
        if row.name not in model.sampling:
            raise Fault(FaultKind.UNSUPPORTED, row.subject)
        sampling[row.name] = value
    return sampling


def _unknown_fields(values: FormValues) -> int:
    names = values.lists.keys() - _KNOWN - {chunking.NAME}
    members = {(name, key) for name, key in values.members if name != chunking.NAME or key not in chunking.MEMBERS}
    return len(names) + len(members)
