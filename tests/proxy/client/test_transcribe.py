"""The client of a person: files in, text out, and a status that a script can act on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from core.program.run import ExitCode
from proxy.app import RunningProxy
from proxy.client.transcribe import ClientError, Job, printable, show_status, transcribe_all
from tests.proxy.conftest import StartProxy, status_url_of, url_of
from tests.proxy.fake_engine import FakeEngine, Reply, Script, cut_stream, event_stream, outer
from tests.waiting import until


async def models(reply: Reply) -> web.StreamResponse:
    await reply.head()
    await reply.content(b'{"data":[{"id":"whisper-fake"}]}')
    return await reply.end()


async def text(reply: Reply) -> web.StreamResponse:
    await reply.head(200, (("content-type", "text/plain; charset=utf-8"),))
    await reply.content("schön\n".encode())
    return await reply.end()


def job(proxy: RunningProxy, *files: Path, output: Path | None = None, stream: bool = False) -> Job:
    return Job(url_of(proxy), files, None, "de", "text", stream, output, {})


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "meeting.wav"
    path.write_bytes(b"RIFF" + bytes(300_000))
    return path


@pytest.mark.parametrize("terminal", [False, True])
async def test_text_goes_to_standard_output(
    proxy: RunningProxy, engine: FakeEngine, recording: Path, terminal: bool
) -> None:
    engine.scripts.extend([Script(play=models), Script(play=text), Script(play=text)])
    out = io.StringIO()
    await transcribe_all(job(proxy, recording, recording), terminal=terminal, out=out)
    assert out.getvalue() == "schön\nschön\n"
    form = bytes(engine.received[1].content)
    assert b'name="model"\r\n\r\nwhisper-fake\r\n' in form
    assert b'name="language"\r\n\r\nde\r\n' in form
    assert b"RIFF" + bytes(300_000) in form


async def test_streamed_text_is_the_deltas_and_a_line_end(
    proxy: RunningProxy, engine: FakeEngine, recording: Path
) -> None:
    engine.scripts.extend([Script(play=models), Script(play=event_stream)])
    out = io.StringIO()
    await transcribe_all(job(proxy, recording, stream=True), terminal=True, out=out)
    assert out.getvalue() == "the quick\n"


async def test_an_incomplete_stream_is_an_error(proxy: RunningProxy, engine: FakeEngine, recording: Path) -> None:
    engine.scripts.extend([Script(play=models), Script(play=cut_stream)])
    with pytest.raises(ClientError, match="stream_truncated"):
        await transcribe_all(job(proxy, recording, stream=True), terminal=False, out=io.StringIO())


async def test_text_goes_into_files_named_after_the_recordings(
    proxy: RunningProxy, engine: FakeEngine, recording: Path, tmp_path: Path
) -> None:
    engine.scripts.extend([Script(play=models), Script(play=text)])
    await transcribe_all(job(proxy, recording, output=tmp_path), terminal=False)
    assert (tmp_path / "meeting.txt").read_text("utf-8") == "schön\n"


async def test_an_error_is_told_in_its_own_words(proxy: RunningProxy, engine: FakeEngine, recording: Path) -> None:
    engine.scripts.extend([Script(play=models), outer(500)])
    with pytest.raises(ClientError, match="upstream_protocol_error"):
        await transcribe_all(job(proxy, recording), terminal=False)


async def test_without_a_proxy_the_person_is_told(recording: Path) -> None:
    unreachable = Job("http://127.0.0.1:9", (recording,), "m", None, "text", False, None, {})
    with pytest.raises(ClientError, match="sottovoce proxy"):
        await transcribe_all(unreachable, terminal=False)


async def status_of(proxy: RunningProxy) -> tuple[ExitCode, str]:
    console = Console(file=io.StringIO(), width=200)
    code = await show_status(url_of(proxy), status_url_of(proxy), {}, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


async def test_the_status_shows_every_check_and_the_warning(proxy: RunningProxy) -> None:
    await until(lambda: proxy.trust.is_ready)
    code, shown = await status_of(proxy)
    assert code is ExitCode.ACCEPTED
    assert "INSECURE" in shown
    assert "binding" in shown
    assert "skip" in shown


async def test_the_status_of_a_refused_engine_is_ten(start_proxy: StartProxy, engine: FakeEngine) -> None:
    engine.config_changes["log_level"] = "debug"
    async with start_proxy() as proxy:
        await proxy.trust.refused.wait()
        code, shown = await status_of(proxy)
    assert code is ExitCode.REFUSED
    assert "fail" in shown


async def test_the_status_of_an_engine_out_of_reach_is_one(start_proxy: StartProxy, engine: FakeEngine) -> None:
    engine.attestation_failures.extend([503] * 1000)
    async with start_proxy() as proxy:
        await until(lambda: proxy.trust.last_attempt)
        assert (await status_of(proxy))[0] is ExitCode.INTERNAL


def test_what_a_refused_engine_says_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in printable("\x1b[31mred\r\n")
