"""The proxy, wired: policy, session, trust, relay, guard, listeners. The only place where the parts meet.

Both listeners bind at once, before any engine has proved itself: an app that comes too early is told so, with the time
to come back, and a probe sees why. The second listener outlives the first, so that `/readyz` can say `draining`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from attestation import insecure
from attestation.collateral import Cache, CollateralStore, ask_over
from attestation.errors import PolicyError
from attestation.fetch import fetch_document
from attestation.http import Address, listening, open_session
from attestation.log import LOG_FILE, IdentityLog
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.program import ExitCode, until_stopped
from attestation.release import PolicyTrust, policy_trust
from attestation.sources import Sources
from attestation.state import cache_directory, state_directory
from proxy import endpoints
from proxy.egress import proxy_for
from proxy.endpoints import SERVICE, Service, constant_refusal
from proxy.guard import Rules, allowed_hosts, guard
from proxy.policy_file import PolicyFile
from proxy.relay import Relay
from proxy.settings import ProxySettings, listen_addresses
from proxy.spool import Allowance
from proxy.telemetry import Telemetry
from proxy.tls import ServerTls, client_context
from proxy.trust import Trust
from proxy.verifier import AttestedEngine, Clock, EngineVerifier, utc_now

_log = structlog.get_logger(__name__)

IDLE_VENDOR_S = 10.0

Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]


class StartError(Exception):
    """The proxy cannot start as it was told to; the message is for whoever told it."""


@dataclass(frozen=True, slots=True)
class ProxyParts:
    """What tests put in place of the real thing."""

    clock: Clock = utc_now
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep
    sources: Sources = field(default_factory=Sources)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """Handles for whoever started the proxy: the bound addresses and the parts behind them."""

    addresses: tuple[Address, ...]
    status_address: Address
    service: Service
    tls: ServerTls | None

    @property
    def trust(self) -> Trust:
        return self.service.trust


async def serve(settings: ProxySettings) -> ExitCode:
    """Serve until SIGTERM or SIGINT, then let requests in flight finish. Raises StartError, OSError."""
    async with running_proxy(settings) as proxy:
        code = await _ended(proxy, proxy.trust.refused if settings.exit_if_refused else None)
        proxy.service.draining = True
        _log.info("draining")
        _end_at_once_next_time()
    return code


def _announce(proxy: RunningProxy) -> None:
    if proxy.service.policy.is_insecure:
        # An error, so that it is red on a terminal and found by whoever watches the logs.
        _log.error("insecure_policy", detail=insecure.WARNING)
    if proxy.service.policy.has_insecure_roots:
        _log.error("insecure_roots", detail=INSECURE_ROOTS_WARNING)
    _log.info(
        "serving", addresses=[str(address) for address in proxy.addresses], status_address=str(proxy.status_address)
    )


async def _ended(proxy: RunningProxy, refused: asyncio.Event | None) -> ExitCode:
    """Wait for a signal or, where asked for, for a refusal of the engine."""
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(until_stopped())]
        # After the line above has begun to listen for signals: who reads that we serve may tell us to stop.
        asyncio.get_running_loop().call_soon(_announce, proxy)
        if refused is not None:
            waiting.append(group.create_task(_wait(refused)))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
    return ExitCode.REFUSED if refused is not None and refused.is_set() else ExitCode.ACCEPTED


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _end_at_once_next_time() -> None:
    """Draining may take as long as the longest job; who signals again does not want to wait for it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@asynccontextmanager
async def running_proxy(settings: ProxySettings, parts: ProxyParts | None = None) -> AsyncIterator[RunningProxy]:
    """A proxy that serves while the context is open. Raises StartError, OSError."""
    parts = parts or ProxyParts()
    file = _policy_file(settings, parts.clock)
    policy = file.policy
    tls = _server_tls(settings)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session(settings, policy))
        vendors = await stack.enter_async_context(_vendors(settings))
        store = _store(settings, vendors, parts)
        service = _service(settings, policy, session, store, parts)
        status_app = _status_app(service)
        status = await stack.enter_async_context(_serving(status_app, (Address.parse(settings.status_listen),)))
        addresses = await stack.enter_async_context(
            _serving(
                _app(service, _rules(settings)),
                listen_addresses(settings),
                tls=tls.context if tls else None,
                drain_s=settings.overall_timeout_s,
            )
        )
        background = [service.trust.keep_fresh(), file.watch(service.use_policy, parts.nap)]
        background += [tls.watch(parts.nap)] if tls else []
        await stack.enter_async_context(_running(background))
        yield RunningProxy(addresses, status[0], service, tls)
        service.draining = True


def _policy_file(settings: ProxySettings, clock: Clock) -> PolicyFile:
    try:
        file = PolicyFile(settings.policy, _policy_trust(settings), clock)
    except PolicyError as exc:
        raise StartError(str(exc)) from exc
    if file.policy.is_insecure and not settings.engine_is_loopback and not settings.insecure_remote_engine:
        raise StartError(
            "the policy accepts development evidence, which proves nothing, and the engine is not on this machine; "
            "--insecure-remote-engine sends to it all the same"
        )
    return file


def _policy_trust(settings: ProxySettings) -> PolicyTrust:
    return policy_trust(
        settings.policy_signer,
        min_version=settings.min_policy_version,
        state_dir=settings.state_dir or state_directory(),
        sigstore_root=settings.policy_sigstore_root,
        sigstore_identity=settings.policy_sigstore_identity,
        sigstore_issuer=settings.policy_sigstore_issuer,
    )


def _server_tls(settings: ProxySettings) -> ServerTls | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        return ServerTls(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as exc:
        raise StartError("--tls-cert and --tls-key: not a certificate and its key") from exc


@asynccontextmanager
async def _session(settings: ProxySettings, policy: Policy) -> AsyncIterator[aiohttp.ClientSession]:
    try:
        tls = client_context(settings.ca_file)
    except OSError as exc:
        raise StartError("--ca-file: not a file of PEM certificates") from exc
    async with open_session(
        tls=tls,
        loopback_only=policy.is_insecure and not settings.insecure_remote_engine,
        connect_timeout_s=settings.connect_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    ) as session:
        yield session


@asynccontextmanager
async def _vendors(settings: ProxySettings) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of its own for the vendors' services: the engine's may know other roots, or this machine only."""
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=settings.connect_timeout_s, idle_timeout_s=IDLE_VENDOR_S
    ) as session:
        yield session


def _store(settings: ProxySettings, session: aiohttp.ClientSession, parts: ProxyParts) -> CollateralStore:
    ask = None if settings.offline_collateral else ask_over(session)
    return CollateralStore(Cache(settings.collateral_dir or cache_directory()), ask, parts.clock, parts.sources)


def _service(
    settings: ProxySettings,
    policy: Policy,
    session: aiohttp.ClientSession,
    store: CollateralStore,
    parts: ProxyParts,
) -> Service:
    try:
        egress_proxy = proxy_for(settings.engine, parts.environ)
    except ValueError as exc:
        raise StartError(str(exc)) from exc
    telemetry = Telemetry()
    verifier = EngineVerifier(
        settings.engine,
        partial(fetch_document, session, settings.engine, proxy=egress_proxy),
        policy,
        store,
        telemetry,
        log=IdentityLog((settings.state_dir or state_directory()) / LOG_FILE),
        clock=parts.clock,
    )
    trust = Trust(verifier.verify, telemetry, clock=parts.clock, nap=parts.nap)
    _observe(trust, telemetry, parts.clock)
    telemetry.insecure.set_function(lambda: float(verifier.policy.is_insecure or verifier.policy.has_insecure_roots))
    return Service(
        relay=Relay(
            session,
            settings.engine,
            trust,
            telemetry,
            idle_timeout_s=settings.idle_timeout_s,
            egress_proxy=egress_proxy,
        ),
        trust=trust,
        verifier=verifier,
        telemetry=telemetry,
        allowance=Allowance(),
        idle_timeout_s=settings.idle_timeout_s,
        overall_timeout_s=settings.overall_timeout_s,
        api_key=settings.api_key,
    )


def _observe(trust: Trust, telemetry: Telemetry, clock: Clock) -> None:
    """Gauges that are read when a scrape asks."""

    def seconds(moment: Callable[[AttestedEngine], datetime | None]) -> float:
        when = moment(trust.held) if trust.held else None
        return when.timestamp() if when else 0.0

    def age_s(moment: Callable[[AttestedEngine], datetime | None]) -> float:
        began_s = seconds(moment)
        return clock().timestamp() - began_s if began_s else 0.0

    telemetry.ready.set_function(lambda: float(trust.is_ready))
    telemetry.verified_at.set_function(lambda: seconds(lambda held: held.result.verified_at))
    telemetry.expires_at.set_function(lambda: seconds(lambda held: held.result.expires_at))
    telemetry.collateral_expires_at.set_function(lambda: seconds(lambda held: held.result.collateral_expires_at))
    telemetry.age.set_function(lambda: age_s(lambda held: held.result.verified_at))
    telemetry.collateral_age.set_function(lambda: age_s(lambda held: held.collateral_at))


def _rules(settings: ProxySettings) -> Rules:
    return Rules(
        hosts=allowed_hosts((address.host for address in listen_addresses(settings)), settings.allow_host),
        origins=frozenset(settings.allow_origin),
        scheme="https" if settings.is_tls else "http",
        token=settings.token.get_secret_value() if settings.token else None,
        token_is_authorization=settings.api_key is not None,
    )


def _app(service: Service, rules: Rules) -> web.Application:
    """What apps reach."""
    return _application(
        service,
        [endpoints.answer_errors, guard(rules)],
        ("*", "/v1/{target:.*}", endpoints.relay),
        ("GET", "/attestation", endpoints.get_attestation),
        ("GET", "/attestation/bundle", endpoints.get_bundle),
    )


def _status_app(service: Service) -> web.Application:
    """What probes and scrapes reach, under any Host: they send the address of the pod."""
    return _application(
        service,
        [endpoints.answer_status_errors],
        ("GET", "/livez", endpoints.livez),
        ("GET", "/readyz", endpoints.readyz),
        ("GET", "/healthz", endpoints.readyz),
        ("GET", "/metrics", endpoints.metrics),
    )


def _application(service: Service, middlewares: list[Middleware], *routes: Route) -> web.Application:
    """Its last route catches all: aiohttp's own 404 meets expectations before any check, and quotes strange ones."""
    # client_max_size bounds what aiohttp would buffer by itself; nothing here asks it to.
    app = web.Application(middlewares=middlewares, client_max_size=1024)
    app[SERVICE] = service
    app.on_response_prepare.append(endpoints.finish_headers)
    for method, path, handler in (*routes, ("*", "/{anything:.*}", endpoints.not_found)):
        app.router.add_route(method, path, handler, expect_handler=endpoints.continue_later)
    return app


@asynccontextmanager
async def _serving(
    app: web.Application,
    addresses: tuple[Address, ...],
    *,
    tls: ssl.SSLContext | None = None,
    drain_s: float = 0.0,
) -> AsyncIterator[tuple[Address, ...]]:
    async with listening(app, addresses, error_response=constant_refusal, tls=tls, shutdown_timeout_s=drain_s) as bound:
        yield bound


@asynccontextmanager
async def _running(work: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Coroutines that run for ever, while the context is open. One that fails ends the program, not just itself."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
