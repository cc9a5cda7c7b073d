"""How does a part of a recording get heard? As OpenAI's request, sealed to an attested engine like every other.

What the engine or the way to it says no with, and what that means for a job::

    nobody took it (ProxyError, 429, 503)       TransientError, untouched: the job waits
    it failed or broke off (ProxyError, 5xx)    TransientError: one attempt
    400 of a file, or its length; 413           FailedError: the recording's fault
    any other 4xx                               FailedError(ENGINE_REFUSED)
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Final

from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attestation.receipt import RECEIPT_HEADER
from core.transcript.types import Segment, Speaker, Task, Transcript, Voice, Word
from proxy.errors import ErrorCode, ProxyError
from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.model import Capabilities, Failure, FailureKind, JobOptions, Receipt
from proxy.jobs.ports import Heard, PartContent
from proxy.sealed.courier import AppRequest, Courier, WholeAnswer
from proxy.sealed.receipts import Witness

PATHS: Final = {Task.TRANSCRIBE: "/v1/audio/transcriptions", Task.TRANSLATE: "/v1/audio/translations"}

MAX_SPEAKERS: Final = 20
"""That an engine can be told to expect; of more it is told nothing."""

ENGINE_FAILED: Final = Failure(FailureKind.ENGINE_FAILED)
_OF_THE_RECORDING: Final[Mapping[str, FailureKind]] = {
    "audio_too_long": FailureKind.MEDIA_TOO_LONG,
    "audio_too_short": FailureKind.MEDIA_TOO_SHORT,
    "file_too_large": FailureKind.MEDIA_TOO_LARGE,
    "unsupported_file": FailureKind.MEDIA_UNREADABLE,
}
_UNTOUCHED: Final = frozenset(
    {
        ErrorCode.ATTESTATION_REFUSED,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.NO_ATTESTED_ENGINE,
        ErrorCode.UPSTREAM_KEY_MISMATCH,
    }
)
"""Nothing was opened by any engine."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Word(BaseModel):
    word: str
    start: _Finite
    end: _Finite
    speaker: str | None = None


class _Segment(BaseModel):
    start: _Finite
    end: _Finite
    text: str
    tokens: tuple[int, ...] = ()
    temperature: _Finite = 0.0
    avg_logprob: _Finite = 0.0
    compression_ratio: _Finite = 1.0
    no_speech_prob: _Finite = 0.0
    speaker: str | None = None


class _Voice(BaseModel):
    """An entry of the `speaker_embeddings` that our engine adds where they are asked for."""

    model_config = ConfigDict(hide_input_in_errors=True)

    speaker: str
    known: bool
    seconds: _Finite
    embedding: tuple[_Finite, ...] | None
    model: str | None
    same: _Finite | None

    @property
    def who(self) -> Speaker:
        values, model, same = self.embedding, self.model, self.same
        voice = None if values is None or model is None or same is None else Voice(values, same, model)
        return Speaker(self.speaker if self.known else None, self.seconds, voice)


class _Verbose(BaseModel):
    """OpenAI's `verbose_json`, with the `language_code` that our engine adds."""

    language: str = ""
    language_code: str | None = None
    duration: _Finite
    text: str
    segments: tuple[_Segment, ...] = ()
    words: tuple[_Word, ...] = ()
    speaker_embeddings: tuple[_Voice, ...] = ()


class AttestedEngine:
    """An `Engine` (`proxy.jobs.ports`) over the proxy's courier, with the proxy's own API key if it has one."""

    def __init__(
        self,
        courier: Courier,
        tells_speakers: Callable[[], bool] = lambda: False,
        writes_summaries: Callable[[], bool] = lambda: False,
    ) -> None:
        """tells_speakers, writes_summaries: whether the engine that has proved itself does."""
        self._courier = courier
        self._tells_speakers = tells_speakers
        self._writes_summaries = writes_summaries

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(diarize=self._tells_speakers(), summary=self._writes_summaries())

    async def hear(self, part: PartContent, options: JobOptions, *, request_id: str, of: int) -> Heard:
        try:
            answer = await self._ask(part, options, request_id, of)
        except ProxyError as exc:
            raise of_the_way(exc) from None
        if answer.status != 200:
            raise of_the_answer(answer)
        try:
            return Heard(_transcript(_Verbose.model_validate_json(answer.body), options.task), _receipt(answer.witness))
        except ValidationError:
            raise TransientError(ENGINE_FAILED) from None  # its text would quote the transcript

    async def _ask(self, part: PartContent, options: JobOptions, request_id: str, of: int) -> WholeAnswer:
        boundary = secrets.token_hex(16)
        pieces: AsyncIterator[bytes] | None = None

        async def read() -> bytes:
            return await anext(pieces, b"") if pieces is not None else b""

        request = AppRequest(
            request_id=request_id,
            method="POST",
            path=PATHS[options.task],
            headers=CIMultiDict({"content-type": f"multipart/form-data; boundary={boundary}", RECEIPT_HEADER: "1"}),
            content_length=None,
            read=read,
            keeps_receipt=True,
        )
        lease = await self._courier.accept(request)
        fields = _fields(options, options.model or lease.statement.models[0].id, of)
        pieces = _form(part, fields, boundary)
        return await self._courier.fetch(lease, request)


def _receipt(witness: Witness | None) -> Receipt | None:
    if witness is None or witness.receipt is None:
        return None
    return Receipt(
        instance=witness.instance,
        statement_sha256=witness.statement_sha256,
        request_sha256=witness.request.hexdigest(),
        answer_sha256=witness.answer.hexdigest(),
        signed=witness.receipt,
    )


async def _form(part: PartContent, fields: Iterator[tuple[str, str]], boundary: str) -> AsyncIterator[bytes]:
    """`multipart/form-data` (RFC 7578), the file last."""
    for name, value in fields:
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'
        yield head.encode() + value.encode() + b"\r\n"
    yield (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{part.filename}"\r\n'
        f"content-type: {part.content_type}\r\n\r\n"
    ).encode()
    async for piece in part.stream():
        yield piece
    yield f"\r\n--{boundary}--\r\n".encode()


def _fields(options: JobOptions, model: str, of: int) -> Iterator[tuple[str, str]]:
    yield "model", model
    yield "response_format", "verbose_json"
    if options.language is not None and options.task is Task.TRANSCRIBE:
        yield "language", options.language
    if prompt := ", ".join([*([options.prompt] if options.prompt else []), *options.vocabulary]):
        yield "prompt", prompt
    if options.temperature is not None:
        yield "temperature", str(options.temperature)
    if options.task is Task.TRANSCRIBE:
        yield "timestamp_granularities[]", "segment"
        if options.words:
            yield "timestamp_granularities[]", "word"
        if options.diarize:
            yield "diarize", "true"
            yield from _of_speakers(options, of)


def _of_speakers(options: JobOptions, of: int) -> Iterator[tuple[str, str]]:
    """Of several parts each may have fewer speakers than the recording, never more.

    With the voices comes which labels are names that the caller gave.
    """
    least = options.min_speakers or options.speaker_count
    if of > 1 or options.known_speakers:
        yield "include[]", "speaker_embeddings"
    if of == 1 and least is not None and least <= MAX_SPEAKERS:
        yield "min_speakers", str(least)
    if options.most_speakers is not None and options.most_speakers <= MAX_SPEAKERS:
        yield "max_speakers", str(options.most_speakers)
    for speaker in options.known_speakers:
        yield "known_speaker_names[]", speaker.name
        yield "known_speaker_references[]", speaker.reference


def _transcript(heard: _Verbose, task: Task) -> Transcript:
    labels = (*(segment.speaker for segment in heard.segments), *(word.speaker for word in heard.words))
    numbers = {label: number for number, label in enumerate(dict.fromkeys(filter(None, labels)))}
    words = [Word(word.word, word.start, word.end, speaker=numbers.get(word.speaker or "")) for word in heard.words]
    segments = tuple(_segment(segment, words, numbers.get(segment.speaker or "")) for segment in heard.segments)
    told = {voice.speaker: voice.who for voice in heard.speaker_embeddings}
    speakers = tuple(
        told.get(label, Speaker(speaking_s=_spoken_s(segments, number))) for label, number in numbers.items()
    )
    language = heard.language_code or heard.language
    return Transcript(task, language, heard.duration, heard.text, segments, speakers=speakers)


def _spoken_s(segments: tuple[Segment, ...], speaker: int) -> float:
    return sum(segment.end_s - segment.start_s for segment in segments if segment.speaker == speaker)


def _segment(segment: _Segment, words: list[Word], speaker: int | None) -> Segment:
    """With those of `words` that begin in it."""
    inside = tuple(word for word in words if segment.start <= word.start_s < segment.end)
    return Segment(
        start_s=segment.start,
        end_s=segment.end,
        text=segment.text,
        tokens=segment.tokens,
        temperature=segment.temperature,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_prob,
        words=inside,
        speaker=speaker,
    )


def of_the_way(exc: ProxyError) -> FailedError:
    """What it means that a request got no answer."""
    if exc.code is ErrorCode.FILE_TOO_LARGE:
        return FailedError(Failure(FailureKind.MEDIA_TOO_LARGE, exc.numbers))
    return TransientError(ENGINE_FAILED, retry_after_s=exc.retry_after_s, untouched=exc.code in _UNTOUCHED)


def of_the_answer(answer: WholeAnswer) -> FailedError:
    """What it means that the engine said no."""
    if answer.status in (429, 503):
        return TransientError(ENGINE_FAILED, retry_after_s=_seconds(answer.headers.get("retry-after")), untouched=True)
    if answer.status >= 500:
        return TransientError(ENGINE_FAILED)
    kind = FailureKind.MEDIA_TOO_LARGE if answer.status == 413 else _OF_THE_RECORDING.get(error_code(answer.body))
    return FailedError(Failure(kind or FailureKind.ENGINE_REFUSED))


def error_code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""


def _seconds(value: str | None) -> float | None:
    """A Retry-After in seconds, at most a minute; None for anything else."""
    try:
        seconds = float(value or "nan")
    except ValueError:
        return None
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else None
