"""How fast is the speech, and how fair? Real-time factor, time to first delta, and a short file beside a long one.

For each backend the shipped programs run as a user runs them, with the test checkpoint, and requests go through the
proxy, sealed. The checkpoint is tiny: absolute times say little of whisper-large-v3, the ratio of two in one run does.
"""

from __future__ import annotations

import asyncio
import io
import platform
import statistics
import sys
import time
import wave
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import aiohttp
import av
import numpy as np

from benchmarks.processes import ROOT, engine, proxy

RATE_HZ = 16_000
CHECKPOINT = ROOT / "tests" / "checkpoints" / "nano"
VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
BACKENDS = {"faster-whisper": f"nano={CHECKPOINT / 'ct2'}", "vllm": f"nano={CHECKPOINT / 'hf'}"}
TIMES = 9
WARM_UP = 3
LONG_S = 7200.0
GAP_S = 0.6


def with_program(backend: str) -> tuple[str, ...]:
    """Further options of an engine with that backend."""
    return ("--allow-vllm-program", str(VLLM)) if backend == "vllm" else ()


def sentence() -> np.ndarray:
    """`examples/hello.wav`, int16."""
    with wave.open(str(ROOT / "examples" / "hello.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def spoken(seconds: float) -> np.ndarray:
    """The sentence again and again with short pauses, int16."""
    phrase = np.concatenate([sentence(), np.zeros(int(GAP_S * RATE_HZ), np.int16)])
    return np.resize(phrase, int(seconds * RATE_HZ))


def as_wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def as_opus(samples: np.ndarray) -> bytes:
    """Two hours fit into an upload only so."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE_HZ, layout="mono")
        stream.bit_rate = 16_000
        for start in range(0, len(samples), RATE_HZ):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + RATE_HZ], format="s16", layout="mono")
            frame.rate = RATE_HZ
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


class App:
    """What an application does with the proxy."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str = "nano") -> None:
        self._session = session
        self._url = url + "/v1/audio/transcriptions"
        self._model = model

    async def whole(self, audio: bytes) -> float:
        """Seconds from sending a file to having its text."""
        begun = time.perf_counter()
        async with self._session.post(self._url, data=self._form(audio)) as response:
            text = await response.text()
            if response.status != 200:
                raise SystemExit(f"answered {response.status}: {text[:200]}")
        return time.perf_counter() - begun

    async def first_delta(self, audio: bytes) -> float:
        """Seconds from sending a file to the first piece of its text; the rest is left."""
        begun = time.perf_counter()
        async with self._session.post(self._url, data=self._form(audio, stream="true")) as response:
            async for line in response.content:
                if b"transcript.text.delta" in line:
                    return time.perf_counter() - begun
        raise SystemExit("a stream ended without a piece of text")

    def _form(self, audio: bytes, **fields: str) -> aiohttp.FormData:
        form = aiohttp.FormData({"model": self._model, "language": "en", "temperature": "0", **fields})
        form.add_field("file", audio, filename="audio")
        return form


async def _median(measure: Callable[[bytes], Awaitable[float]], audio: bytes) -> float:
    return statistics.median([await measure(audio) for _ in range(TIMES)])


async def _beside(app: App, long: bytes, short: bytes) -> float:
    """The median for a short file while a long one, asked for whole, has as many clips in flight as a file may."""
    working = asyncio.create_task(app.whole(long))  # noqa: TID251 - cancelled below
    for _ in range(WARM_UP):
        await app.whole(short)
    seconds = await _median(app.whole, short)
    if working.done():
        raise SystemExit("the long file was done before the short ones: nothing was measured")
    working.cancel()
    await asyncio.wait({working})
    return seconds


async def report(name: str) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            engine("--backend", name, "--model", BACKENDS[name], *with_program(name))
        )
        before = await stack.enter_async_context(proxy(running.url, allow_options=("allow_vllm_program",)))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        app = App(session, before.url)
        minute, clip, short, sentence = (as_wav(spoken(seconds)) for seconds in (60.0, 28.0, 5.0, 1.9))
        await app.whole(sentence)  # what is loaded at the first request is loaded now
        factor = await _median(app.whole, minute) / 60.0
        delta_s = await _median(app.first_delta, sentence)
        clip_s, alone_s = await _median(app.whole, clip), await _median(app.whole, short)
        beside_s = await _beside(app, as_opus(spoken(LONG_S)), short)
    print(f"\n{name}")
    print(f"  real-time factor, 60 s of speech      {factor:.3f}")
    print(f"  time to first delta, 1.9 s of speech  {delta_s * 1000:.0f} ms")
    print(f"  5 s file alone                        {alone_s * 1000:.0f} ms")
    print(f"  5 s file beside a 2 h file            {beside_s * 1000:.0f} ms")
    print(f"  a clip of 28 s alone                  {clip_s * 1000:.0f} ms")
    print(f"  beside / (2 x alone + one clip)       {beside_s / (2 * alone_s + clip_s):.2f}, aim: at most 1")


async def main() -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}")
    for name in sys.argv[1:] or BACKENDS:
        if name == "vllm" and not VLLM.exists():
            print("\nvllm: not installed here (make vllm)")
        else:
            await report(name)


if __name__ == "__main__":
    asyncio.run(main())
