"""The shipped programs as real processes, for tests that look at them from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.requirements import need_program

ROOT = Path(__file__).parent.parent.parent
CHECKPOINT = ROOT / "tests" / "checkpoints" / "nano" / "ct2"
POLICY = ROOT / "examples" / "insecure-policy.toml"
RECORDING = ROOT / "examples" / "hello.wav"
SAID = (ROOT / "examples" / "hello.txt").read_text().strip()
READY_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Program:
    """A running program: its process, where it serves, and everything it has printed."""

    process: asyncio.subprocess.Process
    url: str
    status_url: str
    log: Path

    def printed(self) -> bytes:
        return self.log.read_bytes()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


def free_port() -> int:
    """A port that was free a moment ago; the programs under test refuse to share, so a clash is seen."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unprivileged() -> tuple[str, ...]:
    """What to run a program under so that it may look no further, and can be looked into no less, than its user."""
    if os.getuid() != 0:
        return ()
    need_program("setpriv")
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@asynccontextmanager
async def program(
    name: str, arguments: Sequence[str], log: Path, *, port: int | None = None, prefix: Sequence[str] = ()
) -> AsyncIterator[Program]:
    """Run a console script with `--listen` and `--status-listen` on free ports; stopped when the context is left.

    prefix: a command to run it under, such as a tracer.
    """
    port, status_port = port or free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SOTTOVOCE_")}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            str(Path(sys.executable).with_name(name)),
            *arguments,
            "--listen",
            f"127.0.0.1:{port}",
            "--status-listen",
            f"127.0.0.1:{status_port}",
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
        )
    running = Program(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{status_port}", log)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_ready(running: Program, timeout_s: float | None = None) -> None:
    """Wait until the program's `/readyz` says so; fail at once when it ends."""
    async with asyncio.timeout(timeout_s or READY_TIMEOUT_S), aiohttp.ClientSession() as session:
        while await _status(session, running.status_url + "/readyz") != 200:
            if running.process.returncode is not None:
                raise AssertionError(running.printed().decode())
            await asyncio.sleep(0.05)


async def _status(session: aiohttp.ClientSession, url: str) -> int | None:
    try:
        async with session.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return None


@asynccontextmanager
async def engine(
    log: Path,
    *options: str,
    evidence: Sequence[str] = ("--insecure-evidence",),
    port: int | None = None,
    prefix: Sequence[str] = (),
    wait: bool = True,
) -> AsyncIterator[Program]:
    """An engine with the nano checkpoint. evidence: how it attests itself. wait: until it is ready."""
    arguments = ("serve", *evidence, "--model", f"nano={CHECKPOINT}", *options)
    async with program("sottovoce-engine", arguments, log, port=port, prefix=prefix) as running:
        if wait:
            await until_ready(running)
        yield running


@asynccontextmanager
async def proxy(log: Path, engine_url: str, *options: str, policy: Path = POLICY) -> AsyncIterator[Program]:
    """A proxy, of a policy that trusts development evidence unless another is given; not waited for."""
    arguments = ("proxy", "--engine", engine_url, "--policy", str(policy), *options)
    async with program("sottovoce", arguments, log) as running:
        yield running
