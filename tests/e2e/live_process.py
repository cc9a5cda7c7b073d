"""An engine as a process of its own, whose live sessions say back what they are told: it can be killed like one.

Run as `python -m tests.e2e.live_process HOST DIRECTORY`. Its one line is its URL.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from core.program.logs import LogFormat, LogLevel, configure_logging
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from tests.e2e.conftest import engine_settings
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.gateway.fake_live import FakeLiveApplication
from tests.places import ROOT


async def _run(host: str, directory: Path) -> None:
    parts = EngineParts(backend=Backend(FakeTranscriber()), decoder=FakeDecoder(), live=FakeLiveApplication())
    settings = engine_settings(directory).model_copy(update={"listen": f"{host}:0"})
    async with running_engine(settings, parts) as engine:
        sys.stdout.write(f"http://{engine.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class LiveProcess:
    url: str
    process: asyncio.subprocess.Process

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def live_process(directory: Path, host: str = "127.0.0.1") -> AsyncIterator[LiveProcess]:
    """Killed when the context is left."""
    directory.mkdir()
    command = (sys.executable, "-m", __name__, host, str(directory))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    running = LiveProcess((await process.stdout.readline()).decode().strip(), process)
    try:
        yield running
    finally:
        await running.kill()


if __name__ == "__main__":
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)  # on standard error: the URL is all that goes to the other
    asyncio.run(_run(sys.argv[1], Path(sys.argv[2])))
