"""The engine of `benchmarks.storms`, in a process of its own that may be killed, and what it writes down.

It proves itself and opens requests as every engine does, under keys of its own at each start. What it hears is how loud
a recording is: of no two channels is that the same.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
import wave
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.media.decode import AudioDecoder
from core.media.types import SAMPLE_RATE_HZ
from core.program.http.listener import Address
from tests.proxy.fake_engine import FakeEngine, Reply, Script

CHANNELS: Final = 2
SECONDS: Final = 2.0


def recording(number: int) -> bytes:
    """A WAV file whose channels are as loud as nothing else: 2 `number` + 1, and one more."""
    levels = np.array([_level(number, channel) for channel in range(CHANNELS)], np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(CHANNELS)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE_HZ)
        wav.writeframes(np.tile(levels, round(SECONDS * SAMPLE_RATE_HZ)).tobytes())
    return file.getvalue()


def _level(number: int, channel: int) -> int:
    return CHANNELS * number + channel + 1


@dataclass(frozen=True, slots=True)
class Hearing:
    """Of a part: when it began, and when it was answered, if it was; of the steady clock."""

    began: float
    answered: float | None


@dataclass(frozen=True)
class Journal:
    """A line for each beginning and each answer: when, which of both, the hearing, and the part."""

    path: Path

    def note(self, what: str, hearing: str, part: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # In one piece: whoever is killed has written all of a line or none.
            os.write(handle, f"{time.monotonic()} {what} {hearing} {part}\n".encode())
        finally:
            os.close(handle)

    def heard(self) -> Mapping[str, list[Hearing]]:
        """Of each part, in order."""
        began: defaultdict[str, dict[str, float]] = defaultdict(dict)
        answered: dict[str, float] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            at, what, hearing, part = line.split()
            if what == "began":
                began[part][hearing] = float(at)
            else:
                answered[hearing] = float(at)
        return {
            part: [Hearing(at, answered.get(hearing)) for hearing, at in sorted(hearings.items(), key=lambda it: it[1])]
            for part, hearings in began.items()
        }


class _Ear:
    def __init__(self, journal: Journal, hearing_s: float, decoder: AudioDecoder) -> None:
        self._journal = journal
        self._hearing_s = hearing_s
        self._decoder = decoder

    async def hear(self, reply: Reply) -> Any:
        part = await self._part(bytes(reply.received.content))
        hearing = os.urandom(8).hex()
        self._journal.note("began", hearing, part)
        await asyncio.sleep(self._hearing_s)
        segment = {"start": 0.0, "end": 1.0, "text": part}
        body = {"text": part, "language": "english", "duration": SECONDS, "segments": [segment]}
        await reply.head()
        await reply.content(json.dumps(body).encode())
        sent = await reply.end()
        self._journal.note("answered", hearing, part)
        return sent

    async def _part(self, form: bytes) -> str:
        """`recording.channel`, of a form that ends with a FLAC file."""
        file = form[form.index(b"fLaC") : form.rindex(b"\r\n--")]
        pcm = b"".join([block.pcm async for block in self._decoder.decode(file)])
        (level,) = set(np.frombuffer(pcm, np.int16).tolist())
        number, channel = divmod(level - 1, CHANNELS)
        return f"{number}.{channel}"


async def _serve(port: int, journal: Journal, hearing_s: float) -> None:
    decoder = AudioDecoder()
    await decoder.start()
    engine = FakeEngine()
    engine.default = Script(play=_Ear(journal, hearing_s, decoder).hear)
    async with engine.running(address=Address("127.0.0.1", port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Journal(Path(sys.argv[2])), float(sys.argv[3])))
