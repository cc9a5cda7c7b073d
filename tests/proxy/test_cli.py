"""The program as it is started: options, messages, exit codes."""

from __future__ import annotations

import asyncio
import json
import logging  # noqa: TID251 - what libraries log is looked at
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web
from typer.testing import CliRunner

from proxy.cli import app
from tests.places import ROOT
from tests.proxy.fake_engine import FakeEngine, Reply, Script
from tests.waiting import until

PROGRAM = (sys.executable, "-c", "from proxy.cli import main; main()")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The program configures logging for its whole process, which here is the tests' own."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return result.exit_code, result.output


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def options(engine: FakeEngine, policy: Path) -> list[str]:
    listen = ["--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0", "--log-format", "json"]
    return ["proxy", "--engine", engine.url, "--policy", str(policy), *listen]


def test_the_version_is_told() -> None:
    code, output = run("--version")
    assert code == 0
    assert output.strip()


@pytest.mark.parametrize("command", ["proxy", "transcribe", "status"])
def test_every_command_has_help(command: str) -> None:
    code, output = run(command, "--help")
    assert code == 0
    assert "Usage" in output


def test_a_bad_configuration_is_usage_and_told_without_values(policy: Path) -> None:
    code, output = run("proxy", "--engine", "ftp://canary", "--policy", str(policy), "--token", "canary")
    assert code == 2
    assert "--engine" in output
    assert "@FILE" in output
    assert "canary" not in output


def test_an_insecure_policy_with_a_remote_engine_is_usage(policy: Path) -> None:
    code, output = run("proxy", "--engine", "http://192.0.2.1", "--policy", str(policy))
    assert code == 2
    assert "--insecure-remote-engine" in output


def test_an_address_in_use_is_usage(policy: Path) -> None:
    arguments = ["--listen", "192.0.2.1:1", "--allow-remote-clients", "--status-listen", "127.0.0.1:0"]
    code, output = run("proxy", "--engine", "http://127.0.0.1:9", "--policy", str(policy), *arguments)
    assert code == 2
    assert "cannot listen" in output


@pytest.mark.parametrize("arguments", [["--format", "doc"], ["--stream", "--format", "srt"]])
def test_what_transcribe_cannot_do_is_usage(arguments: list[str]) -> None:
    assert run("transcribe", __file__, *arguments)[0] == 2


def test_without_a_proxy_the_status_is_one() -> None:
    code, output = run("status", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "sottovoce proxy" in output


async def test_the_program_serves_warns_and_ends_with_zero_on_sigterm(engine: FakeEngine, policy: Path) -> None:
    async with started(*options(engine, policy)) as process:
        assert process.stderr is not None
        lines = [await process.stderr.readline()]
        while b'"serving"' not in lines[-1]:
            lines.append(await process.stderr.readline())
            assert lines[-1]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert b"insecure_policy" in b"".join(lines)


async def test_a_refused_engine_is_ten_where_asked_for(engine: FakeEngine, policy: Path) -> None:
    engine.config_changes["log_level"] = "debug"
    async with started(*options(engine, policy), "--exit-if-refused") as process:
        assert await process.wait() == 10


async def test_a_proxy_that_crashes_leaves_nothing_of_a_request_behind(
    engine: FakeEngine, policy: Path, tmp_path: Path
) -> None:
    """A real SIGABRT while an upload and its API key are held; whether dumps are written here, `test_memory` shows."""
    place = tmp_path / "place"
    place.mkdir()
    command = ("sh", "-c", 'ulimit -c unlimited && exec "$@"', "sh", *PROGRAM, *options(engine, policy))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*command, cwd=place, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stderr is not None
        while b'"serving"' not in (line := await process.stderr.readline()):
            assert line
        (address,) = json.loads(line)["addresses"]
        engine.scripts.append(Script(play=_never))
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession(f"http://{address}") as app:
            asking = group.create_task(_ask(app))
            await until(lambda: engine.received and engine.received[0].complete)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            process.send_signal(signal.SIGABRT)
            assert await process.wait() == -signal.SIGABRT
            assert await asking is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert list(place.iterdir()) == []


async def _never(_: Reply) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _ask(app: aiohttp.ClientSession) -> int | None:
    headers = {"Authorization": "Bearer canary"}
    try:
        async with app.post("/v1/audio/transcriptions", data=b"canary" * 1000, headers=headers) as response:
            return response.status
    except aiohttp.ClientError:
        return None
