"""What people could use instead: the application behind nothing, nginx, the LiteLLM proxy, or our proxy and gateway.

Each side has an application of its own, so that what is counted as its is its. nginx is Debian's, with one worker and
set up to pass on what comes as it comes; LiteLLM's proxy is one process too, in an environment of its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.overhead import server
from benchmarks.processes import START_TIMEOUT_S
from benchmarks.processes import proxy as proxy_before

DIRECT, NGINX, LITELLM, SEALED = "direct", "nginx", "litellm", "sealed"
LITELLM_PROGRAM: Final = Path(sys.prefix) / "litellm-proxy" / "bin" / "litellm"
NGINX_PROGRAM: Final = shutil.which("nginx") or "/usr/sbin/nginx"

NGINX_CONFIGURATION: Final = """
{user} daemon off; pid {directory}/pid; error_log {directory}/error; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_max_body_size 0; keepalive_requests 1000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream application {{ server {upstream}; keepalive 128; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""
LITELLM_CONFIGURATION: Final = """
model_list:
  - model_name: "null"
    litellm_params: {{ model: openai/null, api_base: "{upstream}/v1", api_key: none }}
    model_info: {{ mode: audio_transcription }}
litellm_settings: {{ request_timeout: 600, num_retries: 0 }}
general_settings: {{ disable_spend_logs: true, dangerously_permit_weak_or_unset_master_key: true }}
"""
OFFLINE: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "NO_PROXY": "*",
}


@dataclass(frozen=True, slots=True)
class Side:
    """Where a side listens, and the processes that were started for it."""

    name: str
    url: str
    pids: tuple[int, ...]


@asynccontextmanager
async def direct() -> AsyncIterator[Side]:
    async with server("direct") as application:
        yield Side(DIRECT, application.url, (application.process.pid,))


@asynccontextmanager
async def sealed() -> AsyncIterator[Side]:
    async with server("engine") as engine, proxy_before(engine.url) as proxy:
        yield Side(SEALED, proxy.url, (engine.process.pid, proxy.process.pid))


@asynccontextmanager
async def nginx() -> AsyncIterator[Side]:
    # As root it would become somebody else, who may not read what is in the directory.
    user = "user root;" if os.geteuid() == 0 else ""
    async with server("direct") as application, _listener() as (port, directory):
        upstream = application.url.removeprefix("http://")
        text = NGINX_CONFIGURATION.format(user=user, directory=directory, port=port, upstream=upstream)
        async with _program(port, NGINX_PROGRAM, "-p", directory, "-c", _written(directory, text)) as pid:
            yield Side(NGINX, f"http://127.0.0.1:{port}", (application.process.pid, pid))


@asynccontextmanager
async def litellm() -> AsyncIterator[Side]:
    async with server("direct") as application, _listener() as (port, directory):
        configuration = _written(directory, LITELLM_CONFIGURATION.format(upstream=application.url))
        options = ("--host", "127.0.0.1", "--port", str(port), "--config", configuration, "--num_workers", "1")
        async with _program(port, str(LITELLM_PROGRAM), *options, path="/health/liveliness") as pid:
            yield Side(LITELLM, f"http://127.0.0.1:{port}", (application.process.pid, pid))


SIDES: Final[dict[str, Callable[[], AbstractAsyncContextManager[Side]]]] = {
    DIRECT: direct,
    NGINX: nginx,
    LITELLM: litellm,
    SEALED: sealed,
}


def missing(name: str) -> str:
    """What a side lacks to be measured here; nothing where it lacks nothing."""
    if name == NGINX and not Path(NGINX_PROGRAM).exists():
        return "Debian's package nginx-light"
    if name == LITELLM and not LITELLM_PROGRAM.exists():
        return "`make litellm-proxy`"
    return ""


def _written(directory: str, configuration: str) -> str:
    path = Path(directory, "configuration.yaml")
    path.write_text(configuration)
    return str(path)


@asynccontextmanager
async def _listener() -> AsyncIterator[tuple[int, str]]:
    """A port that was free, and a directory."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        yield port, directory


@asynccontextmanager
async def _program(port: int, *command: str, path: str = "/") -> AsyncIterator[int]:
    """A program that serves at a port; its process."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet, env=os.environ | OFFLINE)
    try:
        await _until_answered(process, f"http://127.0.0.1:{port}{path}", command[0])
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_answered(process: asyncio.subprocess.Process, url: str, name: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise SystemExit(f"{name} ended with {process.returncode} before it answered")
