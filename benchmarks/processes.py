"""The shipped programs as processes, started for a benchmark and stopped after it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "examples" / "insecure-policy.toml"
START_TIMEOUT_S = 600.0
"""A vLLM on a slow machine takes minutes."""


@dataclass(frozen=True, slots=True)
class Server:
    process: asyncio.subprocess.Process
    url: str


@asynccontextmanager
async def proxy(engine_url: str, *, allow_options: tuple[str, ...] = ()) -> AsyncIterator[Server]:
    """`sottovoce proxy` before an engine, ready."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
        policy.write(f"{POLICY.read_text()}\n[statement]\nallow_options = {json.dumps(allow_options)}\n")
        policy.flush()
        async with program("sottovoce", "proxy", "--engine", engine_url, "--policy", policy.name, port=18080) as server:
            yield server


@asynccontextmanager
async def engine(*options: str) -> AsyncIterator[Server]:
    """`sottovoce-engine serve`, ready."""
    async with program("sottovoce-engine", "serve", "--insecure-evidence", *options, port=18800) as server:
        yield server


@asynccontextmanager
async def program(name: str, *arguments: str, port: int) -> AsyncIterator[Server]:
    """A console script that listens on `port`, and with its status on the next."""
    listen = ("--listen", f"127.0.0.1:{port}", "--status-listen", f"127.0.0.1:{port + 1}", "--log-level", "error")
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name(name), *arguments, *listen, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _until_ready(process, f"http://127.0.0.1:{port + 1}/readyz")
        yield Server(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"a program ended with {process.returncode} before it was ready")
