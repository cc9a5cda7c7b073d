"""Who speaks when? A process of its own, without keys, files or network.

`python -m engine.backends.speakers.worker FD PARENT_PID KIND [--allow-unsandboxed]`, started by `diarizer` beside it,
speaks `messages` over the socket FD. One thread, one file's stretch at a time: audio is kept until a stretch of
`STRETCH_S` is there, then it is told apart, and what is left of it are turns and what each voice is like. So a file
takes the same memory however long it is. Whoever waits meanwhile is told that work goes on.

The models of the ONNX kinds are loaded and rehearsed, then the sandbox of the decoder is entered, which leaves this
process nothing but computing and its socket. PyTorch needs more than that list allows: `pyannote` gives up the network
and further programs, before it is imported. Nothing that was heard is written anywhere.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: TID251 - to switch it off
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from types import TracebackType

import numpy as np

from core.errors import BackendError
from core.media import sandbox
from core.media.types import SAMPLE_RATE_HZ
from core.program.memory import forbid_dumps
from engine.backends.framing import PREFIX, Fields
from engine.backends.speakers.clustering import Gathering
from engine.backends.speakers.messages import Kind, decode_fields, decode_prefix, encode, speech_bytes
from engine.backends.speakers.model import Model

BYTES_PER_S = 2 * SAMPLE_RATE_HZ
STRETCH_S = 600
"""Ten minutes: in less, who speaks seldom is not recognised; the memory of a clustering grows with the square."""

STRETCH_BYTES = STRETCH_S * BYTES_PER_S

BUSY_S = 1.0
"""How often those who wait are told."""

MEMORY_BYTES = 4 << 30
FOREVER_S = 1 << 40

FAILURES = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
EX_UNSANDBOXED = 77


@dataclass(slots=True)
class File:
    """A file on its way. turns: of the stretches that are done."""

    least: int
    most: int
    gathering: Gathering
    pcm: bytearray = field(default_factory=bytearray)
    speech: bytearray = field(default_factory=bytearray)
    done_s: float = 0.0
    turns: list[tuple[float, float, int]] = field(default_factory=list)


class Server:
    """Answers the engine."""

    def __init__(self, channel: FileIO, model: Model, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._model = model
        self._clock = clock
        self._files: dict[int, File] = {}
        self._said_at = 0.0

    def run(self) -> None:
        """Serve until the engine is gone."""
        self._send(Kind.READY, {})
        while (message := receive(self._channel)) is not None:
            fields, pcm, speech = message
            number = int(fields["id"])
            if fields["kind"] is Kind.FORGET:
                self._files.pop(number, None)
                continue
            try:
                self._send(*self._answer(number, fields, pcm, speech))
            except FAILURES as exc:
                self._files.pop(number, None)
                self._send(Kind.FAILED, {"id": number, "error": type(exc).__name__})

    def _answer(self, number: int, fields: Fields, pcm: bytes, speech: bytes) -> tuple[Kind, Fields]:
        if fields["kind"] is Kind.OPEN:
            most = int(fields["most"])
            self._files[number] = File(int(fields["least"]), most, Gathering(alike=self._model.same, most=most))
            return Kind.TAKEN, {"id": number}
        file = self._files[number]
        if fields["kind"] is Kind.CONCLUDE:
            self._listen(file, least=1 if file.done_s else file.least)
            del self._files[number]
            return Kind.HEARD, {"id": number, **heard(file), "same": self._model.same}
        file.pcm += pcm
        file.speech += speech
        if len(file.pcm) >= STRETCH_BYTES:
            self._listen(file, least=1)  # in ten minutes of many, somebody may be silent
        return Kind.TAKEN, {"id": number}

    def _listen(self, file: File, *, least: int) -> None:
        """Tell the speakers of the audio at hand apart, and let go of it. least: how many speak in it."""
        if not file.pcm:
            return
        samples = np.frombuffer(bytes(file.pcm), "<i2").astype(np.float32) / 32768.0
        speech = np.frombuffer(bytes(file.speech), np.uint8)
        file.pcm, file.speech = bytearray(), bytearray()
        found = self._model.diarize(samples, speech, least, file.most, self._busy)
        spoken_s = [0.0] * len(found.voices)
        for start_s, end_s, speaker in found.turns:
            spoken_s[speaker] += end_s - start_s
        places = file.gathering.add(found.voices, spoken_s)
        file.turns += [
            (file.done_s + start_s, file.done_s + end_s, places[speaker]) for start_s, end_s, speaker in found.turns
        ]
        file.done_s += len(samples) / SAMPLE_RATE_HZ

    def _busy(self) -> None:
        if self._clock() - self._said_at >= BUSY_S:
            self._said_at = self._clock()
            self._send(Kind.BUSY, {})

    def _send(self, kind: Kind, fields: Fields) -> None:
        view = memoryview(encode(kind, fields))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read notices
            while view:
                view = view[self._channel.write(view) or 0 :]


def heard(file: File) -> Fields:
    """What is said of a file: its turns in milliseconds, and the voice of each speaker."""
    voices = [speaker.voice / max(float(np.linalg.norm(speaker.voice)), 1e-12) for speaker in file.gathering.speakers]
    return {
        "turns": [(round(start_s, 3), round(end_s, 3), speaker) for start_s, end_s, speaker in sorted(file.turns)],
        "voices": [[round(float(value), 5) for value in voice] for voice in voices],
    }


def receive(channel: FileIO) -> tuple[Fields, bytes, bytes] | None:
    """Read one message of the engine, or None when it is gone."""
    prefix = _read(channel, PREFIX.size)
    if prefix is None:
        return None
    json_bytes, pcm_bytes = decode_prefix(prefix)
    text, pcm = _read(channel, json_bytes), _read(channel, pcm_bytes)
    speech = _read(channel, speech_bytes(pcm_bytes))
    return None if text is None or pcm is None or speech is None else (decode_fields(text), pcm, speech)


def _read(channel: FileIO, size: int) -> bytes | None:
    # read(2) and not recv(2), which the sandbox does not know.
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = channel.readinto(view)
        if not got:
            return None
        view = view[got:]
    return bytes(data)


def load(kind: str, fields: Fields) -> Model:
    """The models of a kind. Only what it needs is imported."""
    path = str(fields["path"])
    if kind == "basic":
        from engine.backends.speakers.basic import BasicModel  # noqa: PLC0415

        return BasicModel(path)
    if kind == "sherpa-onnx":
        from engine.backends.speakers.sherpa import SherpaModel  # noqa: PLC0415

        return SherpaModel(path)
    from engine.backends.speakers.pyannote import PyannoteModel  # noqa: PLC0415

    return PyannoteModel(path, device=str(fields["device"]))


def rehearse(model: Model) -> None:
    """Do once what is done for every file: what a library does only the first time may need what is given up then."""
    noise = np.random.default_rng(0).normal(0.0, 0.05, 12 * SAMPLE_RATE_HZ).astype(np.float32)
    speech = np.full(speech_bytes(2 * len(noise)), 255, np.uint8)
    model.diarize(noise, speech, 1, 2, lambda: None)


def mute() -> None:
    """Write to stderr no more: from here on what a library writes there could be about what it hears."""
    with open(os.devnull, "r+b") as null_device:  # noqa: PTH123
        os.dup2(null_device.fileno(), 2)


def say(sentence: str) -> None:
    print(f"speakers: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  the only way out


def say_exception(kind: type[BaseException], _error: BaseException | None, _trace: TracebackType | None) -> None:
    """Name the kind of an error; its message may quote what was heard."""
    say(f"stopped by {kind.__name__}")


def harden(parent_pid: int) -> None:
    """Keep what is heard out of logs and core dumps, and end when the engine does."""
    sys.excepthook = say_exception
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's, which then ends this process
    with contextlib.suppress(OSError):  # not Linux: the end of the socket has to do
        forbid_dumps()
        sandbox.die_with_parent(parent_pid)


def main(arguments: list[str]) -> None:
    """Load, rehearse, serve."""
    descriptor, parent_pid, kind, *flags = arguments
    harden(int(parent_pid))
    allow_unsandboxed = "--allow-unsandboxed" in flags
    channel = FileIO(int(descriptor), "r+")
    message = receive(channel)
    if message is None:
        return
    try:
        if kind == "pyannote":
            sandbox.forbid_network(allow_unsandboxed=allow_unsandboxed)
        model = load(kind, message[0])
        rehearse(model)
        mute()
        if kind != "pyannote":
            limits = sandbox.Limits(memory_bytes=MEMORY_BYTES, cpu_s=FOREVER_S)
            sandbox.enter(limits, allow_unsandboxed=allow_unsandboxed)
            rehearse(model)
    except BackendError:
        sys.exit(EX_UNSANDBOXED)
    Server(channel, model).run()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
