"""How does the engine talk to a vLLM server? HTTP over a Unix socket, one request a clip, or a text.

`VllmConnection` knows what all servers do, `VllmClient` one that hears. A call that is cancelled closes its connection,
which is how vLLM learns that it may stop. Errors of vLLM's are not passed on in its words: they quote the request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import aiohttp

from core.errors import BackendError
from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from core.transcript.types import Task
from engine.backends.vllm.answers import (
    LANGUAGES_FIELDS,
    Json,
    Report,
    StreamReader,
    report_from_verbose,
    samples_from_exposition,
    stream_fields,
    text_fields,
    timestamp_fields,
    to_wav,
    transcript_from_text,
    transcript_from_verbose,
)
from engine.speech.fallback import MIN_AVG_LOGPROB
from engine.speech.observer import Sample
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta

CONNECT_S = 5.0
SILENCE_S = 300.0
"""The longest silence on a connection: a clip may wait its turn behind many others before its first byte."""

HEALTH_S = 5.0

MAX_ANSWER_BYTES = 4 << 20
"""Of 448 tokens come a few kilobytes; vLLM's metrics take some hundred."""

ROUTES = {Task.TRANSCRIBE: "/v1/audio/transcriptions", Task.TRANSLATE: "/v1/audio/translations"}

ONE_CALL = {"Connection": "close"}
"""vLLM closes an idle connection after 5 s, perhaps just as a clip is sent over it; a new one costs nothing."""

SILENCE = Clip(0.0, bytes(SAMPLE_RATE_HZ * BYTES_PER_SAMPLE))

T = TypeVar("T")


class VllmConnection:
    """Calls one vLLM server that serves one model.

    model: its name there. served: whether anything but a greeting has been answered yet.
    """

    def __init__(self, session: aiohttp.ClientSession, model: str, *, url: str = "http://vllm") -> None:
        self._session = session
        self._model = model
        self._url = url
        self.served = False

    async def greet(self) -> None:
        """Have one answer of a server that has just loaded its model. Raises BackendError for one that will not do."""
        raise NotImplementedError

    async def healthy(self) -> bool:
        """Whether the server answers and its engine lives."""
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_S)
            async with self._session.get(
                f"{self._url}/health", headers=ONE_CALL, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
            return False

    async def metrics(self) -> tuple[Sample, ...]:
        """Those of the server's own metrics that may be published. Raises BackendError."""
        return tuple(samples_from_exposition((await self._get("/metrics")).decode()))

    async def served_models(self) -> tuple[str, ...]:
        """The names under which the server serves its model. Raises BackendError."""
        answer = await self._get("/v1/models")
        return read(lambda: tuple(str(model["id"]) for model in json.loads(answer)["data"]))

    async def ask(self, route: str, **content: Any) -> Json:
        """Post a body, as aiohttp's options have it; the object that answers it. Raises BackendError."""
        async with self.posting(route, **content) as response:
            body = await _body(response)
        self.served = True
        return read(lambda: _object(body))

    @asynccontextmanager
    async def posting(self, route: str, **content: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a body while it comes. Raises BackendError."""
        with _translated():
            async with self._session.post(
                f"{self._url}{route}", headers=ONE_CALL, allow_redirects=False, **content
            ) as response:
                if response.status != 200:
                    raise BackendError(f"vLLM refused a request with status {response.status}")
                yield response

    async def _get(self, path: str) -> bytes:
        with _translated():
            async with self._session.get(f"{self._url}{path}", headers=ONE_CALL, allow_redirects=False) as response:
                return await _body(response)


class VllmClient(VllmConnection):
    """Calls one vLLM server that hears."""

    async def transcribe(self, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        """Turn one clip into segments with times. Raises BackendError."""
        route = ROUTES[options.task]
        answer = await self._ask(route, clip, timestamp_fields(options))
        transcript = read(lambda: transcript_from_verbose(answer, clip))
        if transcript is None:
            answer = await self._ask(route, clip, text_fields(options))
            transcript = read(lambda: transcript_from_text(str(answer["text"]), clip))
        if all(segment.avg_logprob >= MIN_AVG_LOGPROB for segment in transcript.segments):
            return transcript
        # Where text is unlikely: is there speech at all? It takes another pass of the encoder to know.
        no_speech = (await self._report(clip)).no_speech
        segments = tuple(replace(segment, no_speech_prob=no_speech) for segment in transcript.segments)
        return replace(transcript, segments=segments)

    async def stream(self, clip: Clip, options: DecodingOptions) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        """Yield the text of one clip token by token, then the whole. Raises BackendError."""
        reader = StreamReader(clip)
        async with self.posting(ROUTES[options.task], data=self._form(clip, stream_fields(options))) as response:
            async for data in response.content.iter_any():
                for piece in read(partial(reader.feed, data)):
                    yield TextDelta(piece)
        if not reader.complete:
            raise BackendError("vLLM ended a stream before its end")
        self.served = True
        yield reader.transcript()

    async def languages(self, clip: Clip) -> Mapping[str, float]:
        """The probabilities of the likeliest languages. Raises BackendError, also of a vLLM without our plugin."""
        return (await self._report(clip)).languages

    async def greet(self) -> None:
        """As of every server. Raises BackendError unless it has our plugin, or where it cannot even hear silence.

        Without it a prompt is not read, keywords are not, and much is made up: silently, so that it has to be asked.
        """
        answer = await self._ask(ROUTES[Task.TRANSCRIBE], SILENCE, LANGUAGES_FIELDS)
        try:
            read(lambda: report_from_verbose(answer))
        except BackendError as exc:
            raise BackendError("vLLM has to load our plugin: install sottovoce in its environment") from exc
        self.served = False

    async def _report(self, clip: Clip) -> Report:
        answer = await self._ask(ROUTES[Task.TRANSCRIBE], clip, LANGUAGES_FIELDS)
        return read(lambda: report_from_verbose(answer))

    async def _ask(self, route: str, clip: Clip, fields: Mapping[str, str]) -> Json:
        return await self.ask(route, data=self._form(clip, fields))

    def _form(self, clip: Clip, fields: Mapping[str, str]) -> aiohttp.FormData:
        form = aiohttp.FormData({"model": self._model, **fields})
        form.add_field("file", to_wav(clip), filename="clip.wav", content_type="audio/wav")
        return form


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Read a whole answer, up to a limit."""
    if response.status != 200:
        raise BackendError(f"vLLM answered with status {response.status}")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise BackendError("vLLM gave an answer that is too long")
    return bytes(body)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what goes wrong on a connection as BackendError."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as exc:  # a TimeoutError is an OSError
        raise BackendError("the connection to vLLM failed") from exc


def read(reader: Callable[[], T]) -> T:
    """Read an answer, or raise BackendError: without its cause, which may quote what was heard."""
    try:
        return reader()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise BackendError("vLLM gave an answer that cannot be read") from None


def _object(body: bytes) -> Json:
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise TypeError("an answer is a JSON object")
    return answer
