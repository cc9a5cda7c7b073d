"""What can be asked of every job API beyond its own document? The same fields, by the same names, in all of them.

::

    start_s, end_s           only that stretch is heard; times count from the beginning of the recording all the same
    channels                 each of two channels is heard by itself
    redact                   kinds of personal data that are left out of the text, or "all"
    metadata                 texts of the caller's own, by name, told again with the job
    priority                 low, normal or high among the account's own jobs
    delete_after_s           its content is forgotten so long after the job's end
    webhook_authorization    the Authorization header of messages to the webhook

In a form `redact` is repeated, or has commas; `metadata` is JSON. Answers have `metadata`, `channels` (from 1, each
with its text and segments) and `redacted` (how often each kind was left out) where they were asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from core.transcript.types import Transcript
from proxy.jobs.model import Capabilities, JobOptions, JobResult, PersonalData, Priority

MAX_METADATA: Final = 16
MAX_RECORDING_S: Final = 36_000.0
MAX_KEPT_S: Final = 10 * 365 * 86_400

_HEADER: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class ExtensionError(ValueError):
    """A field that is wrong. name: its name, which is one of ours. Its text is a sentence about it."""

    def __init__(self, name: str, sentence: str, *, lacking: bool = False) -> None:
        super().__init__(sentence)
        self.name = name
        self.lacking = lacking


def _kinds(value: Any) -> Any:
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list | tuple):
        named = [part.strip() if isinstance(part, str) else part for each in value for part in _split(each)]
        return [kind.value for kind in PersonalData] if named == ["all"] else named
    return value


def _split(value: Any) -> Iterable[Any]:
    return value.split(",") if isinstance(value, str) else [value]


def _each_once(kinds: tuple[PersonalData, ...]) -> tuple[PersonalData, ...]:
    return tuple(dict.fromkeys(kinds))


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise ValueError("not the value of a header")
    return value


class Extensions(BaseModel):
    """The fields, each None, False or empty where it is not given."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    start_s: Annotated[float, Field(ge=0, lt=MAX_RECORDING_S, allow_inf_nan=False)] | None = None
    end_s: Annotated[float, Field(gt=0, le=MAX_RECORDING_S, allow_inf_nan=False)] | None = None
    channels: bool = False
    redact: Annotated[tuple[PersonalData, ...], BeforeValidator(_kinds), AfterValidator(_each_once)] = ()
    metadata: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=MAX_METADATA),
        BeforeValidator(_parsed),
    ] = Field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    delete_after_s: Annotated[int, Field(ge=0, le=MAX_KEPT_S)] | None = None
    webhook_authorization: Annotated[str, Field(max_length=1024), AfterValidator(_header)] | None = None

    @model_validator(mode="after")
    def _go_forward(self) -> Extensions:
        if self.end_s is not None and round(self.end_s * 1000) <= round((self.start_s or 0) * 1000):
            raise ValueError("end_s must be after start_s")
        return self

    def check(self, can: Capabilities) -> None:
        """Raises ExtensionError for what cannot be done here: it is neither left out nor done elsewhere."""
        if not can.cut and (name := next((name for name in _CUT if getattr(self, name)), None)):
            raise ExtensionError(name, f"{name} is not available: this proxy cuts no recordings.", lacking=True)
        if self.redact and not can.redact:
            sentence = "redact is not available: the proxy's extra `redaction` is not installed."
            raise ExtensionError("redact", sentence, lacking=True)

    def into(self, options: JobOptions) -> JobOptions:
        """`options` with these. Raises ExtensionError for those that do not go together."""
        if self.webhook_authorization is not None and options.webhook_url is None:
            raise ExtensionError("webhook_authorization", "webhook_authorization needs webhook_url.")
        if self.channels and options.diarize:
            raise ExtensionError("channels", "channels and speakers cannot be told apart at once.")
        return replace(
            options,
            start_ms=round((self.start_s or 0) * 1000),
            end_ms=None if self.end_s is None else round(self.end_s * 1000),
            channels=self.channels,
            redact=self.redact,
            metadata=self.metadata,
            priority=self.priority,
            delete_after_ms=None if self.delete_after_s is None else self.delete_after_s * 1000,
            webhook_authorization=self.webhook_authorization,
        )


_CUT: Final = ("start_s", "end_s", "channels")
NAMES: Final = tuple(Extensions.model_fields)


def extended(options: JobOptions, fields: Mapping[str, Any], can: Capabilities) -> JobOptions:
    """`options` with what `fields` ask for beyond an API's own; others are not looked at. Raises ExtensionError."""
    given = {name: fields[name] for name in NAMES if fields.get(name) not in (None, "")}
    try:
        found = Extensions.model_validate(given)
    except ValidationError as exc:
        raise _fault(exc) from None
    found.check(can)
    return found.into(options)


def _fault(exc: ValidationError) -> ExtensionError:
    fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    if not fault["loc"]:
        return ExtensionError("end_s", "end_s must be after start_s.")
    name = str(fault["loc"][0])
    return ExtensionError(name, f"The value of {name} is not allowed.")


def told(options: JobOptions) -> dict[str, Any]:
    """What a job tells again: what its submitter gave it to keep."""
    return {"metadata": dict(options.metadata)} if options.metadata else {}


def found(result: JobResult) -> dict[str, Any]:
    """What a result has beyond an API's own: the text of each channel, and how often each kind was left out."""
    more: dict[str, Any] = {}
    if result.channels:
        more["channels"] = [_channel(number, said) for number, said in enumerate(result.channels, start=1)]
    if result.redacted:
        more["redacted"] = {kind.value: count for kind, count in result.redacted.items()}
    return more


def _channel(number: int, said: Transcript) -> dict[str, Any]:
    segments = [
        {"start": round(each.start_s, 3), "end": round(each.end_s, 3), "text": each.text.strip()}
        for each in said.segments
    ]
    return {"channel": number, "text": said.text.strip(), "segments": segments}
