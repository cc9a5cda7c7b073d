"""Long work survives a stock nginx in front of the engine: its 60 s time-outs see a heartbeat every 15 s."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from engine.app import EngineParts, running_engine
from proxy.app import running_proxy
from tests.e2e.conftest import TEXT, TRANSCRIPTIONS, Reply, engine_settings, form, proxy_settings
from tests.e2e.processes import free_port
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted
from tests.requirements import need_program

WORK_S = 90.0
NEVER_S = 3_600.0

# Only what an unprivileged nginx needs to run from a directory; every time-out is nginx's default.
CONFIGURATION = """
user root; daemon off; pid {directory}/pid; error_log {directory}/error; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}
}}
"""


@asynccontextmanager
async def nginx(directory: Path, upstream: str) -> AsyncIterator[str]:
    """A stock nginx in front of `upstream`; its URL."""
    directory.mkdir()
    port = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, port=port, upstream=upstream))
    process = await asyncio.create_subprocess_exec(
        shutil.which("nginx") or "/usr/sbin/nginx",
        "-p",
        directory,
        "-c",
        configuration,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _listens(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise AssertionError("nginx did not start")


async def _slow_answer(directory: Path, *, heartbeat_s: float) -> Reply:
    """What the app gets when the transcriber takes `WORK_S` behind nginx."""
    directory.mkdir()
    model = directory / "model"
    model.mkdir()
    gate = asyncio.Event()
    transcriber = FakeTranscriber(script=scripted(TEXT), gate=gate)
    parts = EngineParts(transcriber=transcriber, decoder=FakeDecoder(), heartbeat_s=heartbeat_s)
    async with (
        running_engine(engine_settings(model), parts) as engine,
        nginx(directory / "nginx", f"http://{engine.address}") as url,
        running_proxy(proxy_settings(url, idle_timeout_s=NEVER_S)) as proxy,
        aiohttp.ClientSession() as session,
    ):
        asyncio.get_running_loop().call_later(WORK_S, gate.set)
        target = f"http://{proxy.addresses[0]}{TRANSCRIPTIONS}"
        async with session.post(target, data=form(language="en")) as response:
            return Reply(response.status, dict(response.headers), await response.read())


@pytest.mark.slow
async def test_a_90_s_transcription_survives_stock_nginx_thanks_to_heartbeats(tmp_path: Path) -> None:
    need_program("nginx")
    async with asyncio.TaskGroup() as group:
        kept = group.create_task(_slow_answer(tmp_path / "with", heartbeat_s=15.0))
        cut = group.create_task(_slow_answer(tmp_path / "without", heartbeat_s=NEVER_S))
    assert kept.result().status == 200
    assert json.loads(kept.result().body)["text"] == TEXT
    assert cut.result().status in (502, 503, 504), "without heartbeats the same set-up fails, so the test tests them"
