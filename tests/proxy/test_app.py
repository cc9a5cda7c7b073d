"""Starting, refusing to start, draining; and one phrase that must be found nowhere."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from core.program.run import ExitCode
from proxy.app import running_proxy, serve
from proxy.sealed.spool import Allowance
from proxy.sender import ProxyParts, StartError
from proxy.settings import ProxySettings
from tests.proxy.certificates import write_certificate
from tests.proxy.conftest import StartProxy, status_url_of, url_of
from tests.proxy.fake_engine import FakeEngine, Reply, Script, event_stream, outer, transcript
from tests.waiting import until

PATH = "/v1/audio/transcriptions"


def settings_for(engine_url: str, policy: Path, **changes: object) -> ProxySettings:
    given: dict[str, object] = {"listen": ("127.0.0.1:0",), "status_listen": "127.0.0.1:0"}
    return ProxySettings.model_validate({"engine": engine_url, "policy": policy} | given | changes)


async def refusal(settings: ProxySettings) -> str:
    with pytest.raises(StartError) as caught:
        async with running_proxy(settings):
            pass
    return str(caught.value)


async def test_an_insecure_policy_reaches_this_machine_only(policy: Path) -> None:
    assert "--insecure-remote-engine" in await refusal(settings_for("http://192.0.2.1:8800", policy))


async def test_a_name_that_leads_elsewhere_is_refused_at_the_socket(
    policy: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", elsewhere)
    async with running_proxy(settings_for("http://engine.localhost:1", policy)) as proxy:
        await until(lambda: proxy.trust.last_attempt)
        assert proxy.trust.last_attempt is not None
        assert proxy.trust.last_attempt.outcome == "unreachable"


async def test_an_insecure_remote_engine_is_a_choice_that_is_warned_of(
    policy: Path, engine: FakeEngine, log: LogCapture
) -> None:
    async with running_proxy(settings_for(engine.url, policy, insecure_remote_engine=True)) as proxy:
        await until(lambda: proxy.trust.is_ready)
    assert "insecure" in repr(log.entries)


@pytest.mark.parametrize("text", ["", "version = 1", "not toml ["])
async def test_without_a_usable_policy_nothing_starts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert "policy" in await refusal(settings_for("http://127.0.0.1:1", path))


async def test_bad_certificates_and_proxies_are_told_at_the_start(policy: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    settings = settings_for("https://localhost:1", policy, tls_cert=junk, tls_key=junk)
    assert "--tls-cert" in await refusal(settings)
    assert "--ca-file" in await refusal(settings_for("https://localhost:1", policy, ca_file=junk))
    parts = ProxyParts(environ={"https_proxy": "socks5://10.0.0.1"})
    remote = settings_for("https://192.0.2.1", policy, insecure_remote_engine=True)
    with pytest.raises(StartError, match="HTTPS_PROXY"):
        async with running_proxy(remote, parts):
            pass


async def test_apps_are_served_over_tls(start_proxy: StartProxy, tmp_path: Path, engine: FakeEngine) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "proxy")
    async with start_proxy(tls_cert=cert, tls_key=key) as proxy, aiohttp.ClientSession() as app:
        url = f"https://localhost:{proxy.addresses[0].port}{PATH}"
        async with app.post(url, data=b"x", ssl=ssl.create_default_context(cafile=cert)) as response:
            assert response.status == 200


async def test_while_draining_requests_in_flight_finish_and_readiness_ends_at_once(
    start_proxy: StartProxy, engine: FakeEngine
) -> None:
    working, finish = asyncio.Event(), asyncio.Event()

    async def work(reply: Reply) -> web.StreamResponse:
        working.set()
        await finish.wait()
        return await transcript(reply)

    async def leave(stopping: asyncio.Event) -> None:
        async with start_proxy() as proxy:
            urls.set_result((url_of(proxy), status_url_of(proxy)))
            await stopping.wait()

    engine.scripts.append(Script(play=work))
    urls: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        leaving = group.create_task(leave(stopping))
        url, status_url = await urls
        answer = group.create_task(_status_of(session, url + PATH))
        await working.wait()
        stopping.set()
        await until(partial(_answers, session, status_url + "/readyz", 503))
        await until(partial(_is_refused, session, url + "/attestation"))
        assert not leaving.done()
        finish.set()
        assert await answer == 200


async def _status_of(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(url, data=b"x") as response:
        await response.read()
        return response.status


async def _is_refused(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url):
            return False
    except aiohttp.ClientConnectorError:
        return True
    except aiohttp.ClientError:  # it came in the moment in which the listener closed
        return False


async def _answers(session: aiohttp.ClientSession, url: str, status: int) -> bool:
    async with session.get(url) as response:
        return response.status == status


async def test_sigterm_ends_the_program_with_zero(policy: Path, engine: FakeEngine, log: LogCapture) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(settings_for(engine.url, policy)))
        await until(lambda: "serving" in repr(log.entries))
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task is ExitCode.ACCEPTED


async def test_where_asked_for_a_refusal_ends_the_program_with_ten(policy: Path, engine: FakeEngine) -> None:
    engine.config_changes["log_level"] = "debug"
    assert await serve(settings_for(engine.url, policy, exit_if_refused=True)) is ExitCode.REFUSED


async def test_a_canary_is_found_nowhere(
    start_proxy: StartProxy, engine: FakeEngine, log: LogCapture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Content, file name, header values, path, key and transcript: not in logs, metrics, errors or files."""
    canary = "c4nary"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def said(reply: Reply) -> web.StreamResponse:
        await reply.head(200, (("content-type", f"text/{canary}"),))
        await reply.content(canary.encode() * 100)
        return await reply.end()

    async def broken(reply: Reply) -> web.StreamResponse:
        await reply.head()
        await reply.content(canary.encode())
        return await reply.cut()

    plays = [Script(play=said), Script(play=broken), outer(500, **{"X-C": canary}), Script(play=event_stream)]
    texts = []
    async with start_proxy() as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        proxy.service.sender.courier.allowance = Allowance(0)  # so that every body is kept in a file
        for script in [*plays, replace(outer(422), after_upload=True), Script(play=said)]:
            engine.scripts.append(script)
            headers = {"Authorization": f"Bearer {canary}", "X-Request-Id": canary, "X-Other": canary}
            form = aiohttp.FormData({"prompt": canary})
            form.add_field("file", canary.encode() * 10_000, filename=f"{canary}.wav")
            async with app.post(f"{PATH}?{canary}", data=form, headers=headers) as response:
                texts.append(await response.text() if response.status >= 500 else "")
        async with aiohttp.ClientSession(status_url_of(proxy)) as probe, probe.get("/metrics") as response:
            texts.append(await response.text())
    assert canary not in repr(log.entries)
    assert canary not in "".join(texts)
    assert not [path for path in _files(tmp_path) if canary.encode() in path.read_bytes()]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
