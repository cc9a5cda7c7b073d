"""The shipped programs as real processes, for tests that look at them from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.places import ROOT
from tests.requirements import need_program
from tests.waiting import GIVE_UP_S

CHECKPOINT = ROOT / "tests" / "checkpoints" / "nano" / "ct2"
POLICY = ROOT / "examples" / "insecure-policy.toml"
RECORDING = ROOT / "examples" / "hello.wav"
SAID = (ROOT / "examples" / "hello.txt").read_text().strip()


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
    """One of 127.0.0.1 that nobody listened at just now."""
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
    name: str,
    arguments: Sequence[str],
    log: Path,
    *,
    prefix: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """Run a console script, which tells where it listens; stopped when the context is left.

    prefix: a command to run it under, such as a tracer. variables: beside ours.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SOTTOVOCE_")}
    environment |= variables or {}
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            str(Path(sys.executable).with_name(name)),
            *arguments,
            "--listen",
            "127.0.0.1:0",
            "--status-listen",
            "127.0.0.1:0",
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
        )
    try:
        address, status_address = await _addresses(process, log, before)
        yield Program(process, f"http://{address}", f"http://{status_address}", log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _addresses(process: asyncio.subprocess.Process, log: Path, offset: int) -> tuple[str, str]:
    """What a program says of where it listens, in its log from `offset` on; nothing when it ends before."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            ended = process.returncode is not None
            for line in log.read_bytes()[offset:].splitlines():
                with suppress(ValueError, KeyError):
                    said = json.loads(line)
                    return said.get("address") or said["addresses"][0], said["status_address"]
            if ended:
                return "", ""
            await asyncio.sleep(0.02)


async def until_ready(running: Program, timeout_s: float = GIVE_UP_S) -> None:
    """Wait until the program's `/readyz` says so; fail at once when it ends."""
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
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
    prefix: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    wait: bool = True,
) -> AsyncIterator[Program]:
    """An engine with the nano checkpoint. evidence: how it attests itself. wait: until it is ready."""
    arguments = ("serve", *evidence, "--model", f"nano={CHECKPOINT}", *options)
    async with program("sottovoce-engine", arguments, log, prefix=prefix, variables=variables) as running:
        if wait:
            await until_ready(running)
        yield running


@asynccontextmanager
async def proxy(
    log: Path, engine_url: str, *options: str, policy: Path = POLICY, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """A proxy, of a policy that trusts development evidence unless another is given; not waited for."""
    arguments = ("proxy", "--engine", engine_url, "--policy", str(policy), *options)
    async with program("sottovoce", arguments, log, variables=variables) as running:
        yield running
