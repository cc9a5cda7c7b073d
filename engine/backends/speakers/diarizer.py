"""Who tells speakers apart by their voices? A process of its own, of which this is the engine's end.

The process (`engine.backends.speakers.worker`) starts from a clean environment, because the engine's may hold secrets,
and loads its models from what the engine holds. It is started again when it dies, later and later if it keeps dying.
One that says nothing for `stall_s` while an answer is owed hangs, and is ended: the files that it was listening to
fail, and the next ones get another.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from core.errors import BackendError
from core.media.types import AudioBlock
from core.program.isolation import IMPORT_PATH
from core.transcript.types import Voice
from engine.backends.framing import Fields
from engine.backends.keeper import Keeper
from engine.backends.speakers.messages import FRAMING, Kind, encode
from engine.backends.surroundings import cuda_libraries, gpus
from engine.backends.weights import DirectoryWeights, FileWeights, Weights
from engine.backends.worker_process import WorkerProcess
from engine.speech.attribution import Turn
from engine.speech.speakers import Diarization, ToldBy
from engine.speech.transcriber import Component

PYANNOTE_PYTHON: Final = Path("/opt/pyannote/bin/python")
"""Where an image has pyannote.audio: in an environment of its own, for it pins what it needs."""

FILES: Final = 8
"""To so many files it listens at a time: of each it may hold ten minutes of audio, 19 MB."""

STALL_S: Final = 300.0
"""It says once a second that it computes, but for what its libraries do in one piece."""

START_S: Final = 300.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """What the process loads from. path: a directory. descriptors: that it inherits, as the links in `path` say."""

    path: Path
    descriptors: Sequence[int] = ()


Take = Callable[[Path], Awaitable[Models]]
"""Makes the models ready for one life of the process, given a private directory. Raises BackendError."""


@dataclass(frozen=True, slots=True)
class Program:
    """How the process is started. kind: as in `--speakers`. device: where its models run, if they have the choice.

    weights: what the statement tells the digest of.
    """

    kind: str
    take: Take
    weights: Weights
    python: Path = Path(sys.executable)
    device: str = "cpu"
    allow_unsandboxed: bool = False

    @property
    def name(self) -> str:
        return f"speakers-{self.kind}"

    @property
    def model(self) -> str:
        """Whose voices these are. Raises BackendError unless the weights are held."""
        return f"{self.kind}:{self.weights.digest}"


def onnx(kind: str, files: FileWeights, *, allow_unsandboxed: bool = False) -> ProcessDiarizer:
    """Speakers told apart by ONNX models, with what the engine has installed. kind: `sherpa-onnx` or `basic`."""

    async def take(private: Path) -> Models:
        models = private / "models"
        models.mkdir()
        for name, descriptor in files.files.items():
            (models / name).parent.mkdir(parents=True, exist_ok=True)
            (models / name).symlink_to(f"/proc/self/fd/{descriptor}")
        return Models(models, list(files.files.values()))

    return ProcessDiarizer(Program(kind, take, files, allow_unsandboxed=allow_unsandboxed))


def pyannote(
    directory: DirectoryWeights, *, python: Path | None = None, device: str = "cpu", allow_unsandboxed: bool = False
) -> ProcessDiarizer:
    """Speakers told apart by a pipeline of pyannote.audio. python: of its environment; None for the image's."""

    async def take(_private: Path) -> Models:
        await directory.check()
        return Models(directory.directory)

    program = Program("pyannote", take, directory, python or PYANNOTE_PYTHON, device, allow_unsandboxed)
    return ProcessDiarizer(program)


class ProcessDiarizer:
    """Implements `engine.speech.speakers.Diarizer`."""

    told_by: Final = ToldBy.VOICES
    slots: Final = FILES

    def __init__(
        self,
        program: Program,
        *,
        start_timeout_s: float = START_S,
        stall_s: float = STALL_S,
        restart_delay_s: float = 0.5,
    ) -> None:
        self._program = program
        self._keeper = Keeper(
            lambda: _Process.launch(program, start_timeout_s=start_timeout_s, stall_s=stall_s),
            name=program.name,
            delay_s=restart_delay_s,
        )

    @property
    def component(self) -> Component:
        device = (f"device={self._program.device}",) if self._program.kind == "pyannote" else ()
        return Component(self._program.name, device)

    @property
    def ready(self) -> bool:
        return self._keeper.current is not None and self._keeper.current.alive

    @property
    def process_id(self) -> int | None:
        """Of the process, while there is one."""
        return self._keeper.current.process_id if self._keeper.current else None

    async def start(self) -> None:
        await self._keeper.start()

    async def close(self) -> None:
        await self._keeper.close()

    @asynccontextmanager
    async def listen(self, least: int, most: int) -> AsyncIterator[_File]:
        process = self._keeper.current
        if process is None or not process.alive:
            raise BackendError("the process that tells speakers apart is not running")
        async with process.file(least, most) as file:
            yield file


class _File:
    """One file, as the process hears it. Implements `engine.speech.speakers.Listening`."""

    def __init__(self, process: _Process, number: int) -> None:
        self._process = process
        self._number = number

    async def push(self, block: AudioBlock) -> None:
        await self._process.ask(Kind.BLOCK, {"id": self._number}, block.pcm, block.speech)

    async def conclude(self) -> Diarization:
        answer = await self._process.ask(Kind.CONCLUDE, {"id": self._number})
        try:
            return read_heard(answer, self._process.model)
        except (KeyError, TypeError, ValueError) as exc:
            raise BackendError("the process that tells speakers apart gave an answer that cannot be read") from exc


def read_heard(fields: Fields, model: str) -> Diarization:
    """Read what was heard of a file. model: whose voices they are. Raises KeyError, TypeError or ValueError."""
    same = float(fields["same"])
    voices = tuple(Voice(tuple(float(value) for value in voice), same, model) for voice in fields["voices"])
    turns = tuple(Turn(float(start_s), float(end_s), int(speaker)) for start_s, end_s, speaker in fields["turns"])
    numbers = [same, *(time_s for turn in turns for time_s in (turn.start_s, turn.end_s))]
    numbers += [value for voice in voices for value in voice.values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is none")
    if any(turn.end_s < turn.start_s or not 0 <= turn.speaker < len(voices) for turn in turns):
        raise ValueError("a turn of nobody")
    return Diarization(turns, voices)


class _Process(WorkerProcess):
    """The engine's end of one process."""

    def __init__(self, program: Program, stall_s: float) -> None:
        super().__init__(program.name, FRAMING)
        self._program = program
        self._stall_s = stall_s
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Fields]] = {}
        self._deadlines: set[asyncio.Timeout] = set()

    @classmethod
    async def launch(cls, program: Program, *, start_timeout_s: float, stall_s: float) -> _Process:
        """Start a process and return once its models are loaded. Raises BackendError."""
        process = cls(program, stall_s)
        cannot = "load its models, or enter its sandbox"
        await process.launched(process._start(program), timeout_s=start_timeout_s, cannot=cannot)
        return process

    async def _start(self, program: Program) -> None:
        place = self.take_place("speakers")
        models = await program.take(place)
        flags = ["--allow-unsandboxed"] if program.allow_unsandboxed else []
        await self.spawn(
            program.python,
            "engine.backends.speakers.worker",
            (program.kind, *flags),
            descriptors=models.descriptors,
            environment=_environment(place / "home", one_thread=program.kind != "pyannote"),
        )
        self.send(encode(Kind.LOAD, {"path": str(models.path), "device": program.device}))

    @property
    def model(self) -> str:
        """Whose voices it tells. Raises BackendError unless its weights are held."""
        return self._program.model

    @asynccontextmanager
    async def file(self, least: int, most: int) -> AsyncIterator[_File]:
        """Listen to a file. Raises BackendError."""
        number = next(self._numbers)
        try:
            await self.ask(Kind.OPEN, {"id": number, "least": least, "most": most})
            yield _File(self, number)
        finally:
            if self.alive:
                self.send(encode(Kind.FORGET, {"id": number}))

    async def ask(self, kind: Kind, fields: Fields, pcm: bytes = b"", speech: bytes = b"") -> Fields:
        """Say something about a file, and wait for the answer. Raises BackendError."""
        if not self.alive:
            raise BackendError("the process that tells speakers apart is not running")
        number = fields["id"]
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(encode(kind, fields, pcm, speech))
            async with self._patience():
                heard: Fields = await answer
                return heard
        finally:
            del self._answers[number]

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Wait for as long as the process says something now and then; one that does not is ended."""
        deadline = asyncio.timeout(self._stall_s)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                yield
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            _log.warning("process_hangs", process="speakers", next="it is ended")
            self.abort()
            raise BackendError("the process that tells speakers apart hangs") from exc
        finally:
            self._deadlines.discard(deadline)

    def receive(self, answer: Fields) -> None:
        now_s = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now_s + self._stall_s)
        if answer["kind"] is Kind.READY:
            self.ready.set()
        elif (waiting := self._answers.get(answer.get("id", 0))) and not waiting.done():
            self.served = True
            if answer["kind"] is Kind.FAILED:
                _log.warning("speakers_not_told_apart", error=str(answer.get("error"))[:64])
                waiting.set_exception(BackendError("the process that tells speakers apart could not hear a file"))
            else:
                waiting.set_result(answer)

    def forsaken(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BackendError("the process that tells speakers apart ended"))


def _environment(home: Path, *, one_thread: bool) -> dict[str, str]:
    """All that the process sees of the environment. home: a directory in which nobody has put anything."""
    # The sandbox holds for the thread that enters it; another would be outside.
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if one_thread else {}
    return {
        **gpus(),
        **cuda_libraries(),
        **threads,
        "HOME": str(home),
        "HF_HOME": str(home),
        "TMPDIR": str(home),
        "MPLCONFIGDIR": str(home),
        "PYTHONPATH": IMPORT_PATH,
        "LC_ALL": "C.UTF-8",
        # Models come from the engine, and nothing is reported to anyone.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYANNOTE_METRICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
