"""The engine, wired: processes, keys, evidence, gateway, listeners. The only place where the parts meet."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from aiohttp import web

from attestation import insecure
from attestation.attester import Attester, EvidenceDesk, as_collected
from attestation.channel.keyconfig import KeyConfig
from attestation.errors import EvidenceError, FetchError, RefusedError
from attestation.http import Address, listening
from attestation.insecure import InsecureAttester
from attestation.machine import MachineAttester
from attestation.policy import Policy, read_policy
from attestation.program import ExitCode, until_stopped
from attestation.sources import Sources
from attestation.statement import EffectiveConfig, ModelIdentity, Statement, encode_statement
from attestation.tsm import ConfigfsTree
from attestation.types import StatementBytes
from engine.admission import Admission, UploadPace
from engine.application import SpeechApplication
from engine.authority import Anyone, Authority, KeyHolders
from engine.backends.faster_whisper import FasterWhisperTranscriber
from engine.backends.readings import read_metrics
from engine.backends.vllm import AttachedVllm, VllmTranscriber
from engine.backends.vllm_aligner import Aligner
from engine.backends.vllm_server import Serving, gpu_share
from engine.checkpoint import read_abilities
from engine.endorsements import REFRESH_S, Endorsements, open_endorsements
from engine.endpoints import EngineState, public_app, status_app
from engine.errors import EngineError
from engine.gateway import Gateway, outer_error
from engine.key_file import KeyFile
from engine.keys import KeyRing
from engine.openai.models import ModelCatalogue, ServedModel
from engine.self_check import SELF_POLICY, check_self
from engine.settings import MAX_REQUEST_BYTES, BackendKind, EngineSettings
from engine.speech.decode import AudioDecoder
from engine.speech.pipeline import Decoder, SpeechPipeline
from engine.speech.sandbox import forbid_dumps
from engine.speech.transcriber import Transcriber
from engine.telemetry import WINDOW_S, Telemetry
from engine.weights import weights_digest

_log = structlog.get_logger(__name__)

MAX_CHUNK_BYTES = 65_536
KEY_TIMER_S = 30.0
API_KEYS_TIMER_S = 10.0
"""How long a change to the file of API keys may go unnoticed."""
CUT_S = 0.5
"""What has not ended when the time to drain is over is cancelled, and has so long to notice."""

Act = Callable[[], Awaitable[None] | None]
"""What a timer does."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """Handles for whoever started the engine: the bound addresses and the parts a test wants to reach."""

    address: Address
    status_address: Address
    state: EngineState
    ring: KeyRing
    application: SpeechApplication
    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What tests and benchmarks put in place of the real thing; None means the real thing. Clock: Unix seconds."""

    transcriber: Transcriber | None = None
    decoder: Decoder | None = None
    attester: Attester | None = None
    heartbeat_s: float = 15.0
    pace: UploadPace = field(default_factory=UploadPace)
    clock: Callable[[], float] = time.time
    key_timer_s: float = KEY_TIMER_S
    api_keys_timer_s: float = API_KEYS_TIMER_S
    collateral_timer_s: float = REFRESH_S
    sources: Sources = field(default_factory=Sources)
    window_s: float = WINDOW_S


async def serve(settings: EngineSettings) -> ExitCode:
    """Serve until SIGTERM or SIGINT, then drain; not at all where this engine fails its own policy, or cannot start."""
    _keep_memory_private()
    try:
        async with running_engine(settings) as engine:
            _announce(engine)
            await until_stopped()
            _log.info("draining", requests=engine.application.admission.requests, longest_s=settings.drain_s)
    except (RefusedError, EvidenceError, FetchError, EngineError, OSError) as exc:
        return _refuse_to_serve(exc)
    return ExitCode.ACCEPTED


def _refuse_to_serve(reason: Exception) -> ExitCode:
    for check in reason.checks if isinstance(reason, RefusedError) else ():
        if check.failed:
            _log.error("self_check_failed", check=check.name, detail=check.detail)
    _log.error("not_serving", error=type(reason).__name__, detail=str(reason))
    return ExitCode.REFUSED if isinstance(reason, RefusedError | EvidenceError) else ExitCode.INTERNAL


def _keep_memory_private() -> None:
    """Keys and requests are in this process's memory: no core dump of it, and no look into it by its own user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited by every process that it starts
    with contextlib.suppress(OSError):  # a kernel without prctl
        forbid_dumps()


def _announce(engine: RunningEngine) -> None:
    if engine.settings.insecure_evidence:
        _log.warning("insecure_evidence", detail=insecure.WARNING)
    _log.info(
        "serving",
        address=str(engine.address),
        status_address=str(engine.status_address),
        models=[model.id for model in engine.application.catalogue.models],
        api_keys_required=engine.settings.api_keys is not None,
    )


@asynccontextmanager
async def running_engine(settings: EngineSettings, parts: EngineParts | None = None) -> AsyncIterator[RunningEngine]:
    """An engine that serves while the context is open, and drains when it is left without an error.

    Raises BackendError, KeyFileError, AttestationError, OSError.
    """
    parts = parts or EngineParts()
    transcriber = parts.transcriber or _transcriber(settings)
    telemetry = Telemetry(transcriber.kind)
    state = EngineState(transcriber, telemetry)
    telemetry.gateway.insecure.set(int(settings.insecure_evidence))
    telemetry.gateway.backend_ready.set_function(lambda: float(transcriber.ready))
    async with AsyncExitStack() as stack:
        status_address = await stack.enter_async_context(_listening(status_app(state), settings.status_listen))
        policy = read_policy(settings.policy) if settings.policy else None
        catalogue = await _catalogue(settings, transcriber)
        ring = KeyRing(
            await _claims(settings, catalogue, transcriber, policy),
            lifetime_s=settings.key_lifetime_s,
            overlap_s=settings.key_overlap_s,
            now=parts.clock(),
        )
        endorsements = await stack.enter_async_context(_endorsements(settings, parts, policy)) if policy else None
        # First what must be accepted, then what would hear: neither GPU nor model has work before.
        desk = await _open_desk(settings, parts, ring, endorsements)
        await stack.enter_async_context(_backend(transcriber))
        decoder = await stack.enter_async_context(_decoder(settings, parts))
        pipeline = SpeechPipeline(transcriber, decoder, slots=transcriber.slots, observer=telemetry.speech)
        authority = await stack.enter_async_context(_authority(settings, parts))
        application = _application(settings, catalogue, pipeline, telemetry, authority)
        gateway = _gateway(ring, application, telemetry, parts)
        app = public_app(gateway, desk, ring, telemetry, parts.clock)
        timers: dict[Act, float] = {
            lambda: ring.expire(parts.clock()): parts.key_timer_s,
            _closing_windows(telemetry, transcriber, settings): parts.window_s,
        }
        if endorsements is not None:
            timers[endorsements.refresh] = parts.collateral_timer_s
        await stack.enter_async_context(_timed(timers))
        address = await stack.enter_async_context(_listening(app, settings.listen))
        state.serving = True
        yield RunningEngine(address, status_address, state, ring, application, settings)
        state.draining = True
        await gateway.drain(settings.drain_s)


@asynccontextmanager
async def _listening(app: web.Application, address: str) -> AsyncIterator[Address]:
    app.on_response_prepare.append(_name_server)
    async with listening(app, [Address.parse(address)], error_response=outer_error, shutdown_timeout_s=CUT_S) as (
        bound,
        *_,
    ):
        yield bound


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sottovoce"  # aiohttp would tell its version, and Python's


def _transcriber(settings: EngineSettings) -> Transcriber:
    models = dict(settings.models)
    if settings.backend is BackendKind.FASTER_WHISPER:
        return FasterWhisperTranscriber(
            models,
            device=settings.device,
            compute_type=settings.compute_type,
            parallel_clips=settings.parallel_clips,
        )
    if settings.attaches:
        return AttachedVllm(settings.models[0][0], uds=settings.vllm_uds, url=settings.vllm_url)
    return VllmTranscriber(
        models,
        program=settings.allow_vllm_program,
        serving=_serving(settings),
        aligner=Aligner(models, program=settings.allow_vllm_program, device=settings.align_device or settings.device),
    )


def _serving(settings: EngineSettings) -> Serving:
    """vLLM's figures: those that were chosen, and for the others its defaults."""
    chosen: dict[str, Any] = {
        "max_num_seqs": settings.vllm_max_num_seqs,
        "max_num_batched_tokens": settings.vllm_max_num_batched_tokens,
        "audio_workers": settings.vllm_audio_workers,
    }
    return Serving(
        device=settings.device,
        gpu_memory_utilization=settings.vllm_gpu_memory_utilization or gpu_share(len(settings.models)),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _closing_windows(telemetry: Telemetry, transcriber: Transcriber, settings: EngineSettings) -> Act:
    async def close_window() -> None:
        telemetry.close_window(await read_metrics(transcriber, [name for name, _ in settings.models]))

    return close_window


def _endorsements(
    settings: EngineSettings, parts: EngineParts, policy: Policy
) -> AbstractAsyncContextManager[Endorsements]:
    return open_endorsements(
        policy,
        directory=settings.collateral_dir,
        offline=settings.offline_collateral,
        clock=lambda: datetime.fromtimestamp(parts.clock(), UTC),
        sources=parts.sources,
    )


async def _open_desk(
    settings: EngineSettings, parts: EngineParts, ring: KeyRing, endorsements: Endorsements | None
) -> EvidenceDesk:
    """Whoever attests the engine, once what it attests was accepted; only then are GPUs let to work."""
    attester = parts.attester or await _attester(settings)
    endorse = endorsements.at_hand if endorsements else as_collected
    desk = EvidenceDesk(attester, lambda: ring.current(parts.clock()).statement, endorse=endorse)
    if endorsements is not None:
        await check_self(desk, endorsements)
        await attester.admit_devices()
    return desk


async def _attester(settings: EngineSettings) -> Attester:
    if settings.insecure_evidence:
        return InsecureAttester()
    return await MachineAttester.open(ConfigfsTree(settings.tsm_path))


@asynccontextmanager
async def _backend(transcriber: Transcriber) -> AsyncIterator[None]:
    await transcriber.start()
    try:
        yield
    finally:
        await transcriber.close()


@asynccontextmanager
async def _decoder(settings: EngineSettings, parts: EngineParts) -> AsyncIterator[Decoder]:
    if parts.decoder is not None:
        yield parts.decoder
        return
    decoder = AudioDecoder(
        max_audio_s=settings.max_audio_seconds, allow_unsandboxed_decoder=settings.allow_unsandboxed_decoder
    )
    await decoder.start()
    try:
        yield decoder
    finally:
        await decoder.close()


@asynccontextmanager
async def _authority(settings: EngineSettings, parts: EngineParts) -> AsyncIterator[Authority]:
    """Anyone, or the holders of the keys in a file that is watched meanwhile."""
    if settings.api_keys is None:
        yield Anyone()
        return
    file = await asyncio.to_thread(KeyFile, settings.api_keys)
    holders = KeyHolders(file.keys, clock=parts.clock)

    async def reload() -> None:
        if (keys := await asyncio.to_thread(file.changed)) is not None:
            holders.replace(keys)

    async with _timed({reload: parts.api_keys_timer_s}):
        yield holders


async def _catalogue(settings: EngineSettings, transcriber: Transcriber) -> ModelCatalogue:
    abilities = {name: await asyncio.to_thread(read_abilities, path) for name, path in settings.models}
    models = tuple(
        ServedModel(
            name,
            created=int(path.stat().st_mtime),
            aliases=tuple(alias for alias, served in settings.aliases if served == name),
            tasks=abilities[name].tasks,
            languages=abilities[name].languages,
            word_timestamps=transcriber.word_timestamps,
            logprobs=transcriber.logprobs,
            sampling=transcriber.sampling if settings.sampling_fields else frozenset(),
        )
        for name, path in settings.models
    )
    return ModelCatalogue(models)


async def _claims(
    settings: EngineSettings, catalogue: ModelCatalogue, transcriber: Transcriber, policy: Policy | None
) -> Callable[[KeyConfig, int], StatementBytes]:
    digests = {name: await asyncio.to_thread(weights_digest, path) for name, path in settings.models}
    models = tuple(ModelIdentity(model.id, model.aliases, digests[model.id]) for model in catalogue.models)
    config = EffectiveConfig(
        backend=transcriber.kind,
        backend_arguments=transcriber.arguments,
        backend_attached=transcriber.attached,
        log_level=settings.log_level.value,
        plugins=transcriber.plugins,
        api_keys_required=settings.api_keys is not None,
        request_log=settings.log_requests,
        insecure_options=settings.insecure_options,
    )
    instance = secrets.token_hex(8)

    def claims(key: KeyConfig, not_after: int) -> StatementBytes:
        return encode_statement(
            Statement(
                version=1,
                instance=instance,
                ohttp_keys=(key,),
                not_after=not_after,
                max_chunk_bytes=MAX_CHUNK_BYTES,
                max_request_bytes=MAX_REQUEST_BYTES,
                models=models,
                config=config,
                tls_spki_sha256=None,
                receipt_key=None,
                extensions={SELF_POLICY: policy.digest} if policy else {},
            )
        )

    return claims


def _application(
    settings: EngineSettings,
    catalogue: ModelCatalogue,
    pipeline: SpeechPipeline,
    telemetry: Telemetry,
    authority: Authority,
) -> SpeechApplication:
    admission = Admission(max_requests=settings.max_requests, max_body_bytes=settings.max_upload_bytes)
    telemetry.gateway.in_flight.set_function(lambda: float(admission.requests))
    return SpeechApplication(
        catalogue,
        pipeline,
        admission,
        telemetry.speech,
        authority=authority,
        max_request_bytes=MAX_REQUEST_BYTES,
        request_timeout_s=settings.request_timeout_s,
        log_requests=settings.log_requests,
    )


def _gateway(ring: KeyRing, application: SpeechApplication, telemetry: Telemetry, parts: EngineParts) -> Gateway:
    return Gateway(
        ring,
        application,
        telemetry.gateway,
        max_request_bytes=MAX_REQUEST_BYTES,
        pace=parts.pace,
        heartbeat_s=parts.heartbeat_s,
        clock=parts.clock,
    )


@asynccontextmanager
async def _timed(acts: Mapping[Act, float]) -> AsyncIterator[None]:
    """Keys die, windows close and files change without anybody asking. acts: each with its period in seconds."""
    # Not a TaskGroup, which would wrap whatever ends the engine in an exception group.
    tasks = {asyncio.create_task(_every(period_s, act)) for act, period_s in acts.items()}  # noqa: TID251
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _every(period_s: float, act: Act) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            if (going := act()) is not None:
                await going
        except Exception as exc:  # noqa: BLE001 - the next time may go better, and nobody else would be told
            _log.error("timer_failed", error=type(exc).__name__)
