"""The engine, wired: processes, keys, evidence, gateway, listeners. The only place where the parts meet."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex

import structlog
from aiohttp import web

from attestation import insecure
from attestation.collateral.source import Sources
from attestation.errors import AttestationError, EvidenceError, RefusedError
from attestation.guest.attester import Attester, EvidenceDesk, as_collected
from attestation.guest.machine import open_machine
from attestation.insecure import InsecureAttester
from attestation.policy import Policy, read_policy
from attestation.receipt import ReceiptKey
from core.channel.gateway import LIVE_PERIOD_S
from core.channel.kem import Kem, available_kems
from core.errors import CoreError
from core.media.decode import AudioDecoder
from core.program.http.connections import raise_descriptor_limit
from core.program.http.listener import Address, listening
from core.program.memory import keep_freed_memory, keep_memory_private
from core.program.metronome import MakeMetronome, Steady
from core.program.push import pushing
from core.program.run import ExitCode, until_stopped
from core.program.supervisor import READY, STOPPING, supervised
from engine.access.authority import PLACE_WAIT_S, Anyone, Authority, KeyHolders
from engine.access.client_secrets import KEY_BYTES, ClientSecrets
from engine.access.key_file import KeyFile
from engine.api import SpeechApplication
from engine.backends.choose import Backend, choose_backend
from engine.backends.readings import read_metrics
from engine.backends.weights import held
from engine.errors import EngineError
from engine.gateway.admission import Admission, UploadPace
from engine.gateway.endpoints import EngineState, Service, public_app, status_app
from engine.gateway.gateway import Gateway
from engine.gateway.keyring import KeyRing
from engine.gateway.live import LiveApplication
from engine.gateway.live_gateway import LiveGateway
from engine.gateway.outer import outer_error
from engine.gateway.runs import Runs
from engine.identity.claims import MAX_CHUNK_BYTES, claims_of
from engine.identity.endorsements import REFRESH_S, Endorsements, open_endorsements
from engine.identity.self_check import check_self
from engine.openai.models import ModelCatalogue, ServedModel
from engine.realtime.door import LiveDoor
from engine.realtime.session import Ears, Surroundings
from engine.settings import MAX_REQUEST_BYTES, EngineSettings
from engine.speech.pipeline import Decoder, SpeechPipeline
from engine.speech.whisper import read_abilities
from engine.summaries.summariser import Summariser
from engine.telemetry import WINDOW_S, Telemetry

_log = structlog.get_logger(__name__)

KEY_TIMER_S = 30.0
API_KEYS_TIMER_S = 10.0
"""How long a change to the file of API keys may go unnoticed."""
STATUS_CONNECTIONS = 64
SPARE_DESCRIPTORS = 128
"""For files, the sockets of processes beside the engine, and connections that are being refused."""
CUT_S = 0.5
"""What has not ended when the time to drain is over is cancelled, and has so long to notice."""

NO_POST_QUANTUM = "the cryptographic library has no ML-KEM, so requests are sealed with X25519 alone"

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

    backend: Backend | None = None
    decoder: Decoder | None = None
    attester: Attester | None = None
    heartbeat_s: float = 15.0
    pace: UploadPace = field(default_factory=UploadPace)
    clock: Callable[[], float] = time.time
    ears: Ears | None = None
    key_timer_s: float = KEY_TIMER_S
    api_keys_timer_s: float = API_KEYS_TIMER_S
    collateral_timer_s: float = REFRESH_S
    sources: Sources = field(default_factory=Sources)
    window_s: float = WINDOW_S
    live: LiveApplication | None = None
    metronome: MakeMetronome = lambda: Steady(LIVE_PERIOD_S)
    place_wait_s: float = PLACE_WAIT_S
    kems: Sequence[Kem] = field(default_factory=available_kems)


async def serve(settings: EngineSettings) -> ExitCode:
    """Serve until SIGTERM or SIGINT, then drain; not at all where this engine fails its own policy, or cannot start."""
    keep_memory_private()
    raise_descriptor_limit()
    keep_freed_memory()
    try:
        async with supervised(os.environ) as supervisor, running_engine(settings) as engine:
            _announce(engine)
            supervisor.tell(READY)
            await until_stopped()
            supervisor.tell(STOPPING)
            _log.info("draining", requests=engine.application.admission.requests, longest_s=settings.drain_s)
    except (AttestationError, EngineError, CoreError, OSError) as exc:
        return _refuse_to_serve(exc)
    return ExitCode.ACCEPTED


def _refuse_to_serve(reason: Exception) -> ExitCode:
    for check in reason.checks if isinstance(reason, RefusedError) else ():
        if check.failed:
            _log.error("self_check_failed", check=check.name, detail=check.detail)
    _log.error("not_serving", error=type(reason).__name__, detail=str(reason))
    return ExitCode.REFUSED if isinstance(reason, RefusedError | EvidenceError) else ExitCode.INTERNAL


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

    It listens at once, and answers 503 until it serves. Raises BackendError, KeyFileError, AttestationError, OSError.
    """
    parts = parts or EngineParts()
    chosen = choose_backend(settings)
    backend = parts.backend or chosen
    telemetry = Telemetry(backend.transcriber.component.name)
    state = EngineState(backend, telemetry)
    telemetry.gateway.insecure.set(int(settings.insecure_evidence))
    telemetry.gateway.backend_ready.set_function(lambda: float(backend.ready))
    telemetry.gateway.writer_ready.set_function(lambda: float(backend.writer is not None and backend.writer.ready))
    async with (
        _listening(status_app(state), settings.status_listen, STATUS_CONNECTIONS) as status_address,
        AsyncExitStack() as stack,
        # Left first, so that no request is under way when what serves it ends.
        _listening(public_app(state), settings.listen, _public_connections(settings, backend)) as address,
    ):
        _log.info("listening", address=str(address), status_address=str(status_address))
        policy = read_policy(settings.policy) if settings.policy else None
        await stack.enter_async_context(held(chosen.all_weights))
        catalogue = await _catalogue(settings, backend)
        attester = parts.attester or await _attester(settings)
        if Kem.MLKEM768_X25519 not in parts.kems:
            _log.warning("no_post_quantum_keys", detail=NO_POST_QUANTUM)
        instance = token_hex(8)
        receipt_key = ReceiptKey()
        ring = KeyRing(
            claims_of(
                settings,
                catalogue,
                backend,
                chosen.weights,
                policy,
                speaker_weights=chosen.speaker_weights,
                writer_weights=chosen.writer_weights,
                instance=instance,
                evidence_from=attester.source,
                receipt_key=receipt_key.public_key,
            ),
            lifetime_s=settings.key_lifetime_s,
            overlap_s=settings.key_overlap_s,
            now=parts.clock(),
            kems=parts.kems,
            live=_serves_live(settings, parts),
        )
        telemetry.gateway.key_expiry.set_function(lambda: ring.current(parts.clock()).retires_at)
        endorsements = await stack.enter_async_context(_endorsements(settings, parts, policy)) if policy else None
        # First what must be accepted, then what would hear: neither GPU nor model has work before.
        desk = await _open_desk(attester, parts, ring, endorsements)
        await stack.enter_async_context(backend.running())
        decoder = await stack.enter_async_context(_decoder(settings, parts))
        pipeline = SpeechPipeline(
            backend.transcriber,
            decoder,
            analysers=backend.analysers,
            diarizer=backend.diarizer,
            observer=telemetry.speech,
        )
        authority = await stack.enter_async_context(_authority(settings, parts))
        summariser = Summariser(backend.writer, telemetry.summaries) if backend.writer else None
        application = _application(settings, catalogue, pipeline, telemetry, authority, summariser=summariser)
        stack.push_async_callback(application.runs.end)
        ears = parts.ears or (decoder if isinstance(decoder, AudioDecoder) else None)
        if ears is not None and settings.max_live_sessions:
            around = Surroundings(ears, pipeline, catalogue, parts.clock)
            application.live = _live_door(settings, around, authority, instance)
        gateway = _gateway(settings, ring, application, telemetry, parts, receipt_key=receipt_key)
        timers: dict[Act, float] = {
            lambda: ring.expire(parts.clock()): parts.key_timer_s,
            _closing_windows(telemetry, backend, settings): parts.window_s,
        }
        if endorsements is not None:
            timers[endorsements.refresh] = parts.collateral_timer_s
        await stack.enter_async_context(_timed(timers))
        pushed = pushing(settings, "sottovoce-engine", telemetry.snapshot, environ=os.environ)
        await stack.enter_async_context(pushed)
        live = _live_gateway(settings, ring, parts.live or application, telemetry, parts, receipt_key=receipt_key)
        state.service = Service(gateway, desk, live)
        yield RunningEngine(address, status_address, state, ring, application, settings)
        state.draining = True
        await asyncio.gather(*(each.drain(settings.drain_s) for each in (gateway, live) if each is not None))


@asynccontextmanager
async def _listening(app: web.Application, address: str, max_connections: int) -> AsyncIterator[Address]:
    app.on_response_prepare.append(_name_server)
    async with listening(
        app,
        [Address.parse(address)],
        error_response=outer_error,
        shutdown_timeout_s=CUT_S,
        max_connections=max_connections,
    ) as (bound, *_):
        yield bound


def _public_connections(settings: EngineSettings, backend: Backend) -> int:
    """How many connections fit into this process's descriptors, beside all that it must still be able to open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A file that is handed to a decoder takes two sockets, the ear of a session and a clip at a model server one.
    kept = 2 * settings.max_requests + settings.max_live_sessions + backend.transcriber.capabilities.slots
    kept += STATUS_CONNECTIONS + SPARE_DESCRIPTORS
    fitting = max(descriptors - kept, descriptors // 4)
    if fitting < settings.max_connections:
        _log.warning("few_descriptors", descriptors=descriptors, connections=fitting)
    return min(settings.max_connections, fitting)


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sottovoce"  # aiohttp would tell its version, and Python's


def _closing_windows(telemetry: Telemetry, backend: Backend, settings: EngineSettings) -> Act:
    async def close_window() -> None:
        telemetry.close_window(await read_metrics(backend.transcriber, [name for name, _ in settings.models]))

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
    attester: Attester, parts: EngineParts, ring: KeyRing, endorsements: Endorsements | None
) -> EvidenceDesk:
    """Whoever attests the engine, once what it attests was accepted; only then are GPUs let to work."""
    endorse = endorsements.at_hand if endorsements else as_collected
    desk = EvidenceDesk(attester, lambda: ring.current(parts.clock()).statement, endorse=endorse)
    if endorsements is not None:
        await check_self(desk, endorsements)
        await attester.admit_devices()
    return desk


async def _attester(settings: EngineSettings) -> Attester:
    if settings.insecure_evidence:
        return InsecureAttester()
    return await open_machine(settings)


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
    holders = KeyHolders(
        file.keys,
        places=settings.max_requests_per_key,
        live_places=settings.max_live_sessions_per_key,
        clock=parts.clock,
        place_wait_s=parts.place_wait_s,
    )

    async def reload() -> None:
        if (keys := await asyncio.to_thread(file.changed)) is not None:
            holders.replace(keys)

    async with _timed({reload: parts.api_keys_timer_s}):
        yield holders


async def _catalogue(settings: EngineSettings, backend: Backend) -> ModelCatalogue:
    capable = backend.transcriber.capabilities
    abilities = {name: await asyncio.to_thread(read_abilities, path) for name, path in settings.models}
    models = tuple(
        ServedModel(
            name,
            created=int(path.stat().st_mtime),
            aliases=tuple(alias for alias, served in settings.aliases if served == name),
            openai_names=frozenset(settings.openai_names if settings.alias_openai == name else ()),
            tasks=abilities[name].tasks & capable.tasks,
            languages=abilities[name].languages & capable.languages,
            detects=capable.detects,
            details=backend.details,
            speakers=backend.diarizer.told_by if backend.diarizer else None,
            sampling=capable.sampling if settings.sampling_fields else frozenset(),
        )
        for name, path in settings.models
    )
    return ModelCatalogue(models, backend.writer.name if backend.writer else None)


def _live_door(settings: EngineSettings, around: Surroundings, authority: Authority, instance: str) -> LiveDoor:
    secrets = ClientSecrets(os.urandom(KEY_BYTES), instance, clock=around.clock, random=os.urandom)
    return LiveDoor(around, authority, secrets, Admission(max_requests=settings.max_live_sessions, max_body_bytes=0))


def _application(
    settings: EngineSettings,
    catalogue: ModelCatalogue,
    pipeline: SpeechPipeline,
    telemetry: Telemetry,
    authority: Authority,
    *,
    summariser: Summariser | None,
) -> SpeechApplication:
    admission = Admission(max_requests=settings.max_requests, max_body_bytes=settings.max_upload_bytes)
    telemetry.gateway.in_flight.set_function(lambda: float(admission.requests))
    return SpeechApplication(
        catalogue,
        pipeline,
        admission,
        telemetry.speech,
        authority=authority,
        summariser=summariser,
        max_request_bytes=MAX_REQUEST_BYTES,
        request_timeout_s=settings.request_timeout_s,
        runs=Runs(observe=telemetry.speech.keyed),
        log_requests=settings.log_requests,
    )


def _gateway(
    settings: EngineSettings,
    ring: KeyRing,
    application: SpeechApplication,
    telemetry: Telemetry,
    parts: EngineParts,
    *,
    receipt_key: ReceiptKey,
) -> Gateway:
    return Gateway(
        ring,
        application,
        telemetry.gateway,
        max_request_bytes=MAX_REQUEST_BYTES,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_arriving=settings.max_requests,
        pace=parts.pace,
        receipt_key=receipt_key,
        window_s=settings.event_window_ms / 1000,
        heartbeat_s=parts.heartbeat_s,
        clock=parts.clock,
    )


def _serves_live(settings: EngineSettings, parts: EngineParts) -> bool:
    has_ears = parts.ears is not None or parts.decoder is None  # one that was put in place hears files only
    return settings.max_live_sessions > 0 and (parts.live is not None or has_ears)


def _live_gateway(
    settings: EngineSettings,
    ring: KeyRing,
    application: LiveApplication,
    telemetry: Telemetry,
    parts: EngineParts,
    *,
    receipt_key: ReceiptKey,
) -> LiveGateway | None:
    if not _serves_live(settings, parts):
        return None
    return LiveGateway(
        ring,
        application,
        telemetry.gateway,
        telemetry.sessions,
        max_sessions=settings.max_live_sessions,
        max_arriving=settings.max_requests,
        receipt_key=receipt_key,
        metronome=parts.metronome,
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
