"""What does hearing cost beside the model server alone, on the same weights and audio?

    python -m benchmarks.model_path --speech DIRECTORY [--backend faster-whisper|vllm ...] [--seconds 11,30,60,1200]
        [--times N] [--weights DIRECTORY] [--device cuda] [--in-flight 1,32,128] [--speaker-model DIRECTORY]
        [--json FILE]

Bare faster-whisper runs with its defaults, and `vllm serve` with the flags it has inside the engine, but without our
plugin; each is asked for a file's text as it comes, language unknown. Beside it stands our pipeline: decoding in a
sandbox, voice activity, clips, the language, text that is doubted. What the channel adds is `benchmarks.compare`'s.
Those that are compared take turns, and each figure is the median of its turns.

With `--in-flight` so many files of 30 s are asked for at once, and the figure is seconds of audio a second (RTFx). On a
machine with a GPU: `--device cuda --weights` with whisper-large-v3 in CTranslate2's form, once with confidential
computing of the GPU on and once without; the JSON says which it was.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from faster_whisper import WhisperModel

from benchmarks.listeners import BACKENDS, FASTER_WHISPER, MODEL, VLLM, Machinery, bare_model, product
from benchmarks.recordings import RATE_HZ, Plan, Samples, as_wav, join, read_corpus
from core.program.http.client import open_unix_session
from engine.backends.digest import weights_digest
from engine.backends.speakers.diarizer import onnx
from engine.backends.vllm.server import Serving
from engine.backends.weights import FileWeights, held
from engine.settings import SpeakersKind
from engine.speech.pipeline import SpeechPipeline
from engine.speech.speakers import Diarizer
from engine.types import Detail, Hearing, SpeakerWish, TextDelta
from tests.checkpoints.convert import convert

ROOT = Path(__file__).parent.parent
START_S = 900.0
COST_S = 60.0
"""The length of the file at which details are measured."""
PLAIN = Hearing(MODEL)
BARE = {
    "VLLM_PLUGINS": "",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # It refuses 20 minutes as a WAV file unless told otherwise.
    "VLLM_MAX_AUDIO_CLIP_FILESIZE_MB": "1024",
    "VLLM_MAX_AUDIO_DECODE_DURATION_S": "14400",
}
COSTS = {
    "word times": replace(PLAIN, details=frozenset({Detail.WORDS})),
    "no voice activity": replace(PLAIN, voice_activity=None),
    "language known": replace(PLAIN, language="en"),
}
SPEAKERS = {"speakers": replace(PLAIN, speakers=SpeakerWish())}

Hear = Callable[[bytes], Awaitable[float]]
"""Hear a file, and say how many seconds that took."""


@dataclass(frozen=True, slots=True)
class Side:
    """Who hears. whole: all of a file's text. begin: until its first piece is there."""

    name: str
    whole: Hear
    begin: Hear


@dataclass(frozen=True, slots=True)
class Figure:
    """of: what was measured. seconds: of the file. took_s: the median. beside: of the same without us, or plain."""

    side: str
    of: str
    seconds: float
    took_s: float
    beside: float | None = None


def timed(work: Callable[[bytes], Awaitable[object]]) -> Hear:
    async def hear(audio: bytes) -> float:
        begun = time.perf_counter()
        await work(audio)
        return time.perf_counter() - begun

    return hear


# --- who hears


def ours(name: str, pipeline: SpeechPipeline) -> Side:
    async def begin(audio: bytes) -> None:
        async with aclosing(pipeline.stream(audio, PLAIN)) as stream:
            async for piece in stream:
                if isinstance(piece, TextDelta):
                    return

    return Side(name, timed(lambda audio: pipeline.transcribe(audio, PLAIN)), timed(begin))


def bare_faster_whisper(model: WhisperModel) -> Side:
    def hear(audio: bytes, most: int | None) -> None:
        segments, _ = model.transcribe(io.BytesIO(audio))
        list(itertools.islice(segments, most))

    return Side(
        "bare faster-whisper",
        timed(lambda audio: asyncio.to_thread(hear, audio, None)),
        timed(lambda audio: asyncio.to_thread(hear, audio, 1)),
    )


@asynccontextmanager
async def bare_vllm(weights: Path, machinery: Machinery) -> AsyncIterator[Side]:
    """`vllm serve`, ready, as it comes but for the flags. weights: in CTranslate2's form."""
    serving = Serving(device=machinery.device)
    with TemporaryDirectory() as name:
        directory = Path(name)
        convert(weights, directory / MODEL)
        process = await asyncio.create_subprocess_exec(
            machinery.vllm,
            "serve",
            str(directory / MODEL),
            f"--served-model-name={MODEL}",
            f"--uds={directory / 'socket'}",
            *serving.flags,
            env={**os.environ, **serving.variables, **BARE},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with open_unix_session(directory / "socket", connect_timeout_s=60, idle_timeout_s=START_S) as session:
                await _until_healthy(process, session)
                yield Side(
                    "bare vllm",
                    timed(lambda audio: _ask(session, audio)),
                    timed(lambda audio: _ask(session, audio, begin=True)),
                )
        finally:
            process.terminate()
            await process.wait()


async def _until_healthy(process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(START_S):
        while process.returncode is None:
            with suppress(aiohttp.ClientError, OSError):
                async with session.get("http://vllm/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise SystemExit("vLLM ended before it served")


async def _ask(session: aiohttp.ClientSession, audio: bytes, *, begin: bool = False) -> None:
    form = aiohttp.FormData({"model": MODEL, "temperature": "0", **({"stream": "true"} if begin else {})})
    form.add_field("file", audio, filename="audio.wav")
    async with session.post("http://vllm/v1/audio/transcriptions", data=form) as answer:
        if answer.status != 200:
            raise SystemExit(f"vLLM answered {answer.status}: {(await answer.text())[:200]}")
        async for line in answer.content:
            if begin and _has_text(line):
                return


def _has_text(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line.removeprefix(b"data: ")).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


# --- what is measured


async def beside(bare: Side, one: Side, files: dict[float, bytes], times: int) -> AsyncIterator[Figure]:
    """Each file, by both in turns: the whole of it, and its first piece."""
    for seconds, audio in files.items():
        rounds = times if seconds <= COST_S else 1
        for of in ("whole", "begin"):
            calls: list[Hear] = [getattr(side, of) for side in (bare, one)]
            taken = [[await call(audio) for call in calls] for _ in range(rounds)]
            without, with_us = map(statistics.median, zip(*taken, strict=True))
            yield Figure(bare.name, of, seconds, without)
            yield Figure(one.name, of, seconds, with_us, with_us / without)


async def costs(
    name: str, pipeline: SpeechPipeline, wanted: dict[str, Hearing], audio: bytes, times: int
) -> AsyncIterator[Figure]:
    """What more than text costs, beside the text alone, in turns."""

    def asking(hearing: Hearing) -> Hear:
        return timed(lambda file: pipeline.transcribe(file, hearing))

    plain = asking(PLAIN)
    for of, hearing in wanted.items():
        call = asking(hearing)
        taken = [(await plain(audio), await call(audio)) for _ in range(times)]
        without, with_it = map(statistics.median, zip(*taken, strict=True))
        yield Figure(name, of, COST_S, with_it, with_it / without)


async def crowded(sides: Sequence[Side], audio: bytes, seconds: float, in_flight: int) -> AsyncIterator[Figure]:
    """So many at once: seconds of processing for each second of audio, in all."""
    without: float | None = None
    for side in sides:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(_one(side, audio))
        took_s = time.perf_counter() - begun
        ratio = took_s / without if without else None
        yield Figure(side.name, f"{in_flight} in flight", seconds * in_flight, took_s, ratio)
        without = without or took_s


async def _one(side: Side, audio: bytes) -> None:
    await side.whole(audio)


async def measure(name: str, options: argparse.Namespace, files: dict[float, bytes]) -> AsyncIterator[Figure]:
    machinery = Machinery(options.vllm, options.threads, options.device)
    async with AsyncExitStack() as stack:
        diarizer = await _diarizer(stack, options.speaker_model)
        pipeline = await stack.enter_async_context(product(name, options.weights, machinery, diarizer=diarizer))
        one = ours(f"ours, {name}", pipeline)
        if name == FASTER_WHISPER:
            bare = bare_faster_whisper(await bare_model(options.weights, machinery))
        else:
            bare = await stack.enter_async_context(bare_vllm(options.weights, machinery))
        shortest = min(files)
        for side in (bare, one):  # what is loaded at the first request is loaded now
            await side.whole(files[shortest])
            await side.begin(files[shortest])
        async for figure in beside(bare, one, files, options.times):
            yield figure
        minute = as_wav(options.spoken[: int(COST_S * RATE_HZ)])
        wanted = COSTS | (SPEAKERS if diarizer else {})
        async for figure in costs(one.name, pipeline, wanted, minute, options.times):
            yield figure
        clip = as_wav(options.spoken[: 30 * RATE_HZ])
        for in_flight in options.in_flight:
            async for figure in crowded((bare, one), clip, 30.0, in_flight):
                yield figure


async def _diarizer(stack: AsyncExitStack, directory: Path | None) -> Diarizer | None:
    if directory is None:
        return None
    files = FileWeights(directory)
    await stack.enter_async_context(held([files]))
    diarizer = onnx(SpeakersKind.BASIC, files)
    await diarizer.start()
    stack.push_async_callback(diarizer.close)
    return diarizer


def confidential_mode() -> str:
    """What the driver says of the GPU's confidential computing."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    told = subprocess.run(["nvidia-smi", "conf-compute", "-f"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


HEADINGS = f"{'':24}{'':20}{'seconds':>9}{'took s':>10}{'RTF':>8}{'RTFx':>8}{'beside':>8}"


def row(one: Figure) -> str:
    beside_it = f"{one.beside:8.2f}" if one.beside else ""
    factor = one.took_s / one.seconds
    return f"{one.side:24}{one.of:20}{one.seconds:9.0f}{one.took_s:10.2f}{factor:8.3f}{1 / factor:8.1f}{beside_it}"


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what hearing costs beside the model server alone.")
    parser.add_argument("--speech", type=Path, required=True, help="a corpus, see benchmarks/recordings.py")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="by default both")
    parser.add_argument("--seconds", type=_numbers, default=[11.0, 30.0, 60.0, 1200.0])
    parser.add_argument("--times", type=int, default=9, help="turns at files of up to a minute; longer ones have one")
    parser.add_argument("--in-flight", type=lambda text: [int(one) for one in _numbers(text)], default=[])
    parser.add_argument("--weights", type=Path, default=ROOT / ".weights/whisper-base", help="in CTranslate2's form")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm/bin/vllm", help="its program")
    parser.add_argument("--threads", type=int, default=0, help="for each clip, by default as many as CTranslate2 likes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--speaker-model", type=Path, help="of `--speakers basic`: then speakers are measured too")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


async def main() -> None:
    options = _options()
    minutes = max(1, round(max(*options.seconds, COST_S) / 60 + 0.5))
    spoken: Samples = join(Plan("en", "en", minutes), read_corpus(options.speech)).samples
    options.spoken = spoken
    files = {seconds: as_wav(spoken[: int(seconds * RATE_HZ)]) for seconds in options.seconds}
    conditions: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
        "device": options.device,
        "confidential_gpu": confidential_mode(),
        "weights": {options.weights.name: weights_digest(options.weights)},
        "versions": {name: version(name) for name in ("sottovoce", "faster-whisper", "ctranslate2")},
    }
    print(f"{conditions['date']}, {conditions['machine']}, {options.device}, {options.weights.name}")
    figures: list[Figure] = []
    for name in options.backend or BACKENDS:
        if name == VLLM and not options.vllm.exists():
            print("vllm: not installed here (make vllm)")
            continue
        print("", HEADINGS, sep="\n", flush=True)
        async for figure in measure(name, options, files):
            print(row(figure), flush=True)
            figures.append(figure)
            if options.json:
                told = {**conditions, "figures": [asdict(one) for one in figures]}
                options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
