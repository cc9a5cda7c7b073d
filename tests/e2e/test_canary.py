"""One phrase goes through the whole system: it reaches the app, and is nowhere else.

The same scanner also looks at a plaintext exchange, where it must find the phrase: one that cannot find anything proves
nothing.
"""

from __future__ import annotations

import base64
import io
import json
import logging  # noqa: TID251 - what libraries log is looked at
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from core.program.logs import LogFormat, LogLevel, configure_logging
from proxy.telemetry import SpanName
from tests.core.program.collector import Collector, named
from tests.e2e.conftest import TRANSCRIPTIONS, Whole, form, whole_path
from tests.engine.fakes import FakeTranscriber, scripted, speech

CANARY = "xylophone zephyr 7731"
WORD = "zephyr"
FORMS = {
    "plain": WORD.encode(),
    "base64": base64.b64encode(b"xylophone zephyr 7731")[4:20],
    "hex": WORD.encode().hex().encode(),
    "utf-16": WORD.encode("utf-16-le"),
}


def found(haystack: bytes) -> list[str]:
    """In which forms the phrase is in there."""
    lower = haystack.lower()
    return [name for name, needle in FORMS.items() if needle.lower() in lower]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that either side logs, at the most talkative level there is."""
    printed = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", printed)
        configure_logging(LogFormat.JSON, LogLevel.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    yield printed
    structlog.reset_defaults()
    logging.basicConfig(force=True)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files would go."""
    path = tmp_path / "scratch"
    path.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(path))
    return path


def _on_disk(directory: Path) -> bytes:
    return b"".join(
        str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in directory.rglob("*")
    )


async def _metrics(whole: Whole) -> bytes:
    whole.engine.state.telemetry.close_window()
    texts = []
    for address in (whole.engine.status_address, whole.proxy.status_address):
        async with whole.session.get(f"http://{address}/metrics") as response:
            texts.append(await response.read())
    return b"".join(texts)


async def _send(whole: Whole, url: str, **fields: str) -> bytes:
    headers = {"Authorization": f"Bearer {WORD}-key", "X-Request-ID": f"{WORD} not an id", "X-Other": WORD}
    data = form(speech(2.0) + WORD.encode(), file_name=f"{WORD}.wav", **{"prompt": CANARY, "language": "en"} | fields)
    async with whole.session.post(url + TRANSCRIPTIONS, data=data, headers=headers) as response:
        return await response.read()


async def test_the_phrase_reaches_the_app_and_nothing_else(logs: io.StringIO, scratch: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    async with whole_path(model, FakeTranscriber(script=scripted(CANARY))) as whole:
        for fields in ({}, {"stream": "true"}, {"response_format": "text"}, {"language": WORD}, {WORD: WORD}):
            answer = await _send(whole, whole.url, **fields)
            assert (WORD.encode() in answer) == ("language" not in fields)
        async with whole.session.get(f"{whole.url}/v1/models/{WORD}?{WORD}={WORD}") as response:
            assert response.status == 404
        metrics = await _metrics(whole)
        wire = bytes(whole.middle.wire)
        async with whole.session.get(f"{whole.url}/attestation") as response:
            status = await response.read()
    printed = logs.getvalue()
    assert "attestation_accepted" in printed, "the log must be there to be searched"
    assert b"sottovoce_engine_requests_total" in metrics
    assert len(wire) > 5 * 16_384
    places = {
        "wire": wire, "metrics": metrics, "status": status, "logs": printed.encode(),
        "disk": _on_disk(scratch),
    }  # fmt: skip
    assert {name: found(content) for name, content in places.items() if found(content)} == {}


async def test_the_scanner_finds_the_phrase_in_a_plaintext_run(scratch: Path) -> None:
    seen = bytearray()

    async def handle(request: web.Request) -> web.Response:
        seen.extend(str(request.headers).encode() + await request.read())
        (scratch / "upload").write_bytes(bytes(seen))
        return web.json_response({"text": CANARY})

    app = web.Application()
    app.router.add_post(TRANSCRIPTIONS, handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}{TRANSCRIPTIONS}"
            async with session.post(url, data=form(prompt=CANARY), headers={"X-Other": WORD}) as response:
                answer = await response.read()
    finally:
        await runner.cleanup()
    assert found(bytes(seen)) == ["plain"]
    assert found(_on_disk(scratch)) == ["plain"]
    assert found(answer) == ["plain"]
    for name, encoded in {"base64": base64.b64encode(CANARY.encode()), "hex": CANARY.encode().hex().encode()}.items():
        assert name in found(encoded)


async def test_what_a_collector_is_told_names_no_request(logs: io.StringIO, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    async with Collector().running() as of_engine, Collector().running() as of_proxy:
        pushed = {"otlp_endpoint": of_engine.url}
        options: dict[str, Any] = {"otlp_endpoint": of_proxy.url, "otlp_traces": True}
        transcriber = FakeTranscriber(script=scripted(CANARY))
        async with whole_path(model, transcriber, of_engine=pushed, **options) as whole:
            for fields in ({}, {"stream": "true"}, {"language": WORD}):
                await _send(whole, whole.url, **fields)
            async with whole.session.get(
                f"{whole.url}/v1/models/{WORD}", headers={"x-request-id": "r-4711"}
            ) as response:
                assert response.status == 404
            whole.engine.state.telemetry.close_window()
    assert "sottovoce_engine_clips_total" in of_engine.latest
    assert "sottovoce_proxy_requests_total" in of_proxy.latest
    assert of_engine.traces == []
    names = {span.name for span in of_proxy.spans}
    assert names == set(SpanName)
    words = {name: value for span in of_proxy.spans for name, value in named(list(span.attributes)).items()}
    assert words.keys() == {
        "http.response.status_code", "sottovoce.engine", "sottovoce.outcome", "sottovoce.reason",
    }  # fmt: skip
    told = b"".join((*of_engine.bodies, *of_proxy.bodies))
    assert found(told) == []
    assert b"r-4711" not in told
    elsewhere = logs.getvalue().encode() + bytes(whole.middle.wire)
    ids = {each for span in of_proxy.spans for each in (span.trace_id, span.span_id)}
    assert not any(each in elsewhere or each.hex().encode() in elsewhere for each in ids)


async def test_an_error_of_the_engine_does_not_carry_the_phrase(logs: io.StringIO, tmp_path: Path) -> None:
    class Broken(FakeTranscriber):
        def _fail_if_due(self) -> None:
            raise ValueError(CANARY)

    async with whole_path(tmp_path, Broken()) as whole:
        for fields in ({}, {"stream": "true"}):
            answer = await _send(whole, whole.url, **fields)
            assert json.loads(answer)["error"]["code"] == "internal_error"
            assert found(answer) == []
    printed = logs.getvalue()
    assert "unforeseen_error" in printed
    assert found(printed.encode()) == []
