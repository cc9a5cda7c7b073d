"""A speech backend for machines without a data-centre GPU: faster-whisper (CTranslate2) in a process of its own.

This module holds no model code, only the other end of `engine.backends.faster_whisper_worker`'s socket. The worker
starts from a clean environment, because the engine's may hold secrets; it is started again when it dies, later and
later if it keeps dying.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine.backends.keeper import Keeper
from engine.backends.messages import (
    Fields,
    Kind,
    MessageBuffer,
    encode,
    languages_from_fields,
    options_to_fields,
    transcript_from_fields,
    transcript_to_fields,
)
from engine.backends.surroundings import cuda_libraries, gpus, memory_directory
from engine.errors import BackendError
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loading:
    """How the worker loads its models; the terms are CTranslate2's.

    models: for each id the directory of a CTranslate2 checkpoint with its `tokenizer.json`.
    parallel_clips: how many clips are decoded at once, each by a replica of the model.
    cpu_threads: for each of them; 0 leaves it to CTranslate2.
    """

    models: Mapping[str, Path]
    device: str = "cpu"
    compute_type: str = "default"
    beam_size: int = 5
    parallel_clips: int = 1
    cpu_threads: int = 0

    def to_fields(self) -> Fields:
        names = ("device", "compute_type", "beam_size", "cpu_threads")
        return {
            "models": {name: str(path.resolve()) for name, path in self.models.items()},
            "options": {name: getattr(self, name) for name in names},
            "parallel_clips": self.parallel_clips,
        }


class FasterWhisperTranscriber:
    """Implements `engine.speech.transcriber.Transcriber`.

    start_timeout_s: how long all models may take to load.
    restart_delay_s: the wait before a worker that died is replaced; doubled while no worker serves a call.
    """

    kind = "faster-whisper"
    attached = False
    plugins: tuple[str, ...] = ()
    word_timestamps = True
    logprobs = True
    sampling = frozenset({"repetition_penalty"})

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        device: str = "cpu",
        compute_type: str = "default",
        beam_size: int = 5,
        parallel_clips: int = 1,
        cpu_threads: int = 0,
        start_timeout_s: float = 600.0,
        restart_delay_s: float = 0.5,
    ) -> None:
        self._loading = Loading(models, device, compute_type, beam_size, parallel_clips, cpu_threads)
        self._start_timeout_s = start_timeout_s
        self._keeper = Keeper(self._launch, name="the faster-whisper worker", delay_s=restart_delay_s)

    @property
    def arguments(self) -> tuple[str, ...]:
        """How the models are loaded, for the statement."""
        loading = self._loading
        names = ("device", "compute_type", "beam_size", "parallel_clips")
        return tuple(f"{name}={getattr(loading, name)}" for name in names)

    @property
    def slots(self) -> int:
        """How many clips are decoded at once."""
        return self._loading.parallel_clips

    @property
    def ready(self) -> bool:
        return self._keeper.current is not None and self._keeper.current.alive

    async def start(self) -> None:
        await self._keeper.start()

    async def close(self) -> None:
        await self._keeper.close()

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:
        async with aclosing(self._call(Kind.LANGUAGES, model, clip)) as answers:
            async for answer in answers:
                return _read(languages_from_fields, answer)
        raise AssertionError("a call yields or raises")

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        return await self._transcript(Kind.TRANSCRIBE, model, clip, options=options_to_fields(options))

    async def align(
        self, model: str, clip: Clip, transcript: ClipTranscript, options: DecodingOptions
    ) -> ClipTranscript:
        """Add to a transcript what `options` ask for: the times of words, the log probabilities of tokens.

        It may come from another decoder of the same checkpoint. Raises BackendError.
        """
        fields = {"options": options_to_fields(options), "transcript": transcript_to_fields(transcript)}
        return await self._transcript(Kind.ALIGN, model, clip, **fields)

    async def stream(
        self, model: str, clip: Clip, options: DecodingOptions
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        async with aclosing(self._call(Kind.STREAM, model, clip, options=options_to_fields(options))) as answers:
            async for answer in answers:
                if answer["kind"] is Kind.DELTA:
                    yield _read(lambda fields: TextDelta(str(fields["text"])), answer)
                else:
                    yield _read(transcript_from_fields, answer)

    async def _transcript(self, kind: Kind, model: str, clip: Clip, **fields: Fields) -> ClipTranscript:
        async with aclosing(self._call(kind, model, clip, **fields)) as answers:
            async for answer in answers:
                return _read(transcript_from_fields, answer)
        raise AssertionError("a call yields or raises")

    def _call(self, kind: Kind, model: str, clip: Clip, **fields: Fields) -> AsyncGenerator[Fields, None]:
        worker = self._keeper.current
        if worker is None:
            raise BackendError("the faster-whisper worker is not running")
        if model not in self._loading.models:
            raise BackendError("the faster-whisper worker does not serve this model")
        return worker.call(kind, {"model": model, **fields}, clip.pcm)

    async def _launch(self) -> _Worker:
        return await _Worker.launch(self._loading, timeout_s=self._start_timeout_s)


class _Worker(asyncio.Protocol):
    """The engine's end of one worker process. Implements `engine.backends.keeper.ModelServer`.

    ended: set once the worker takes no more calls, whoever hung up.
    served: whether it has answered a call.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.served = False
        self._process: Process | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = MessageBuffer()
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[Fields | None]] = {}

    @property
    def alive(self) -> bool:
        return self.ready.is_set() and not self.ended.is_set()

    @classmethod
    async def launch(cls, loading: Loading, *, timeout_s: float) -> _Worker:
        """Start a worker and return once all its models are loaded. Raises BackendError."""
        worker = cls()
        try:
            await worker._start(loading)
            async with asyncio.timeout(timeout_s):
                await worker.ready.wait()
        except TimeoutError as exc:
            await worker.close()
            raise BackendError("the faster-whisper worker did not load its models in time") from exc
        except OSError as exc:
            await worker.close()
            raise BackendError("no process could be started for the faster-whisper worker") from exc
        except BaseException:
            await worker.close()
            raise
        if worker.ended.is_set():
            await worker.close()
            raise BackendError("the faster-whisper worker could not load its models")
        return worker

    async def _start(self, loading: Loading) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-s", "-B", "-W", "ignore", "-m", "engine.backends.faster_whisper_worker"),
                *(str(theirs.fileno()), str(os.getpid())),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
            )
        self._send(Kind.LOAD, loading.to_fields())

    async def call(self, kind: Kind, fields: Fields, pcm: bytes) -> AsyncGenerator[Fields, None]:
        """Make a call and yield its answers; closing the generator cancels it. Raises BackendError."""
        if not self.alive:
            raise BackendError("the faster-whisper worker is not running")
        number = next(self._numbers)
        answers = self._calls[number] = asyncio.Queue()
        open_call = True
        try:
            self._send(kind, {"id": number, **fields}, pcm)
            while open_call:
                answer = _check(await answers.get())
                open_call = answer["kind"] is Kind.DELTA
                yield answer
        finally:
            del self._calls[number]
            if open_call and self.alive:
                self._send(Kind.CANCEL, {"id": number})

    async def wait(self) -> None:
        await self.ended.wait()

    async def close(self) -> None:
        """Kill the worker, which has nothing to save, and wait until it is gone; safe to call twice."""
        if self._transport is not None:
            self._transport.abort()
            await self.ended.wait()
        if self._process is not None:
            if self._process.returncode is None:
                # Not Process.kill: it polls first, and so may take the exit status that asyncio waits for.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._buffer.feed(data):
                self._receive(answer)
        except ValueError:
            _log.warning("the faster-whisper worker broke the protocol and is stopped")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the name is asyncio's
        self.ended.set()
        self.ready.set()  # nobody shall wait for it any longer
        for answers in self._calls.values():
            answers.put_nowait(None)

    def _receive(self, answer: Fields) -> None:
        if answer["kind"] is Kind.READY:
            self.ready.set()
        elif answers := self._calls.get(answer.get("id", 0)):
            self.served = True
            answers.put_nowait(answer)

    def _send(self, kind: Kind, fields: Fields, pcm: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(encode(kind, fields, pcm))


def _check(answer: Fields | None) -> Fields:
    if answer is None:
        raise BackendError("the faster-whisper worker ended during a call")
    if answer["kind"] is Kind.FAILED:
        raise BackendError("the faster-whisper worker could not decode a clip")
    return answer


def _read(reader: Callable[[Fields], T], answer: Fields) -> T:
    try:
        return reader(answer)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BackendError("the faster-whisper worker gave an answer that cannot be read") from exc


def _environment() -> dict[str, str]:
    """Return all that the worker sees of the environment. Raises BackendError."""
    return {
        **gpus(),
        **cuda_libraries(),
        "TMPDIR": str(memory_directory()),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LC_ALL": "C.UTF-8",
        # Checkpoints come from the disk, and nothing is reported to anyone.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CT2_VERBOSE": "-3",
    }
