"""What an app asks of the fleet, and whether what it gets is right.

Every request has a right answer that is known beforehand and differs from that of the next: other sentences are said,
and recordings asked for with their times are all of another length. What may come in its place, and only where an
engine was killed meanwhile, is what the proxy documents: a stream that has begun, and a live session, end in one
`stream_truncated`; nothing follows it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
import wave
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any, Final, NoReturn

import aiohttp

from core.program.metronome import Steady
from core.program.together import first_of

RATE_HZ: Final = 16_000
PIECE_S: Final = 0.1
PAUSE_S: Final = 1.2
"""Silence that ends a turn, with room."""
STEP_S: Final = 0.05
LENGTHS: Final = 40
DEADLINE_S: Final = 90.0
"""What has not ended by then hangs: everything in between has shorter time-outs."""
JOB_DEADLINE_S: Final = 300.0
"""An engine that fails over a job is tried three times, with pauses between (docs/jobs.md)."""
POLL_S: Final = 0.3
TRUNCATED: Final = "stream_truncated"
TRANSCRIBED: Final = "conversation.item.input_audio_transcription"


class Kind(StrEnum):
    """How something is asked."""

    WHOLE = "unary"
    STREAMED = "streamed"
    LIVE = "live"
    JOB = "job"


class Outcome(StrEnum):
    """What came of it. TOLD: the one documented error, over which no engine could help."""

    RIGHT = "right"
    TOLD = "told"
    WRONG = "wrong"
    FAILED = "failed"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Sentence:
    """pcm: 16-bit mono at 16 kHz, silence around it included."""

    text: str
    pcm: bytes

    def wav(self, further_s: float = 0.0) -> bytes:
        file = io.BytesIO()
        with wave.open(file, "wb") as output:
            output.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
            output.writeframes(self.pcm + bytes(2 * round(further_s * RATE_HZ)))
        return file.getvalue()

    def duration_s(self, further_s: float = 0.0) -> float:
        return len(self.pcm) / 2 / RATE_HZ + further_s


@dataclass(frozen=True, slots=True)
class Marks:
    """Phrases that go along with requests, and may not show."""

    file_name: str
    key: str
    request_id: str
    idempotency_key: str

    @classmethod
    def drawn(cls) -> Marks:
        return cls(*(f"{name}-{random.randbytes(8).hex()}" for name in ("interview", "sk", "request", "once")))

    @property
    def phrases(self) -> Mapping[str, bytes]:
        return {name: getattr(self, name).encode() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and its end, by the harness's monotonic clock. detail: what was not as it should be."""

    kind: Kind
    outcome: Outcome
    start_s: float
    end_s: float
    detail: str = ""


class _NotRightError(Exception):
    """An answer, and not the one that is right. outcome: what it is."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


def _expect(found: object, right: object, what: str) -> None:
    if found != right:
        raise _NotRightError(Outcome.WRONG, f"{what}: {found!r} for {right!r}")


def _expect_length(found_s: float, right_s: float) -> None:
    """Recordings differ by more than that; durations are rounded to milliseconds on the way."""
    if abs(found_s - right_s) > STEP_S / 5:
        raise _NotRightError(Outcome.WRONG, f"duration: {found_s} for {right_s}")


class App:
    """Asks, and judges."""

    _numbers = count()
    """Of requests of all apps: what one is known by is never used again."""

    def __init__(self, http: aiohttp.ClientSession, url: str, sentences: Sequence[Sentence], marks: Marks) -> None:
        self._http = http
        self._url = url
        self._sentences = sentences
        self._marks = marks
        self._ways: Mapping[Kind, Callable[[int], Awaitable[Outcome]]] = {
            Kind.WHOLE: self._whole,
            Kind.STREAMED: self._streamed,
            Kind.LIVE: self._live,
            Kind.JOB: self._job,
        }

    async def ask(self, kind: Kind) -> Asked:
        """One request, whatever becomes of it, within its time."""
        number, start_s, detail = next(self._numbers), time.monotonic(), ""
        try:
            async with asyncio.timeout(JOB_DEADLINE_S if kind is Kind.JOB else DEADLINE_S):
                outcome = await self._ways[kind](number)
        except _NotRightError as exc:
            outcome, detail = exc.outcome, str(exc)
        except TimeoutError:
            outcome = Outcome.HANG
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as exc:
            outcome, detail = Outcome.FAILED, f"{type(exc).__name__}: {exc}"
        return Asked(kind, outcome, start_s, time.monotonic(), detail)

    def _said(self, number: int) -> tuple[Sentence, float]:
        """A sentence, and by how much silence its recording is longer."""
        return self._sentences[number % len(self._sentences)], STEP_S * (number // len(self._sentences) % LENGTHS)

    def _headers(self, number: int) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._marks.key}",
            "X-Request-ID": f"{self._marks.request_id}-{number}",
            "Idempotency-Key": f"{self._marks.idempotency_key}-{number}",
        }

    def _form(self, wav: bytes, **fields: str) -> aiohttp.FormData:
        form = aiohttp.FormData({"language": "en", **fields})
        form.add_field("file", wav, filename=f"{self._marks.file_name}.wav", content_type="audio/wav")
        return form

    async def _whole(self, number: int) -> Outcome:
        sentence, further_s = self._said(number)
        form, headers = self._form(sentence.wav(further_s), response_format="verbose_json"), self._headers(number)
        async with self._http.post(f"{self._url}/v1/audio/transcriptions", data=form, headers=headers) as answer:
            body = await _json(answer)
            _expect(answer.headers["x-request-id"], headers["X-Request-ID"], "request id")
        _expect(body["text"], sentence.text, "text")
        _expect_length(body["duration"], sentence.duration_s(further_s))
        return Outcome.RIGHT

    async def _streamed(self, number: int) -> Outcome:
        sentence, further_s = self._said(number)
        form, headers = self._form(sentence.wav(further_s), stream="true"), self._headers(number)
        async with self._http.post(f"{self._url}/v1/audio/transcriptions", data=form, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                await _json(answer)
                raise _NotRightError(Outcome.WRONG, f"a stream was asked for: {answer.content_type}")
            events = (await answer.read()).decode().split("\n\n")
        events = [event for event in events if event and not event.startswith(":")]  # a comment keeps alive
        return _judged_stream(events, sentence.text)

    async def _job(self, number: int) -> Outcome:
        sentence, further_s = self._said(number)
        jobs, headers = f"{self._url}/v1/jobs", self._headers(number)
        async with self._http.post(jobs, data=self._form(sentence.wav(further_s)), headers=headers) as answer:
            job = (await _json(answer))["id"]
        await self._until_completed(f"{jobs}/{job}")
        async with self._http.get(f"{jobs}/{job}/result") as answer:
            result = await _json(answer)
        async with self._http.delete(f"{jobs}/{job}") as answer:
            _expect(answer.status, 204, "deletion")
        _expect(result["text"], sentence.text, "text")
        _expect_length(result["duration_s"], sentence.duration_s(further_s))
        return Outcome.RIGHT

    async def _until_completed(self, url: str) -> None:
        while True:
            async with self._http.get(url) as answer:
                state = (await _json(answer))["status"]
            if state == "completed":
                return
            if state in ("failed", "cancelled"):
                raise _NotRightError(Outcome.FAILED, state)
            await asyncio.sleep(POLL_S)

    async def _live(self, number: int) -> Outcome:
        """Two turns, as fast as they are said."""
        said = [self._said(number)[0], self._said(number + 1)[0]]
        headers = {name: value for name, value in self._headers(number).items() if name != "Idempotency-Key"}
        url = f"{self._url}/v1/realtime?intent=transcription"
        async with self._http.ws_connect(url, headers=headers, max_msg_size=0) as socket:
            return await first_of(_listen(socket, [sentence.text for sentence in said]), _speak(socket, said))


async def _json(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The object that was asked for. Raises _NotRightError on an error in its place."""
    body = json.loads(await answer.read())
    if answer.status >= 400:
        raise _NotRightError(Outcome.FAILED, f"{answer.status} {body['error']['code']}")
    return dict(body)


def _judged_stream(events: Sequence[str], right: str) -> Outcome:
    """A whole stream, or the beginning of one that ends in the one error."""
    *before, last = events or [""]
    said = [json.loads(event.removeprefix("data: ")) for event in before]
    text = "".join(event["delta"] for event in said if event["type"] == "transcript.text.delta").strip()
    if last == "data: [DONE]":
        _expect(said[-1]["text"], right, "text")
        _expect(text, right, "deltas")
        return Outcome.RIGHT
    if last.startswith("event: error\ndata: "):
        _expect(right.startswith(text), True, f"deltas {text!r} of {right!r}")
        _expect_truncated(json.loads(last.partition("data: ")[2])["error"]["code"])
        return Outcome.TOLD
    raise _NotRightError(Outcome.WRONG, f"the last event is {last[:80]!r}")


def _expect_truncated(code: str) -> None:
    if code != TRUNCATED:
        raise _NotRightError(Outcome.FAILED, code)


async def _speak(socket: aiohttp.ClientWebSocketResponse, said: Sequence[Sentence]) -> NoReturn:
    """Speak, and then wait to be heard."""
    heard = {"format": {"type": "audio/pcm", "rate": RATE_HZ}, "transcription": {"language": "en"}}
    try:
        await socket.send_json(
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}}
        )
        metronome, size = Steady(PIECE_S), 2 * round(PIECE_S * RATE_HZ)
        for sentence in said:
            audio = sentence.pcm + bytes(2 * round(PAUSE_S * RATE_HZ))
            for start in range(0, len(audio), size):
                await metronome.beat()
                piece = base64.b64encode(audio[start : start + size]).decode()
                await socket.send_json({"type": "input_audio_buffer.append", "audio": piece})
    except ConnectionError:
        pass  # it has ended, which the other direction tells
    await asyncio.Event().wait()
    raise AssertionError


async def _listen(socket: aiohttp.ClientWebSocketResponse, right: Sequence[str]) -> Outcome:
    finals: list[str] = []
    errors: list[str] = []
    async for message in socket:
        event = json.loads(message.data)
        if errors:
            raise _NotRightError(Outcome.WRONG, f"{event['type']} after {errors}")
        if event["type"] == "error":
            errors.append(event["error"]["code"])
        elif event["type"] == f"{TRANSCRIBED}.failed":
            raise _NotRightError(Outcome.FAILED, event["error"]["code"])
        elif event["type"] == f"{TRANSCRIBED}.completed":
            finals.append(event["transcript"].strip())
            _expect(finals, list(right[: len(finals)]), "turns")
            if len(finals) == len(right):
                return Outcome.RIGHT
    if not errors:
        raise _NotRightError(Outcome.FAILED, f"closed with {socket.close_code}, and no word")
    _expect_truncated(errors[0])
    _expect(socket.close_code, 1011, "close code")
    return Outcome.TOLD
