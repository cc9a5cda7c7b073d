"""How long after somebody has stopped speaking is the final text there, beside files too, and what shows on the wire?

The shipped programs as a user runs them. Sessions send `examples/hello.wav` as fast as it is said, each time followed
by silence, and are out of step. A final text waits for the end of the turn, 500 ms of silence by the default settings,
for the ticks of both shapers, and for what is left to be decoded; beside it stands a file of the sentence, sent whole.

What files and sessions cost each other is a ratio of two figures of one run, so that a slow machine does not count.

Usage: python -m benchmarks.live [--backend vllm] [--model NAME=DIRECTORY] [--sessions 1,4,8] [--turns 10] [--times 3]
           [--delay xhigh] [--part delays|files|wire ...] [further options of the engine]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from benchmarks.processes import engine, proxy
from benchmarks.speech import BACKENDS, RATE_HZ, App, as_opus, as_wav, sentence, spoken, with_program
from core.program.metronome import Steady
from core.program.scheduler import PATIENCE

PIECE_S = 0.1
SILENCE_S = 2.0
LOUD = 300
CLOSING_MS = 500.0
"""The silence that ends a turn."""
CLIP_S = 28.0
FILE_S = 2 * CLIP_S
LONG_S = 1800.0
CROWD = 8
WIRE_S = 10.0
SETTLED_S = 2.0
WITHOUT_AUDIO_S = 65.0
"""After a minute frames go once a second (docs/live.md)."""


@dataclass(slots=True)
class Wire:
    """Between proxy and engine. Counts of bytes so far."""

    url: str = ""
    up: int = 0
    down: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


@asynccontextmanager
async def wired(engine_url: str) -> AsyncIterator[Wire]:
    wire, there = Wire(), urlsplit(engine_url)

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                setattr(wire, way, getattr(wire, way) + len(data))
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.writers.append(writer)
        answers, onward = await asyncio.open_connection(there.hostname, there.port)
        wire.writers.append(onward)
        await asyncio.gather(carry(reader, onward, "up"), carry(answers, writer, "down"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        for writer in wire.writers:
            writer.transport.abort()


def said() -> tuple[bytes, float]:
    """The sentence, and the seconds at which its speech ends."""
    samples = sentence()
    return samples.tobytes(), float(np.flatnonzero(np.abs(samples) > LOUD)[-1]) / RATE_HZ


class Session:
    """One live session. ends: when each sentence ended; finals: when each text came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.ends: list[float] = []
        self.finals: list[float] = []

    async def set_up(self, model: str, delay: str) -> None:
        transcription = {"model": model, "language": "en", "delay": delay}
        heard = {"format": {"type": "audio/pcm", "rate": RATE_HZ}, "transcription": transcription}
        update = {"type": "transcription", "audio": {"input": heard}}
        await self._socket.send_json({"type": "session.update", "session": update})

    async def speak(self, turns: int, after_s: float) -> None:
        """Each turn: the sentence, and silence until its text is there, `SILENCE_S` at least."""
        await asyncio.sleep(after_s)
        speech, end_s = said()
        for turn in range(turns):
            metronome, begun = Steady(PIECE_S), time.perf_counter()
            await self.say(speech, metronome)
            self.ends.append(begun + end_s)
            await self.say(bytes(round(SILENCE_S * RATE_HZ) * 2), metronome)
            while len(self.finals) <= turn:
                await self.say(bytes(round(PIECE_S * RATE_HZ) * 2), metronome)

    async def say(self, samples: bytes, metronome: Steady) -> None:
        """A piece goes when the last of it has been said, as from a microphone."""
        size = round(PIECE_S * RATE_HZ) * 2
        for start in range(0, len(samples), size):
            await metronome.beat()
            audio = base64.b64encode(samples[start : start + size]).decode()
            await self._socket.send_json({"type": "input_audio_buffer.append", "audio": audio})

    async def listen(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if event["type"] == "error" or event["type"].endswith(".failed"):
                raise SystemExit(f"a session failed: {event['error']['code']}")
            if event["type"].endswith("transcription.completed"):
                self.finals.append(time.perf_counter())

    @property
    def delays_ms(self) -> list[float]:
        return [(final - end) * 1000 for end, final in zip(self.ends, self.finals, strict=False)]


@asynccontextmanager
async def session(http: aiohttp.ClientSession, url: str, model: str, delay: str) -> AsyncIterator[Session]:
    async with (
        http.ws_connect(f"{url}/v1/realtime?intent=transcription", max_msg_size=0) as socket,
        asyncio.TaskGroup() as group,
    ):
        held = Session(socket)
        listening = group.create_task(held.listen())
        await held.set_up(model, delay)
        yield held
        listening.cancel()


@dataclass(frozen=True, slots=True)
class Service:
    """A proxy with an engine behind it. url: of the proxy."""

    http: aiohttp.ClientSession
    url: str
    model: str
    delay: str
    app: App

    async def delays(self, sessions: int, turns: int) -> list[float]:
        """Milliseconds from the end of each sentence to its text, the first of each session left out."""
        speech_s = len(said()[0]) / 2 / RATE_HZ
        async with AsyncExitStack() as stack:
            held = [
                await stack.enter_async_context(session(self.http, self.url, self.model, self.delay))
                for _ in range(sessions)
            ]
            async with asyncio.TaskGroup() as group:
                for number, each in enumerate(held):
                    group.create_task(each.speak(turns + 1, number * (speech_s + SILENCE_S) / sessions))
            return [delay for each in held for delay in each.delays_ms[1:]]

    async def whole_ms(self, audio: bytes, times: int) -> list[float]:
        """Milliseconds for a file that is sent whole, one after the other."""
        return [await self.app.whole(audio) * 1000 for _ in range(times)]

    async def delays_beside_a_file(self, turns: int) -> list[float]:
        """Milliseconds as of `delays`, of one session beside a file that takes longer than it lasts."""
        long = asyncio.create_task(self.app.whole(as_opus(spoken(LONG_S))))  # noqa: TID251 - cancelled below
        found = await self.delays(1, turns)
        if long.done():
            raise SystemExit("the long file was done before the session: nothing was measured")
        long.cancel()
        await asyncio.wait({long})
        return found

    async def file_beside_sessions_ms(self, audio: bytes, times: int) -> list[float]:
        """Milliseconds as of `whole_ms`, beside sessions in which people speak as long as it takes."""
        crowd = asyncio.create_task(self.delays(CROWD, 10**6))  # noqa: TID251 - cancelled below
        await asyncio.sleep(SETTLED_S)
        taken = await self.whole_ms(audio, times)
        if crowd.done():
            raise SystemExit("the sessions were over before the file: nothing was measured")
        crowd.cancel()
        await asyncio.wait({crowd})
        return taken


async def shown(service: Service, wire: Wire) -> list[tuple[str, float, float]]:
    """Bytes a second up and down, of one session: in speech, in silence, and long without a microphone."""

    async def counted(what: str, seconds: float) -> tuple[str, float, float]:
        begun, up, down = time.perf_counter(), wire.up, wire.down
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - begun
        return what, (wire.up - up) / took_s, (wire.down - down) / took_s

    async with session(service.http, service.url, service.model, service.delay) as held:
        await asyncio.sleep(SETTLED_S)
        size = round(WIRE_S + 1) * RATE_HZ * 2
        found = []
        for what, samples in (("speech", (said()[0] * 8)[:size]), ("silence", bytes(size))):
            async with asyncio.TaskGroup() as group:
                group.create_task(held.say(samples, Steady(PIECE_S)))
                found.append(await counted(what, WIRE_S))
        found.append(await counted("no audio, at first", WIRE_S))
        await asyncio.sleep(WITHOUT_AUDIO_S - WIRE_S)
        found.append(await counted("no audio for a minute", WIRE_S))
    return found


def quantiles(milliseconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, P95 and P99."""
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


async def tell_delays(service: Service, sessions: Sequence[int], turns: int) -> None:
    print(f"{'milliseconds':<28} {'median':>8} {'P95':>8} {'P99':>8} {'of':>6} {'P95 of the aim':>16}")
    clip = await service.whole_ms(as_wav(sentence()), turns)
    median, p95, p99 = quantiles(clip)
    print(f"{'a file of the sentence':<28} {median:8.0f} {p95:8.0f} {p99:8.0f} {len(clip):6}", flush=True)
    aim = CLOSING_MS + median
    for count in sessions:
        found = await service.delays(count, turns)
        median, p95, p99 = quantiles(found)
        what = f"end of speech to text, {count:2}"
        print(f"{what:<28} {median:8.0f} {p95:8.0f} {p99:8.0f} {len(found):6} {p95 / aim:16.2f}", flush=True)


async def tell_files(service: Service, turns: int, times: int) -> None:
    clip_ms = statistics.median(await service.whole_ms(as_wav(spoken(CLIP_S)), times))
    alone_ms = quantiles(await service.delays(1, turns))[1]
    beside_ms = quantiles(await service.delays_beside_a_file(turns))[1]
    file = as_wav(spoken(FILE_S))
    file_ms = statistics.median(await service.whole_ms(file, times))
    crowded_ms = statistics.median(await service.file_beside_sessions_ms(file, times))
    print(f"\na clip of 28 s, as a file                    {clip_ms:8.0f} ms")
    print(f"end of speech to text, P95, alone            {alone_ms:8.0f} ms")
    print(f"end of speech to text, P95, beside a file   {beside_ms:8.0f} ms")
    print(f"beside / (alone + one clip)                  {beside_ms / (alone_ms + clip_ms):8.2f}, aim: at most 1")
    print(f"a file of {FILE_S:.0f} s alone                        {file_ms:8.0f} ms")
    print(f"a file of {FILE_S:.0f} s beside {CROWD} sessions            {crowded_ms:8.0f} ms")
    print(f"beside / ({PATIENCE + 1} x alone)                         ", end="")
    print(f"{crowded_ms / ((PATIENCE + 1) * file_ms):8.2f}, aim: at most 1", flush=True)


async def tell_wire(service: Service, wire: Wire) -> None:
    print(f"\n{'bytes a second':<28} {'up':>8} {'down':>8}")
    for what, up, down in await shown(service, wire):
        print(f"{what:<28} {up:8.0f} {down:8.0f}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="faster-whisper", choices=["faster-whisper", "vllm"])
    parser.add_argument("--model", help="by default, the test checkpoint")
    parser.add_argument("--sessions", default="1,4,8")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--times", type=int, default=3, help="files of which the median is taken")
    parser.add_argument("--delay", default="medium", help="`xhigh`: no text before a turn has ended")
    parser.add_argument("--part", action="append", choices=["delays", "files", "wire"])
    options, further = parser.parse_known_args()
    parts = options.part or ["delays", "files", "wire"]
    given = options.model or BACKENDS[options.backend]
    model = given.partition("=")[0]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before"
    told = ", ".join([f"delay {options.delay}", *further, model, options.backend])
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {told}\n", flush=True)
    async with AsyncExitStack() as stack:
        started = engine("--model", given, "--backend", options.backend, *with_program(options.backend), *further)
        running = await stack.enter_async_context(started)
        wire = await stack.enter_async_context(wired(running.url))
        front = await stack.enter_async_context(proxy(wire.url, allow_options=("allow_vllm_program",)))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        service = Service(http, front.url, model, options.delay, App(http, front.url, model))
        await service.app.whole(as_wav(sentence()))  # what is loaded at the first request is loaded now
        if "delays" in parts:
            await tell_delays(service, [int(count) for count in options.sessions.split(",")], options.turns)
        if "files" in parts:
            await tell_files(service, options.turns, options.times)
        if "wire" in parts:
            await tell_wire(service, wire)


if __name__ == "__main__":
    asyncio.run(main())
