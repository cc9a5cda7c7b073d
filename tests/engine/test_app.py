from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import LogCapture

from attestation.document import AttestationDocument, parse_document
from attestation.errors import ChannelError
from attestation.http import Address
from attestation.insecure import parse_report
from attestation.program import ExitCode
from attestation.statement import Statement, parse_statement, report_data
from engine import app as engine_app
from engine.api_keys import ApiKey, ApiKeys, digest
from engine.app import EngineParts, RunningEngine, running_engine, serve
from engine.authority import KeyHolders
from engine.backends.vllm import AttachedVllm
from engine.endpoints import EngineState
from engine.key_file import edit_keys
from engine.keys import CLOCK_GRACE_S
from engine.settings import MAX_REQUEST_BYTES, EngineSettings
from engine.telemetry import Telemetry
from engine.weights import weights_digest
from tests.engine.backends.fake_vllm import FakeVllm
from tests.engine.fake_application import NOW, Clock
from tests.engine.fakes import FakeDecoder, FakeTranscriber, speech
from tests.engine.sealed_client import (
    FORM,
    OpenedAnswer,
    OuterResponse,
    SealedRequest,
    ask,
    connected,
    form,
    opened,
    seal,
    until,
)

CANARY = "the canary sings at midnight"
NONCE = "5a" * 32


@dataclass
class Bench:
    """An engine with fakes, and what it is made of."""

    settings: EngineSettings
    transcriber: FakeTranscriber
    clock: Clock
    parts: EngineParts


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "model.bin").write_bytes(b"weights")
    given: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "status_listen": "127.0.0.1:0",
        "model": (f"openai/whisper={tmp_path}",),
        "alias": ("whisper-1=openai/whisper",),
        "insecure_evidence": True,
    }
    settings = EngineSettings(**given)
    transcriber, clock = FakeTranscriber(), Clock()
    return Bench(settings, transcriber, clock, EngineParts(transcriber, FakeDecoder(), clock=clock))


def changed(settings: EngineSettings, **changes: Any) -> EngineSettings:
    return EngineSettings(**(settings.model_dump() | changes))


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[RunningEngine]:
    async with running_engine(bench.settings, bench.parts) as engine:
        yield engine


async def get(address: Address, path: str) -> OuterResponse:
    async with connected(address) as connection:
        await connection.begin(path, method="GET")
        return await connection.response()


async def attested(engine: RunningEngine) -> tuple[AttestationDocument, Statement]:
    response = await get(engine.address, f"/.well-known/sottovoce-attestation?nonce={NONCE}")
    document = parse_document(response.body)
    return document, parse_statement(document.statement)


async def spoken(engine: RunningEngine, *fields: tuple[str, str]) -> SealedRequest:
    _, statement = await attested(engine)
    body = form(speech(2.0), ("model", "whisper-1"), *fields)
    return seal(statement.ohttp_keys[0], body, headers=[FORM], chunk_bytes=4096)


# --- the whole path


async def test_speech_becomes_text_under_an_attested_key(bench: Bench) -> None:
    async with running(bench) as engine:
        answer = await ask(engine.address, await spoken(engine))
    assert (answer.status, json.loads(answer.content)["text"]) == (200, "clip at 0")


async def test_a_stream_of_text_arrives_in_events(bench: Bench) -> None:
    async with running(bench) as engine:
        answer = await ask(engine.address, await spoken(engine, ("stream", "true")))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(answer.content) % 256 == 0


async def test_a_backend_that_dies_in_the_middle_of_a_stream_is_told_of(bench: Bench) -> None:
    bench.transcriber.fail_after_words = 1
    async with running(bench) as engine:
        answer = await ask(engine.address, await spoken(engine, ("stream", "true")))
    assert b"backend_unavailable" in answer.content
    assert b"[DONE]" not in answer.content


async def test_a_client_that_leaves_stops_the_backend(bench: Bench) -> None:
    bench.transcriber.gate = asyncio.Event()
    async with running(bench) as engine, connected(engine.address) as connection:
        await connection.post(await spoken(engine))
        await until(lambda: bench.transcriber.live)
        connection.abort()
        await until(lambda: bench.transcriber.cancelled and not bench.transcriber.live)
        await until(lambda: engine.application.admission.requests == 0)


async def test_no_content_is_logged_or_counted(bench: Bench, log: LogCapture) -> None:
    bench.transcriber.script = lambda clip, options: CANARY
    settings = changed(bench.settings, log_requests=True)
    async with running(replace(bench, settings=settings)) as engine:
        request = await spoken(engine, ("prompt", CANARY), (CANARY, CANARY))
        assert CANARY.encode() in (await ask(engine.address, request)).content
        await ask(engine.address, await spoken(engine, ("response_format", CANARY)))
        engine.state.telemetry.close_window()
        exposition = (await get(engine.status_address, "/metrics")).body
    assert b'status="400"' in exposition
    assert CANARY.encode() not in exposition
    assert CANARY not in repr(log.entries)


# --- keys

SECRET = "sk-sv-canary-NOTAREALKEY"
KEYED = ("authorization", f"Bearer {SECRET}")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write_keys(path, ApiKey("newsroom", digest(SECRET), requests_per_minute=3))
    return path


def write_keys(path: Path, *keys: ApiKey) -> None:
    edit_keys(path, lambda _: ApiKeys(keys=keys), create=True)


@pytest.fixture
def keyed(bench: Bench, keys_file: Path) -> Bench:
    """An engine that asks for keys, and looks at their file all the time."""
    settings = changed(bench.settings, api_keys=keys_file)
    return replace(bench, settings=settings, parts=replace(bench.parts, api_keys_timer_s=0.001))


async def listed(engine: RunningEngine, *headers: tuple[str, str]) -> OpenedAnswer:
    config = engine.ring.current(NOW).key.config
    return await ask(engine.address, seal(config, method="GET", target="/v1/models", headers=headers))


def counted(answer: OpenedAnswer) -> str | None:
    return answer.headers.get("x-ratelimit-remaining-requests")


async def test_the_statement_confesses_that_keys_are_asked_for(keyed: Bench) -> None:
    async with running(keyed) as engine:
        _, statement = await attested(engine)
    assert statement.config.api_keys_required


async def test_a_request_without_a_key_is_refused_under_seal_before_its_body_has_come(keyed: Bench) -> None:
    async with running(keyed) as engine:
        request = await spoken(engine, ("prompt", CANARY * 1000))
        async with connected(engine.address) as connection:
            await connection.begin(request.path)
            await connection.send(request.header + request.chunks[0])
            response = await connection.response()
        answer = opened(request, response)
    assert response.status == 200
    assert (answer.status, json.loads(answer.content)["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not keyed.transcriber.heard


async def test_a_key_opens_the_engine_and_its_limit_closes_it(keyed: Bench) -> None:
    async with running(keyed) as engine:
        body = form(speech(2.0), ("model", "whisper-1"))
        config = engine.ring.current(NOW).key.config
        answer = await ask(engine.address, seal(config, body, headers=[FORM, KEYED]))
        assert (answer.status, counted(answer)) == (200, "2")
        assert [counted(await listed(engine, KEYED)) for _ in range(2)] == ["1", "0"]
        refusal = await listed(engine, KEYED)
    assert (refusal.status, counted(refusal), refusal.headers["retry-after"]) == (429, "0", "20")


async def test_a_client_that_leaves_gives_its_place_back(keyed: Bench, keys_file: Path) -> None:
    write_keys(keys_file, ApiKey("newsroom", digest(SECRET), concurrent_requests=1))
    async with running(keyed) as engine:
        body = form(speech(2.0), ("model", "whisper-1"))
        request = seal(engine.ring.current(NOW).key.config, body, headers=[FORM, KEYED], chunk_bytes=64)
        async with connected(engine.address) as connection:
            await connection.begin(request.path)
            await connection.send(request.header + b"".join(request.chunks[:-1]))
            await until(lambda: engine.application.admission.requests)
            assert (await listed(engine, KEYED)).status == 429
            connection.abort()
            await until(lambda: engine.application.admission.requests == 0)
        assert (await listed(engine, KEYED)).status == 200


async def test_keys_change_while_the_engine_runs_and_counts_stay(
    keyed: Bench, keys_file: Path, log: LogCapture
) -> None:
    async with running(keyed) as engine:
        assert counted(await listed(engine, KEYED)) == "2"
        write_keys(keys_file, ApiKey("renamed", digest(SECRET), requests_per_minute=10))
        await until(lambda: names_in_force(engine) == ["renamed"])
        assert counted(await listed(engine, KEYED)) == "8"
        write_keys(keys_file)
        await until(lambda: names_in_force(engine) == [])
        assert (await listed(engine, KEYED)).status == 401
    assert [entry["keys"] for entry in log.entries if entry["event"] == "api_keys_reloaded"] == [1, 0]


def names_in_force(engine: RunningEngine) -> list[str]:
    authority = engine.application._authority
    assert isinstance(authority, KeyHolders)
    return [key.name for key in authority._keys.keys]


async def test_a_broken_file_keeps_the_old_keys_and_a_lost_one_too(
    keyed: Bench, keys_file: Path, log: LogCapture
) -> None:
    async with running(keyed) as engine:
        keys_file.write_text(f'{SECRET} = "broken"')
        await until(lambda: log.entries)
        assert (await listed(engine, KEYED)).status == 200
        keys_file.unlink()
        await until(lambda: len(log.entries) > 1)
        assert (await listed(engine, KEYED)).status == 200
    assert {entry["event"] for entry in log.entries} == {"api_keys_not_reloaded"}
    assert "canary" not in repr(log.entries)


async def test_a_key_is_nowhere_but_with_its_holder(keyed: Bench, keys_file: Path, log: LogCapture) -> None:
    settings = changed(keyed.settings, log_requests=True, log_level="debug")
    async with running(replace(keyed, settings=settings)) as engine:
        for shown in (KEYED, ("authorization", SECRET), ("authorization", f"Bearer {SECRET}x")):
            answer = await listed(engine, shown)
            assert b"canary" not in answer.content + repr(answer.headers).encode()
        document, _ = await attested(engine)
        engine.state.telemetry.close_window()
        metrics = (await get(engine.status_address, "/metrics")).body
    assert b"canary" not in metrics + document.encode() + keys_file.read_bytes()
    assert b"newsroom" not in metrics + document.encode()
    assert "canary" not in repr(log.entries)
    assert digest(SECRET) not in repr(log.entries)


# --- what the engine says of itself


async def test_evidence_binds_the_statement_to_the_nonce(bench: Bench) -> None:
    async with running(bench) as engine:
        document, _ = await attested(engine)
    assert [nonce.hex() for nonce in document.nonces] == [NONCE]
    expected = report_data(document.nonces, document.statement, document.device_evidence)
    assert parse_report(document.evidence.report) == expected


async def test_the_statement_names_key_models_limits_and_the_effective_configuration(bench: Bench) -> None:
    settings = changed(bench.settings, log_requests=True, log_level="warning", allow_unsandboxed_decoder=True)
    async with running(replace(bench, settings=settings)) as engine:
        _, statement = await attested(engine)
        assert statement.ohttp_keys == (engine.ring.current(bench.clock.now).key.config,)
    (model,) = statement.models
    ((_, path),) = settings.models
    assert (model.id, model.aliases, model.weights_sha256) == ("openai/whisper", ("whisper-1",), weights_digest(path))
    assert statement.max_request_bytes == MAX_REQUEST_BYTES
    assert statement.not_after == int(bench.clock.now) + settings.key_lifetime_s + settings.key_overlap_s
    config = statement.config
    assert (config.backend, config.log_level, config.request_log) == ("fake", "warning", True)
    assert set(config.insecure_options) == {"insecure_evidence", "allow_unsandboxed_decoder"}
    assert not config.api_keys_required
    assert not config.backend_attached


@pytest.mark.parametrize(
    "query", ["", "?nonce=", "?nonce=5A", f"?nonce={NONCE.upper()}", f"?nonce={NONCE}00", "?Nonce=1"]
)
async def test_a_nonce_of_another_shape_is_refused(bench: Bench, query: str) -> None:
    async with running(bench) as engine:
        response = await get(engine.address, f"/.well-known/sottovoce-attestation{query}")
    assert response.status == 400
    assert response.headers["server"] == "sottovoce"


async def test_every_answer_of_both_listeners_names_the_same_server(bench: Bench) -> None:
    async with running(bench) as engine:
        inside = ["/", "/.well-known/ohttp-gateway", f"/.well-known/sottovoce-attestation?nonce={NONCE}", "/metrics"]
        outside = ["/", "/livez", "/readyz", "/healthz", "/metrics"]
        answers = [await get(engine.address, path) for path in inside]
        answers += [await get(engine.status_address, path) for path in outside]
    assert {answer.headers["server"] for answer in answers} == {"sottovoce"}


async def test_the_public_listener_shows_no_health_and_the_other_one_no_keys(bench: Bench) -> None:
    async with running(bench) as engine:
        for path in ("/livez", "/readyz", "/metrics", "/v1/models", "/v1/audio/transcriptions"):
            assert (await get(engine.address, path)).status == 404
        for path in ("/.well-known/ohttp-gateway", f"/.well-known/sottovoce-attestation?nonce={NONCE}"):
            assert (await get(engine.status_address, path)).status == 404


# --- keys over time


async def test_a_new_key_brings_a_new_statement_and_the_old_one_is_served_on(bench: Bench) -> None:
    async with running(bench) as engine:
        _, before = await attested(engine)
        old = await spoken(engine)
        bench.clock.now += bench.settings.key_lifetime_s
        _, after = await attested(engine)
        assert before.ohttp_keys != after.ohttp_keys
        assert before.instance == after.instance
        assert (await ask(engine.address, old)).status == 200


async def test_idle_keys_die_by_the_timer(bench: Bench) -> None:
    parts = replace(bench.parts, key_timer_s=0.001)
    async with running(replace(bench, parts=parts)) as engine:
        first = engine.ring._epochs[0]
        bench.clock.now += bench.settings.key_lifetime_s + bench.settings.key_overlap_s + CLOCK_GRACE_S
        await until(lambda: first not in engine.ring._epochs)


async def test_windows_close_by_the_timer(bench: Bench) -> None:
    parts = replace(bench.parts, window_s=0.001)
    async with running(replace(bench, parts=parts)) as engine:
        await ask(engine.address, await spoken(engine))
        await until(
            lambda: b'requests_total{backend="fake",endpoint="transcriptions",status="200"} 1.0' in exposition(engine)
        )


def exposition(engine: RunningEngine) -> bytes:
    return engine.state.telemetry.exposition()


async def test_a_model_servers_metrics_are_published_until_it_answers_no_more(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    socket = tmp_path_factory.mktemp("vllm") / "api.sock"
    fake = FakeVllm(metrics='vllm:num_preemptions_total{model_name="canary"} 2.0\nvllm:canary 1.0\n')
    name, _ = bench.settings.models[0]
    parts = replace(bench.parts, transcriber=AttachedVllm(name, uds=socket), window_s=0.01)
    series = f'sottovoce_engine_vllm_preemptions_total{{model="{name}"}} 2.0'.encode()
    async with fake.listening(socket), running(replace(bench, parts=parts)) as engine:
        await until(lambda: series in exposition(engine))
        metrics = (await get(engine.status_address, "/metrics")).body
        assert b'sottovoce_engine_clips_total{backend="vllm"}' in metrics
        assert b"canary" not in metrics
        assert b"vllm:" not in metrics
        socket.unlink()
        await until(lambda: b"engine_vllm_" not in exposition(engine))


async def test_a_backend_without_metrics_of_its_own_adds_none(bench: Bench) -> None:
    parts = replace(bench.parts, window_s=0.001)
    async with running(replace(bench, parts=parts)) as engine:
        engine.state.telemetry.speech.clip_heard()
        await until(lambda: b'clips_total{backend="fake"} 1.0' in exposition(engine))
        assert b"vllm" not in exposition(engine)


async def test_a_timer_that_fails_once_goes_on(bench: Bench, log: LogCapture) -> None:
    parts = replace(bench.parts, key_timer_s=0.001)
    async with running(replace(bench, parts=parts)) as engine:
        calls = []

        def failing(now: float) -> None:
            calls.append(now)
            raise ValueError(CANARY)

        engine.ring.expire = failing  # type: ignore[method-assign]
        await until(lambda: len(calls) > 2)
        del engine.ring.expire
    entries = [entry for entry in log.entries if entry["event"] == "timer_failed"]
    assert entries[0]["error"] == "ValueError"
    assert CANARY not in repr(log.entries)


# --- health


def test_an_engine_is_ready_when_it_serves_its_backend_works_and_it_stays() -> None:
    state = EngineState(FakeTranscriber(), Telemetry("fake"))
    assert state.not_ready_because() == "starting"
    state.serving = True
    assert state.not_ready_because() == "the speech backend is not ready"
    state.transcriber = FakeTranscriber(ready=True)
    assert state.not_ready_because() is None
    state.draining = True
    assert state.not_ready_because() == "draining"


async def test_an_engine_is_alive_but_not_ready_while_its_backend_starts(bench: Bench) -> None:
    port = free_port()
    loading = asyncio.Event()

    class Slow(FakeTranscriber):
        async def start(self) -> None:
            await loading.wait()
            await super().start()

    bench = replace(
        bench,
        settings=changed(bench.settings, status_listen=f"127.0.0.1:{port}"),
        parts=replace(bench.parts, transcriber=Slow()),
    )
    status = Address("127.0.0.1", port)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(_run_until_ready(bench))
        while True:
            try:
                response = await get(status, "/readyz")
                break
            except ConnectionError:
                await asyncio.sleep(0)
        assert (response.status, response.body) == (503, b"starting\n")
        assert (await get(status, "/livez")).status == 200
        loading.set()
        assert await starting == (200, b"ok\n")


async def _run_until_ready(bench: Bench) -> tuple[int, bytes]:
    async with running(bench) as engine:
        response = await get(engine.status_address, "/readyz")
        return response.status, response.body


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_engine_whose_backend_is_restarted_is_not_ready_meanwhile(bench: Bench) -> None:
    async with running(bench) as engine:
        assert (await get(engine.status_address, "/readyz")).status == 200
        bench.transcriber.ready = False
        assert (await get(engine.status_address, "/readyz")).status == 503
        assert b"sottovoce_engine_backend_ready 0.0" in (await get(engine.status_address, "/metrics")).body


# --- the end


async def test_a_draining_engine_answers_what_it_has_begun(bench: Bench) -> None:
    gate = bench.transcriber.gate = asyncio.Event()
    leave, engines = asyncio.Event(), []

    async def run() -> None:
        async with running(bench) as engine:
            engines.append(engine)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(run())
        await until(lambda: engines)
        (engine,) = engines
        request = await spoken(engine)
        async with connected(engine.address) as connection:
            await connection.begin(request.path)
            await connection.send(request.wire[:10_000])
            await until(lambda: engine.application.admission.requests)
            leave.set()
            await until(lambda: engine.state.draining)
            ready = await get(engine.status_address, "/readyz")
            assert (ready.status, ready.body) == (503, b"draining\n")
            assert (await refused(engine)).status == 503
            await connection.send(request.wire[10_000:])
            await connection.end()
            await until(lambda: bench.transcriber.live)
            gate.set()
            assert opened(request, await connection.response()).status == 200


async def refused(engine: RunningEngine) -> OuterResponse:
    request = await spoken(engine)
    async with connected(engine.address) as connection:
        await connection.post(request)
        return await connection.response()


async def test_what_outlasts_the_drain_is_cut_and_never_passes_for_an_answer(bench: Bench) -> None:
    bench.transcriber.gate = asyncio.Event()
    bench.settings = changed(bench.settings, drain_s=0)
    stack = AsyncExitStack()  # so that the client outlives the engine
    async with running(bench) as engine:
        request = await spoken(engine)
        connection = await stack.enter_async_context(connected(engine.address))
        await connection.post(request)
        await until(lambda: bench.transcriber.live)
    response = await connection.response()
    assert not response.complete
    with pytest.raises(ChannelError):
        opened(request, response)
    await stack.aclose()
    assert bench.transcriber.cancelled == 1


async def test_an_error_inside_ends_the_engine_at_once_and_as_itself(bench: Bench) -> None:
    bench.transcriber.gate = asyncio.Event()

    async def fail() -> None:
        async with running(bench) as engine, connected(engine.address) as connection:
            await connection.post(await spoken(engine))
            await until(lambda: bench.transcriber.live)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert not bench.transcriber.ready


async def test_an_address_in_use_is_an_oserror_and_leaves_nothing_open(bench: Bench) -> None:
    async with running(bench) as engine:
        taken = changed(bench.settings, listen=str(engine.address))
        second = replace(bench, settings=taken, parts=replace(bench.parts, transcriber=FakeTranscriber()))
        with pytest.raises(OSError, match="address already in use"):
            async with running(second):
                pass
        assert not second.parts.transcriber.ready  # type: ignore[union-attr]


async def test_serve_ends_on_a_signal_and_says_what_it_does(
    bench: Bench, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_app, "FasterWhisperTranscriber", lambda *_, **__: FakeTranscriber())
    monkeypatch.setattr(engine_app, "AudioDecoder", _NoDecoder)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(bench.settings))
        await until(lambda: "serving" in [entry["event"] for entry in log.entries])
        await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving is ExitCode.ACCEPTED
    events = [entry["event"] for entry in log.entries]
    assert events == ["insecure_evidence", "serving", "draining"]


class _NoDecoder(FakeDecoder):
    def __init__(self, **_: Any) -> None:
        super().__init__()

    async def start(self) -> None: ...

    async def close(self) -> None: ...
