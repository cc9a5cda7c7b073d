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
from attestation.insecure import parse_report
from attestation.statement import Component, LoadedModel, Statement, parse_statement, report_data
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey
from core.errors import ChannelError
from core.program.http.listener import Address
from core.program.run import ExitCode
from engine import app as engine_app
from engine.access.api_keys import ApiKey, ApiKeys, digest
from engine.access.authority import KeyHolders
from engine.access.key_file import edit_keys
from engine.app import EngineParts, RunningEngine, running_engine, serve
from engine.backends.choose import Backend, choose_backend
from engine.backends.digest import weights_digest
from engine.backends.vllm.transcriber import AttachedVllm
from engine.backends.weights import FileWeights
from engine.gateway.endpoints import EngineState
from engine.gateway.keyring import CLOCK_GRACE_S
from engine.gateway.outer import outer_error
from engine.settings import MAX_REQUEST_BYTES, EngineSettings
from engine.telemetry import Telemetry
from tests.engine.backends.vllm.fake_vllm import FakeVllm
from tests.engine.fakes import FakeDecoder, FakeTranscriber, speech
from tests.engine.gateway.fake_application import NOW, Clock
from tests.engine.gateway.sealed_client import (
    FORM,
    OpenedAnswer,
    OuterResponse,
    SealedRequest,
    ask,
    connected,
    form,
    opened,
    seal,
)
from tests.waiting import until

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
    return Bench(settings, transcriber, clock, EngineParts(Backend(transcriber), FakeDecoder(), clock=clock))


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
    filler, _, events = answer.content.partition(b"\n")
    assert filler.startswith(b":pad 0")
    assert len(events) % 256 == 0


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
    config = engine.ring.current(NOW).keys[0].key.config
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
        config = engine.ring.current(NOW).keys[0].key.config
        answer = await ask(engine.address, seal(config, body, headers=[FORM, KEYED]))
        assert (answer.status, counted(answer)) == (200, "2")
        assert [counted(await listed(engine, KEYED)) for _ in range(2)] == ["1", "0"]
        refusal = await listed(engine, KEYED)
    assert (refusal.status, counted(refusal), refusal.headers["retry-after"]) == (429, "0", "20")


async def test_a_request_too_many_at_a_time_waits_for_its_turn(keyed: Bench, keys_file: Path) -> None:
    write_keys(keys_file, ApiKey("newsroom", digest(SECRET), concurrent_requests=1))
    keyed.transcriber.gate = asyncio.Event()
    async with running(keyed) as engine, asyncio.TaskGroup() as group:
        body = form(speech(2.0), ("model", "whisper-1"))
        config = engine.ring.current(NOW).keys[0].key.config
        requests = [seal(config, body, headers=[FORM, KEYED]) for _ in range(2)]
        first = group.create_task(ask(engine.address, requests[0]))
        await until(lambda: keyed.transcriber.live)
        second = group.create_task(ask(engine.address, requests[1]))
        await until(lambda: engine.application.admission.requests == 2)
        keyed.transcriber.gate.set()
        assert [(await first).status, (await second).status] == [200, 200]
    assert keyed.transcriber.most_live == 1


async def test_a_request_that_waited_in_vain_is_told_when_to_come_again(keyed: Bench, keys_file: Path) -> None:
    write_keys(keys_file, ApiKey("newsroom", digest(SECRET), concurrent_requests=1))
    keyed.transcriber.gate = asyncio.Event()
    impatient = replace(keyed, parts=replace(keyed.parts, place_wait_s=0.01))
    async with running(impatient) as engine, asyncio.TaskGroup() as group:
        body = form(speech(2.0), ("model", "whisper-1"))
        request = seal(engine.ring.current(NOW).keys[0].key.config, body, headers=[FORM, KEYED])
        first = group.create_task(ask(engine.address, request))
        await until(lambda: keyed.transcriber.live)
        refusal = await listed(engine, KEYED)
        assert refusal.status == 429
        assert int(refusal.headers["retry-after"]) >= 1
        keyed.transcriber.gate.set()
        assert (await first).status == 200


async def test_a_client_that_leaves_gives_its_place_back(keyed: Bench, keys_file: Path) -> None:
    keyed.parts = replace(keyed.parts, place_wait_s=0.0)
    write_keys(keys_file, ApiKey("newsroom", digest(SECRET), concurrent_requests=1))
    async with running(keyed) as engine:
        body = form(speech(2.0), ("model", "whisper-1"))
        request = seal(engine.ring.current(NOW).keys[0].key.config, body, headers=[FORM, KEYED], chunk_bytes=1024)
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
        log.entries.clear()
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
        current = engine.ring.current(bench.clock.now)
        assert statement.ohttp_keys == tuple(held.key.config for held in current.keys)
        assert [config.kem for config in statement.ohttp_keys] == list(Kem)
    (model,) = statement.models
    ((_, path),) = settings.models
    assert (model.id, model.aliases, model.weights_sha256) == ("openai/whisper", ("whisper-1",), weights_digest(path))
    assert statement.max_request_bytes == MAX_REQUEST_BYTES
    assert statement.not_after == int(bench.clock.now) + settings.key_lifetime_s + settings.key_overlap_s
    config = statement.config
    assert (config.log_level, config.request_log) == ("warning", True)
    assert config.components == (
        Component("fake", (), attached=False, plugins=(), models=(LoadedModel(model.id, model.weights_sha256),)),
    )
    assert set(config.insecure_options) == {"insecure_evidence", "allow_unsandboxed_decoder"}
    assert not config.api_keys_required


async def test_the_digest_of_a_model_is_that_of_what_is_held_of_it(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model.bin").write_bytes(b"other weights")
    ((name, path),) = bench.settings.models
    chosen = replace(choose_backend(bench.settings), weights={name: FileWeights(elsewhere)})
    monkeypatch.setattr(engine_app, "choose_backend", lambda _: chosen)
    async with running(bench) as engine:
        _, statement = await attested(engine)
    assert statement.models[0].weights_sha256 == weights_digest(elsewhere) != weights_digest(path)


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


@pytest.mark.parametrize("host", ["localhost", "10.1.2.3:8801", "[2001:db8::1]"])
async def test_probes_by_address_are_answered(bench: Bench, host: str) -> None:
    async with running(bench) as engine:
        for path in ("/livez", "/readyz", "/healthz", "/metrics"):
            async with connected(engine.status_address) as connection:
                await connection.begin(path, method="GET", headers={"Host": host})
                assert (await connection.response()).status == 200


async def test_a_name_that_somebody_points_at_the_second_listener_reads_nothing(bench: Bench) -> None:
    async with running(bench) as engine:
        for path in ("/livez", "/readyz", "/healthz", "/metrics"):
            async with connected(engine.status_address) as connection:
                await connection.begin(path, method="GET", headers={"Host": "canary.example"})
                response = await connection.response()
            assert response.status == 403
            assert b"canary" not in response.body
            assert b"sottovoce_engine" not in response.body


async def test_a_request_that_is_sealed_anew_under_its_idempotency_key_is_answered_as_before(bench: Bench) -> None:
    async with running(bench) as engine:
        config = engine.ring.current(NOW).keys[0].key.config
        key = ("idempotency-key", "of mine")
        answers = [
            await ask(engine.address, seal(config, form(speech(2.0), ("model", "whisper-1")), headers=[FORM, key]))
            for _ in range(2)
        ]
        other = seal(config, form(speech(1.0), ("model", "whisper-1")), headers=[FORM, key])
        assert (await ask(engine.address, other)).status == 422
    assert answers[0].content == answers[1].content
    assert [answer.headers.get("idempotent-replay") for answer in answers] == [None, "true"]


# --- keys over time


async def test_without_ml_kem_the_engine_serves_x25519_alone_and_says_so(bench: Bench, log: LogCapture) -> None:
    parts = replace(bench.parts, kems=(Kem.X25519_HKDF_SHA256,))
    async with running(replace(bench, parts=parts)) as engine:
        _, statement = await attested(engine)
        assert (await ask(engine.address, await spoken(engine))).status == 200
    assert [config.kem for config in statement.ohttp_keys] == [Kem.X25519_HKDF_SHA256]
    assert "no_post_quantum_keys" in [entry["event"] for entry in log.entries]


@pytest.mark.parametrize("kem", Kem)
async def test_requests_to_a_key_of_either_kem_are_answered(bench: Bench, kem: Kem) -> None:
    async with running(bench) as engine:
        _, statement = await attested(engine)
        (config,) = [config for config in statement.ohttp_keys if config.kem == kem]
        body = form(speech(2.0), ("model", "whisper-1"))
        assert (await ask(engine.address, seal(config, body, headers=[FORM]))).status == 200


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
    return engine.state.telemetry.snapshot().exposition()


async def test_a_model_servers_metrics_are_published_until_it_answers_no_more(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    socket = tmp_path_factory.mktemp("vllm") / "api.sock"
    fake = FakeVllm(metrics='vllm:num_preemptions_total{model_name="canary"} 2.0\nvllm:canary 1.0\n')
    name, _ = bench.settings.models[0]
    parts = replace(bench.parts, backend=Backend(AttachedVllm(name, uds=socket)), window_s=0.01)
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


async def test_an_engine_is_ready_when_it_serves_its_backend_works_and_it_stays(bench: Bench) -> None:
    async with running(bench) as engine:
        service = engine.state.service
    state = EngineState(Backend(FakeTranscriber()), Telemetry("fake"))
    assert state.not_ready_because() == "starting"
    state.service = service
    assert state.not_ready_because() == "the speech backend is not ready"
    state.backend = Backend(FakeTranscriber(ready=True))
    assert state.not_ready_because() is None
    state.draining = True
    assert state.not_ready_because() == "draining"


class SlowTranscriber(FakeTranscriber):
    """A backend that starts when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()

    async def start(self) -> None:
        self.starting.set()
        await self.may_start.wait()
        await super().start()


def addresses_in(log: LogCapture) -> tuple[Address, Address]:
    """Where an engine said that it listens."""
    entry = next(entry for entry in log.entries if entry["event"] == "listening")
    return Address.parse(entry["address"]), Address.parse(entry["status_address"])


async def test_an_engine_listens_at_once_and_answers_503_until_it_serves(bench: Bench, log: LogCapture) -> None:
    slow = SlowTranscriber()
    bench = replace(bench, parts=replace(bench.parts, backend=Backend(slow)))
    serving, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_run_until(bench, serving, stop))
        await slow.starting.wait()
        public, status = addresses_in(log)
        ready = await get(status, "/readyz")
        assert (ready.status, ready.body) == (503, b"starting\n")
        assert (await get(status, "/livez")).status == 200
        for path in ("/.well-known/ohttp-gateway", f"/.well-known/sottovoce-attestation?nonce={NONCE}"):
            assert await is_turned_away(await get(public, path))
        async with connected(public) as connection:
            await connection.post(seal(GatewayKey.generate(()).config))
            assert await is_turned_away(await connection.response())
        slow.may_start.set()
        await serving.wait()
        assert (await get(status, "/readyz")).status == 200
        assert (await get(public, "/.well-known/ohttp-gateway")).status == 200
        stop.set()


async def is_turned_away(response: OuterResponse) -> bool:
    return (response.status, response.body) == (503, outer_error(503).body) and response.headers["retry-after"] == "1"


async def _run_until(bench: Bench, serving: asyncio.Event, stop: asyncio.Event) -> None:
    async with running(bench):
        serving.set()
        await stop.wait()


@pytest.mark.parametrize("setting", ["listen", "status_listen"])
async def test_a_port_that_is_taken_is_told_before_anything_is_loaded(bench: Bench, setting: str) -> None:
    async with running(bench) as engine:
        address = engine.address if setting == "listen" else engine.status_address
        slow = SlowTranscriber()
        settings = changed(bench.settings, **{setting: str(address)})
        second = replace(bench, settings=settings, parts=replace(bench.parts, backend=Backend(slow)))
        with pytest.raises(OSError, match=f"address already in use: 127.0.0.1 port {address.port}"):
            async with running(second):
                pass
        assert not slow.starting.is_set()


async def test_port_0_is_whatever_port_was_free_and_told(bench: Bench, log: LogCapture) -> None:
    async with running(bench) as engine:
        assert 0 not in (engine.address.port, engine.status_address.port)
        assert addresses_in(log) == (engine.address, engine.status_address)


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


async def test_serve_ends_on_a_signal_and_says_what_it_does(
    bench: Bench, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(choose_backend(bench.settings), transcriber=FakeTranscriber(), analysers=())
    monkeypatch.setattr(engine_app, "choose_backend", lambda _: chosen)
    monkeypatch.setattr(engine_app, "AudioDecoder", _NoDecoder)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(bench.settings))
        await until(lambda: "serving" in [entry["event"] for entry in log.entries])
        await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving is ExitCode.ACCEPTED
    events = [entry["event"] for entry in log.entries]
    assert events == ["listening", "insecure_evidence", "serving", "draining"]


class _NoDecoder(FakeDecoder):
    def __init__(self, **_: Any) -> None:
        super().__init__()

    async def start(self) -> None: ...

    async def close(self) -> None: ...
