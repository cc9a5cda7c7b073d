"""What does a request about jobs ask for? Forms and JSON to the model's values; unknown names are refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, ValidationError, model_validator

from core.transcript.languages import LANGUAGES
from core.transcript.types import Task
from proxy.dialects import export
from proxy.dialects.export import Export, ExportError, Format
from proxy.dialects.extensions import ExtensionError, Extensions
from proxy.dialects.modes import Mode
from proxy.dialects.own.errors import RequestError
from proxy.jobs.links import LinkError, check_receiver, direct_link
from proxy.jobs.model import Capabilities, JobOptions, JobStatus, KnownSpeaker, ListQuery

MAX_JSON_BYTES: Final = 65_536
MAX_FIELD_BYTES: Final = 16_384
MAX_REFERENCE_BYTES: Final = 4_194_304
"""Of one voice, as an engine takes it: 10 s as a data URL, from 16 bits and 48 kHz in stereo down."""
MAX_REFERENCES_BYTES: Final = 4 * MAX_REFERENCE_BYTES
"""Of all of a job, which are in memory while it is submitted and heard."""
MAX_KNOWN_SPEAKERS: Final = 20
REFERENCES: Final = "known_speaker_references"
REPEATED: Final = frozenset({"redact", "vocabulary", "known_speaker_names", REFERENCES})

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DATA_URL: Final = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,(?=[A-Za-z0-9+/])", re.ASCII)  # RFC 2397


def _name(name: str) -> str:
    if not name.strip() or _CONTROL.search(name):
        raise ValueError("not a name")
    return name


def _reference(url: str) -> str:
    if (head := _DATA_URL.match(url)) is None:
        raise ValueError("not a data URL")
    base64.b64decode(url[head.end() :], validate=True)
    return url


def _language(code: str) -> str:
    if code.lower() not in LANGUAGES:
        raise ValueError("not a language that is known")
    return code.lower()


class Submission(Extensions):
    """What a job is submitted with, beside its file. url: in place of a file."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s]+$")] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    task: Task = Task.TRANSCRIBE
    language: Annotated[str, AfterValidator(_language)] | None = None
    prompt: Annotated[str, Field(max_length=4000)] | None = None
    vocabulary: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=100)] = ()
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    words: bool = False
    diarize: bool = False
    speaker_count: Annotated[int, Field(ge=1, le=50)] | None = None
    min_speakers: Annotated[int, Field(ge=1, le=50)] | None = None
    max_speakers: Annotated[int, Field(ge=1, le=50)] | None = None
    known_speaker_names: Annotated[
        tuple[Annotated[str, Field(max_length=128), AfterValidator(_name)], ...], Field(max_length=MAX_KNOWN_SPEAKERS)
    ] = ()
    known_speaker_references: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_REFERENCE_BYTES), AfterValidator(_reference)], ...],
        Field(max_length=MAX_KNOWN_SPEAKERS, repr=False),
    ] = ()
    summary: bool = False
    webhook_url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s]+$")] | None = None

    @model_validator(mode="after")
    def _go_together(self) -> Submission:
        if any((self.speaker_count, self.min_speakers, self.max_speakers)) and not self.diarize:
            raise ValueError("how many speakers there are needs diarize")
        if self.speaker_count and (self.min_speakers or self.max_speakers):
            raise ValueError("speaker_count says what min_speakers and max_speakers do")
        if self.min_speakers and self.max_speakers and self.min_speakers > self.max_speakers:
            raise ValueError("min_speakers is above max_speakers")
        if self.known_speaker_names and not self.diarize:
            raise ValueError("known_speaker_names needs diarize")
        if len(self.known_speaker_names) != len(self.known_speaker_references):
            raise ValueError("there are as many known_speaker_references as known_speaker_names")
        if len(set(self.known_speaker_names)) < len(self.known_speaker_names):
            raise ValueError("two known_speaker_names are alike")
        if self.task is Task.TRANSLATE and self.words:
            raise ValueError("words are not timed in translations")
        return self

    @property
    def options(self) -> JobOptions:
        """Raises ExtensionError."""
        plain = JobOptions(
            model=self.model,
            task=self.task,
            language=self.language,
            prompt=self.prompt,
            vocabulary=self.vocabulary,
            temperature=self.temperature,
            words=self.words,
            diarize=self.diarize,
            speaker_count=self.speaker_count,
            min_speakers=self.min_speakers,
            max_speakers=self.max_speakers,
            known_speakers=tuple(
                KnownSpeaker(name, reference)
                for name, reference in zip(self.known_speaker_names, self.known_speaker_references, strict=True)
            ),
            summary=self.summary,
            webhook_url=self.webhook_url,
        )
        return self.into(plain)


def parse_json(body: bytes) -> Submission:
    """Raises RequestError."""
    try:
        value = json.loads(body)
    except ValueError:
        raise RequestError("The body is not JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("The body is not an object.", code="invalid_json")
    return parse(value)


def parse(values: Mapping[str, Any]) -> Submission:
    """Raises RequestError, which names the first field at fault."""
    try:
        return Submission.model_validate(values)
    except ValidationError as exc:
        raise _fault(exc) from None


def _fault(exc: ValidationError) -> RequestError:
    fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else None
    if fault["type"] == "extra_forbidden":
        return RequestError("A field is unknown.", code="unknown_parameter")  # its name is the sender's text
    if name is None:
        return RequestError(str(fault["msg"]).removeprefix("Value error, ").capitalize() + ".")
    return RequestError(f"The value of {name} is not allowed.", param=name)


def check_capabilities(submission: Submission, capabilities: Capabilities) -> None:
    """Raises RequestError for what the engine cannot do: it is neither left out nor done elsewhere."""
    for name in ("words", "diarize"):
        if getattr(submission, name) and not getattr(capabilities, name):
            raise RequestError(f"The engine has no {name}.", param=name, code="unsupported_parameter")
    if submission.summary and not capabilities.summary:
        sentence = (
            "summary is not available: the engine has no model that writes one, and the proxy's extra `summaries` is "
            "not installed."
        )
        raise RequestError(sentence, param="summary", code="unsupported_parameter")
    try:
        submission.check(capabilities)
        submission.options  # noqa: B018 - what does not go together
    except ExtensionError as exc:
        code = "unsupported_parameter" if exc.lacking else "invalid_value"
        raise RequestError(str(exc), param=exc.name, code=code) from None


def check_links(submission: Submission, *, has_resolver: bool, plain_webhooks: bool) -> None:
    """Raises RequestError for a link that is not fetched, and for a webhook that is not called."""
    try:
        if submission.url is not None:
            direct_link(submission.url)
    except LinkError as exc:
        if not (exc.resolvable and has_resolver):
            raise RequestError(str(exc), param="url", code="unsupported_link") from exc
    try:
        if submission.webhook_url is not None:
            check_receiver(submission.webhook_url, plain=plain_webhooks)
    except LinkError as exc:
        raise RequestError(str(exc), param="webhook_url") from exc


_LIST_FIELDS: Final = frozenset({"status", "from", "to", "order", "limit", "cursor"})


def parse_list(query: Mapping[str, str]) -> ListQuery:
    """Raises RequestError."""
    if set(query) - _LIST_FIELDS:
        raise RequestError("A parameter is unknown.", code="unknown_parameter")
    try:
        status = JobStatus(query["status"]) if "status" in query else None
    except ValueError:
        raise RequestError("The value of status is not allowed.", param="status") from None
    if query.get("order", "desc") not in ("asc", "desc"):
        raise RequestError("The value of order is not allowed.", param="order")
    limit = query.get("limit", "50")
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:4]) <= 200 or len(limit) > 3:
        raise RequestError("limit is 1 to 200.", param="limit")
    return ListQuery(
        status=status,
        from_ms=_moment(query, "from"),
        to_ms=_moment(query, "to"),
        ascending=query.get("order") == "asc",
        limit=int(limit),
        cursor=query.get("cursor"),
    )


def _moment(query: Mapping[str, str], name: str) -> int | None:
    """An ISO 8601 time; one without an offset is UTC."""
    if name not in query:
        return None
    try:
        moment = datetime.fromisoformat(query[name])
    except ValueError:
        raise RequestError(f"{name} is an ISO 8601 time.", param=name) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class ResultQuery:
    """How a result is wanted. export: None where captions are one for each segment, and text is as it was heard."""

    format: Format
    mode: Mode = Mode.RAW
    export: Export | None = None


def parse_result(query: Mapping[str, str]) -> ResultQuery:
    """Raises RequestError."""
    if set(query) - {"format", "output_mode", *export.NAMES}:
        raise RequestError("A parameter is unknown.", code="unknown_parameter")
    try:
        wanted = export.parse_export(query)
    except ExportError as exc:
        raise RequestError(str(exc), param=exc.name) from None
    try:
        mode = Mode(query.get("output_mode", Mode.RAW))
    except ValueError:
        raise RequestError("output_mode is raw, clean or agent.", param="output_mode") from None
    if wanted.format not in _FORMATS[mode]:
        raise RequestError(f"output_mode={mode} does not go with format={wanted.format}.", param="output_mode")
    is_cut = any(name in query for name in export.NAMES)
    if is_cut and (wanted.format is Format.JSON or mode is not Mode.RAW):
        raise RequestError("Captions are cut in srt, vtt and text, as it was heard.", param="format")
    return ResultQuery(wanted.format, mode, wanted if is_cut else None)


_FORMATS: Final[Mapping[Mode, Collection[Format]]] = {
    Mode.RAW: tuple(Format),
    Mode.CLEAN: tuple(Format),
    Mode.AGENT: (Format.JSON,),
}
