"""A fake engine as a process of its own, which can be killed and stopped like one; it tells how far it has come.

Run as `python -m tests.proxy.engines.processes BEHAVIOUR HOST PORT`. Its first line is its URL; then one word for each
thing that happens: attested, uploading, complete and a digest of what came, working, streaming.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn

from aiohttp import web

from core.program.http.listener import Address
from tests.apart import Apart
from tests.places import ROOT
from tests.proxy.fake_engine import FakeEngine, Play, Reply, Script, half_a_stream, outer, transcript

ANSWERS: Final = "answers"
HOLDS_UPLOAD: Final = "holds-upload"
HOLDS_ANSWER: Final = "holds-answer"
HOLDS_STREAM: Final = "holds-stream"
GARBAGE: Final = "garbage"
MISMATCH: Final = "mismatch"
OTHER: Final = "other"
"""It answers, and is not what the policy asks for."""


async def _hold() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def _uploading(_: Reply) -> web.StreamResponse:
    _say("uploading")
    await _hold()


async def _working(reply: Reply) -> web.StreamResponse:
    await reply.start()
    await reply.heartbeat()
    _say("working")
    await _hold()


async def _streaming(reply: Reply) -> web.StreamResponse:
    await half_a_stream(reply)
    _say("streaming")
    await _hold()


async def _garbage(reply: Reply) -> web.StreamResponse:
    await reply.start()
    await reply.raw(bytes([20]) + bytes(1000))
    return await reply.cut()


def _complete(play: Play) -> Play:
    async def told(reply: Reply) -> web.StreamResponse:
        _say("complete", hashlib.sha256(reply.received.content).hexdigest())
        return await play(reply)

    return told


SCRIPTS: Final = {
    ANSWERS: Script(play=_complete(transcript)),
    HOLDS_UPLOAD: Script(early=_uploading),
    HOLDS_ANSWER: Script(play=_complete(_working)),
    HOLDS_STREAM: Script(play=_complete(_streaming)),
    GARBAGE: Script(play=_complete(_garbage)),
    MISMATCH: outer(422),
    OTHER: Script(play=_complete(transcript)),
}


async def _run(behaviour: str, address: Address) -> None:
    engine = FakeEngine(told=_say)
    engine.default = SCRIPTS[behaviour]
    if behaviour == OTHER:
        engine.config_changes["log_level"] = "debug"
    async with engine.running(address=address):
        _say(engine.url)
        await _hold()


@dataclass
class EngineProcess:
    """What runs, and what it has said."""

    url: str
    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def engine_process(behaviour: str, port: int = 0, *, at: Apart | None = None) -> AsyncIterator[EngineProcess]:
    """An engine that behaves like that; killed when the context is left. at: on which machine, if not on this one."""
    prefix, host = (at.program, at.there) if at else ((), "127.0.0.1")
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", __name__, behaviour, host, str(port), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    running = EngineProcess((await process.stdout.readline()).decode().strip(), process)
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read(process.stdout, running.said))
            yield running
            reading.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _read(output: asyncio.StreamReader, said: list[str]) -> None:
    while line := await output.readline():
        said.append(line.decode().strip())


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], Address(sys.argv[2], int(sys.argv[3]))))
