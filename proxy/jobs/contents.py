"""How is what will be sealed written down? JSON of the model's values, by pydantic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from core.transcript.types import Transcript
from proxy.jobs.model import JobOptions, JobResult, KnownSpeaker, Receipt, Source, StoredAnswer


@dataclass(frozen=True, slots=True)
class Details:
    """What of a job is sealed beside its result."""

    source: Source
    options: JobOptions


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What of an upload is sealed. blob: its file, once it is there."""

    name: str
    content_type: str
    blob: str | None = None


DETAILS: Final = TypeAdapter(Details)
FILE_FACTS: Final = TypeAdapter(FileFacts)
KNOWN_SPEAKERS: Final = TypeAdapter(tuple[KnownSpeaker, ...])
RESULT: Final = TypeAdapter(JobResult)
RECEIPT: Final = TypeAdapter(Receipt)
TRANSCRIPT: Final = TypeAdapter(Transcript)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: tuple[tuple[str, str], ...]


_ANSWER: Final = TypeAdapter(_Answer)


def answer_bytes(answer: StoredAnswer) -> bytes:
    """Head and body, the body as it is."""
    return _ANSWER.dump_json(_Answer(answer.status, answer.headers)) + b"\n" + answer.body


def parse_answer(data: bytes) -> StoredAnswer:
    head, _, body = data.partition(b"\n")
    parsed = _ANSWER.validate_json(head)
    return StoredAnswer(parsed.status, parsed.headers, body)
