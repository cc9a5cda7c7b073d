"""The shipped programs as processes, started for a benchmark and stopped after it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import aiohttp

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "examples" / "insecure-policy.toml"
START_TIMEOUT_S = 600.0
"""A vLLM on a slow machine takes minutes."""


@dataclass(frozen=True, slots=True)
class Server:
    """status_url: empty where it has none."""

    process: asyncio.subprocess.Process
    url: str
    status_url: str = ""


@asynccontextmanager
async def proxy(*engine_urls: str, allow_options: tuple[str, ...] = ()) -> AsyncIterator[Server]:
    """`sottovoce proxy` before engines, ready."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
        policy.write(f"{POLICY.read_text()}\n[statement]\nallow_options = {json.dumps(allow_options)}\n")
        policy.flush()
        engines = [word for url in engine_urls for word in ("--engine", url)]
        async with program("sottovoce", "proxy", *engines, "--policy", policy.name) as server:
            yield server


@asynccontextmanager
async def engine(*options: str) -> AsyncIterator[Server]:
    """`sottovoce-engine serve`, ready."""
    async with program("sottovoce-engine", "serve", "--insecure-evidence", *options) as server:
        yield server


@asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[Server]:
    """A console script, ready, on ports that it tells."""
    listen = ("--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0", "--log-format", "json")
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name(name), *arguments, *listen, stderr=log
        )
        try:
            address, status_address = await _addresses(process, log)
            await _until_ready(process, f"http://{status_address}/readyz")
            yield Server(process, f"http://{address}", f"http://{status_address}")
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _addresses(process: asyncio.subprocess.Process, log: BinaryIO) -> tuple[str, str]:
    """Where a program says that it listens, and where its status is."""
    while process.returncode is None:
        for line in os.pread(log.fileno(), 65_536, 0).splitlines():
            with suppress(ValueError, KeyError):
                said = json.loads(line)
                return said.get("address") or said["addresses"][0], said["status_address"]
        await asyncio.sleep(0.02)
    raise SystemExit(f"a program ended with {process.returncode} before it listened")


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
