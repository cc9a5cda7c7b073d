"""Where does the summary of a job come from? From the engine's instruct model, or else out of what was said.

The whole transcript goes to an attested engine once more, sealed like every part before it, and only where the
statement of that engine names a model that writes summaries. What comes of it::

    a summary                             told with the model's name
    the statement names no such model     extractive (`proxy.jobs.extracts`), and told as such
    it failed, or refused the transcript  the job waits and tries again; after its last attempt extractive
    no engine can be reached              the job waits, as for its parts
    and the extra is not installed        no summary; the transcript is what it is

A transcript without words in it has no summary of either kind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, ValidationError

from core.transcript.types import Segment, Task, Transcript
from proxy.errors import ProxyError
from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.hearing import ENGINE_FAILED, error_code, of_the_answer, of_the_way
from proxy.jobs.model import JobResult, Summary, SummaryMethod
from proxy.jobs.ports import Author
from proxy.sealed.courier import AppRequest, Courier, WholeAnswer

PATH: Final = "/v1/summaries"

NO_MODEL_NOW: Final = "backend_unavailable"
"""What an engine says whose model has failed: it may do so each time, so that it counts as an attempt."""

Extract = Callable[[str, str], Summary]
"""A summary of a text in a language, out of its own words."""


class _Answer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    model: str
    summary: str
    topics: tuple[str, ...]


class AttestedAuthor:
    """An `Author` (`proxy.jobs.ports`) over the proxy's courier."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    async def write(self, transcript: Transcript, *, request_id: str) -> Summary | None:
        try:
            answer = await self._ask(_body(transcript), request_id)
        except ProxyError as exc:
            raise of_the_way(exc) from None
        if answer is None:
            return None
        if answer.status == 503 and error_code(answer.body) == NO_MODEL_NOW:
            raise TransientError(ENGINE_FAILED)
        if answer.status != 200:
            raise of_the_answer(answer)
        try:
            written = _Answer.model_validate_json(answer.body)
        except ValidationError:
            raise TransientError(ENGINE_FAILED) from None  # its text would quote the transcript
        return Summary(written.summary, written.topics, SummaryMethod.MODEL, written.model)

    async def _ask(self, body: bytes, request_id: str) -> WholeAnswer | None:
        """None where the engine has no model for it."""
        pieces = iter((body,))

        async def read() -> bytes:
            return next(pieces, b"")

        request = AppRequest(
            request_id=request_id,
            method="POST",
            path=PATH,
            headers=CIMultiDict({"content-type": "application/json"}),
            content_length=len(body),
            read=read,
        )
        lease = await self._courier.accept(request)
        if lease.statement.instruct_model is None:
            return None
        return await self._courier.fetch(lease, request)


@dataclass(frozen=True, slots=True)
class Summaries:
    """A `Summariser`. author: None where nobody is asked. extract: None without the extra `summaries`."""

    author: Author | None
    extract: Extract | None

    async def summarise(self, made: JobResult, *, request_id: str, is_last: bool) -> JobResult:
        if not made.transcript.text.strip():
            return made
        summary = await self._written(made.transcript, request_id, is_last=is_last)
        if summary is None and self.extract is not None:
            # It takes seconds for hours of speech.
            summary = await asyncio.to_thread(self.extract, made.transcript.text, made.transcript.language)
        return made if summary is None else made.about(summary)

    async def _written(self, transcript: Transcript, request_id: str, *, is_last: bool) -> Summary | None:
        if self.author is None:
            return None
        try:
            return await self.author.write(transcript, request_id=request_id)
        except TransientError as exc:
            if exc.untouched or not is_last:
                raise
        except FailedError:
            pass
        return None


def _body(transcript: Transcript) -> bytes:
    language = "en" if transcript.task is Task.TRANSLATE else transcript.language
    said = [
        {"text": segment.text, **({} if label is None else {"speaker": label})}
        for segment, label in _labelled(transcript)
    ]
    asked = {"segments": said} if said else {"text": transcript.text}
    known = {"language": language} if language else {}
    return json.dumps({**asked, **known}, ensure_ascii=False).encode("utf-8", "replace")


def _labelled(transcript: Transcript) -> Iterator[tuple[Segment, str | None]]:
    """By name where there is one, the others as "Speaker 1" and so on; nobody where speakers were not told apart."""
    labels = [who.name or f"Speaker {number}" for number, who in enumerate(transcript.speakers, start=1)]
    for segment in transcript.segments:
        known = segment.speaker is not None and segment.speaker < len(labels)
        yield segment, labels[segment.speaker] if known and segment.speaker is not None else None
