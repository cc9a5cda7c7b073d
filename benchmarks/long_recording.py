"""What does a recording of many hours take of the proxy? A job of it, through the shipped proxy and a whole engine.

::

    python -m benchmarks.long_recording                          ten hours in 4.6 GB, heard at 13 times their speed
    python -m benchmarks.long_recording --hours 1 --speed 130    the same, sooner over
    python -m benchmarks.long_recording --hours 1 --weights .weights/tiny.en --speech DIRECTORY     by a real model

The engine decodes and looks for voices as it always does; its recogniser does nothing but take its time, unless there
are weights, and then it is the shipped one. The recording is somebody speaking, over and over, stereo at 32 kHz, and
is made while it is sent: it is never whole on this side. Memory is that of the proxy and of its decoder, looked at
four times a second. What lies on the disk meanwhile (the recording, and what was made of it for the engine) is about
one and a half times the file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt

from benchmarks import processes
from benchmarks.load import family, resident_bytes
from benchmarks.null_speech import NullTranscriber
from benchmarks.processes import POLICY, ROOT, program
from benchmarks.recordings import Plan, join, read_corpus
from benchmarks.servers import announced
from core.media.decode import AudioDecoder
from core.program.logs import LogFormat, LogLevel, configure_logging
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from engine.settings import EngineSettings
from engine.speech.transcriber import Capabilities
from engine.types import Clip, ClipTranscript, DecodingOptions

Pcm = npt.NDArray[np.int16]
SPEECH = ROOT / "examples" / "kennedy.flac"
RATE_HZ, CHANNELS, SAMPLE_BYTES = 32_000, 2, 2
MIB = 1 << 20
LOOK_S = 0.25


class PacedTranscriber(NullTranscriber):
    """Hears one clip at a time, so many times faster than it was said."""

    capabilities = Capabilities(slots=1)

    def __init__(self, speed: float) -> None:
        self._speed = speed

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        await asyncio.sleep(clip.duration_s / self._speed)
        return await super().transcribe(model, clip, options)


async def serve(speed: float) -> None:
    """The engine, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights").write_bytes(b"none")  # noqa: ASYNC240 - before anything else runs
        settings = EngineSettings(
            listen="127.0.0.1:0", status_listen="127.0.0.1:0", model=(f"null={directory}",), insecure_evidence=True
        )
        decoder = AudioDecoder()
        await decoder.start()
        parts = EngineParts(backend=Backend(PacedTranscriber(speed)), decoder=decoder)
        async with running_engine(settings, parts) as engine:
            await announced(engine.address)


@asynccontextmanager
async def engine(speed: float, weights: Path | None) -> AsyncIterator[str]:
    if weights is not None:
        async with processes.engine("--model", f"{weights.name}={weights}") as server:
            yield server.url
        return
    command = [sys.executable, "-m", "benchmarks.long_recording", "--serve", "--speed", str(speed)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


@dataclass
class Memory:
    """The most that a program and its children held, in bytes, in each phase."""

    pid: int
    phase: str = "idle"
    peaks: dict[str, int] = field(default_factory=dict)

    async def watch(self) -> None:
        while True:
            held = resident_bytes(family([self.pid]))
            self.peaks[self.phase] = max(held, self.peaks.get(self.phase, 0))
            await asyncio.sleep(LOOK_S)


async def _one_sentence() -> Pcm:
    decoder = AudioDecoder()
    await decoder.start()
    heard = [block.pcm async for block in decoder.decode(SPEECH.read_bytes())]
    await decoder.close()
    return np.frombuffer(b"".join(heard), np.int16)


def _twenty_minutes(speech: Path) -> Pcm:
    """Of a corpus (`benchmarks.recordings`): over one sentence, again and again, a real model falls into loops."""
    return (join(Plan("en", "en", 20), read_corpus(speech)).samples * 32_767).astype(np.int16)


async def recording(hours: float, speech: Path | None) -> AsyncIterator[bytes]:
    """A WAV file, piece by piece."""
    spoken = (await _one_sentence() if speech is None else _twenty_minutes(speech)).repeat(RATE_HZ // 16_000)
    piece = np.stack([spoken, spoken], axis=1).tobytes()
    left = round(hours * 3600 * RATE_HZ) * CHANNELS * SAMPLE_BYTES
    frame = CHANNELS * SAMPLE_BYTES
    form = struct.pack("<HHIIHH", 1, CHANNELS, RATE_HZ, RATE_HZ * frame, frame, 8 * SAMPLE_BYTES)
    riff, data = (min(size, 0xFFFF_FFFF) for size in (left + 36, left))
    yield b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    yield b"data" + struct.pack("<I", data)
    while left:
        yield piece[:left]
        left -= min(left, len(piece))


async def submitted(session: aiohttp.ClientSession, url: str, hours: float, speech: Path | None) -> str:
    form = aiohttp.FormData()
    form.add_field("file", recording(hours, speech), filename="long.wav", content_type="audio/wav")
    async with session.post(f"{url}/v1/jobs", data=form) as answer:
        answer.raise_for_status()
        return str((await answer.json())["id"])


async def ended(session: aiohttp.ClientSession, url: str, job_id: str, memory: Memory) -> float:
    """Wait for the job; how many seconds of sound it had. What is heard first marks the end of cutting."""
    while True:
        async with session.get(f"{url}/v1/jobs/{job_id}") as answer:
            job = await answer.json()
        if answer.status == 503:  # a busy machine: ask again, as an app would
            await asyncio.sleep(1.0)
            continue
        memory.phase = "heard" if job["progress"] else "cut"
        if job["status"] not in ("created", "pending", "downloading", "processing"):
            if job["status"] != "completed":
                raise SystemExit(f"the job ended as {job['status']}: {json.dumps(job)}")
            return float(job["duration_s"])
        await asyncio.sleep(1.0)


async def words_of(session: aiohttp.ClientSession, url: str, job_id: str) -> int:
    async with session.get(f"{url}/v1/jobs/{job_id}/result") as answer:
        answer.raise_for_status()
        return len((await answer.json())["text"].split())


async def measure(hours: float, speed: float, weights: Path | None, speech: Path | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kept = ("--jobs", "--jobs-dir", f"{directory}/jobs", "--jobs-key", f"{directory}/key")
        trusts = ("--policy", str(POLICY), "--state-dir", f"{directory}/state")
        async with (
            engine(speed, weights) as engine_url,
            program("sottovoce", "proxy", "--engine", engine_url, *trusts, *kept) as proxy,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        ):
            memory = Memory(proxy.process.pid)
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(memory.watch())
                await asyncio.sleep(2 * LOOK_S)
                memory.phase, began_s = "sent", time.monotonic()
                job_id = await submitted(session, proxy.url, hours, speech)
                sent_s = time.monotonic() - began_s
                duration_s = await ended(session, proxy.url, job_id, memory)
                took_s = time.monotonic() - began_s
                words = await words_of(session, proxy.url, job_id)
                watch.cancel()
    size_bytes = round(hours * 3600 * RATE_HZ) * CHANNELS * SAMPLE_BYTES
    how = f"at {speed:g} times its speed, clip by clip" if weights is None else f"by {weights.name}: {words:,} words"
    print(f"{duration_s / 3600:.2f} h in {size_bytes / 1e9:.2f} GB, heard {how}")
    sent_mb_s = size_bytes / sent_s / 1e6
    print(f"sent and sealed in {sent_s:.0f} s ({sent_mb_s:.0f} MB/s); completed after {took_s:.0f} s in all")
    peaks = ", ".join(f"{phase} {peak / MIB:.0f} MiB" for phase, peak in memory.peaks.items())
    print(f"memory of the proxy and its decoder, at most: {peaks}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a job of many hours.")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--speed", type=float, default=13.0, help="how many seconds of sound the engine hears in one")
    parser.add_argument("--weights", type=Path, help="of a real model, in CTranslate2's form")
    parser.add_argument("--speech", type=Path, help="a corpus, see benchmarks/recordings.py: what is said")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        configure_logging(LogFormat.AUTO, LogLevel.ERROR)
        asyncio.run(serve(given.speed))
    else:
        asyncio.run(measure(given.hours, given.speed, given.weights, given.speech))
