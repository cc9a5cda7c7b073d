"""Long work survives a stock nginx in front of the engine: its 60 s time-outs see a heartbeat every 15 s."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from proxy.app import running_proxy
from tests.e2e.conftest import TEXT, TRANSCRIPTIONS, Reply, engine_settings, form, proxy_settings
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted
from tests.requirements import need_program
from tests.waiting import GIVE_UP_S, until

NEVER_S = 3_600.0

# Only what an unprivileged nginx needs to run from a directory; every time-out is nginx's default.
CONFIGURATION = """
user root; daemon off; pid {directory}/pid; error_log {directory}/error; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; {further} }} }}
}}
"""


@asynccontextmanager
async def nginx(directory: Path, upstream: str, further: str = "") -> AsyncIterator[str]:
    """A stock nginx in front of `upstream`; its URL. further: lines of its location."""
    directory.mkdir()
    # nginx takes a socket over that listens already, as it does from an older one of itself that it replaces.
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, port=port, upstream=upstream, further=further))
    process = await asyncio.create_subprocess_exec(
        shutil.which("nginx") or "/usr/sbin/nginx",
        "-p",
        directory,
        "-c",
        configuration,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env=os.environ | {"NGINX": f"{listener.fileno()};"},
    )
    listener.close()
    try:
        await _listens(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    async def answers_or_ended() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return process.returncode is not None
        writer.close()
        return True

    await until(answers_or_ended)
    assert process.returncode is None, "nginx did not start"


async def _answer(directory: Path, transcriber: FakeTranscriber, *, heartbeat_s: float) -> Reply:
    """What the app gets when the engine is behind nginx."""
    directory.mkdir()
    model = directory / "model"
    model.mkdir()
    parts = EngineParts(backend=Backend(transcriber), decoder=FakeDecoder(), heartbeat_s=heartbeat_s)
    async with (
        running_engine(engine_settings(model), parts) as engine,
        nginx(directory / "nginx", f"http://{engine.address}") as url,
        running_proxy(proxy_settings(url, idle_timeout_s=NEVER_S)) as proxy,
        aiohttp.ClientSession() as session,
    ):
        target = f"http://{proxy.addresses[0]}{TRANSCRIPTIONS}"
        async with session.post(target, data=form(language="en")) as response:
            return Reply(response.status, dict(response.headers), await response.read())


@pytest.mark.slow
async def test_work_that_outlasts_the_patience_of_stock_nginx_survives_thanks_to_heartbeats(tmp_path: Path) -> None:
    need_program("nginx")
    gate = asyncio.Event()
    lasting, endless = (FakeTranscriber(script=scripted(TEXT), gate=each) for each in (gate, asyncio.Event()))
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        kept = group.create_task(_answer(tmp_path / "with", lasting, heartbeat_s=15.0))
        await until(lambda: lasting.live)
        cut = await _answer(tmp_path / "without", endless, heartbeat_s=NEVER_S)
        gate.set()
    assert cut.status in (502, 503, 504), "without heartbeats the same set-up fails, so the test tests them"
    assert kept.result().status == 200
    assert json.loads(kept.result().body)["text"] == TEXT
