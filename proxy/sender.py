"""What does it take to send to an attested engine? Policy, sessions, trust and relay, wired; no listener.

The half of the proxy that apps do not see. The other half serves them over HTTP (`proxy.app`), or inside their own
process (`proxy.client.transport`).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import structlog

from attestation import insecure
from attestation.collateral.source import Sources
from attestation.collateral.store import Cache, CollateralStore, ask_over
from attestation.errors import PolicyError
from attestation.fetch import fetch_document
from attestation.log import LOG_FILE, IdentityLog
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from core.channel.gateway import LIVE_PERIOD_S
from core.program.files import watch
from core.program.http.client import open_session, proxy_for
from core.program.metronome import MakeMetronome, Steady
from core.program.spans import CAPACITY as SPANS_KEPT
from core.program.spans import Spans
from proxy.engines.discovery import Directory, Discovery, WayTo, is_named, url_of
from proxy.engines.gauges import gauges
from proxy.engines.lease import Way
from proxy.engines.policy_file import PolicyFile
from proxy.engines.pool import Pool
from proxy.engines.trust import Trust
from proxy.engines.verifier import Clock, EngineVerifier, utc_now
from proxy.sealed.courier import Courier
from proxy.sealed.live import LiveRelay
from proxy.sealed.receipts import Receipts
from proxy.sealed.relay import Relay
from proxy.settings import ProxySettings
from proxy.telemetry import Telemetry

_log = structlog.get_logger(__name__)

IDLE_VENDOR_S = 10.0
REMOTE_INSECURE = (
    "the policy accepts development evidence, which proves nothing, and the engine is not on this machine; "
    "--insecure-remote-engine sends to it all the same"
)


class StartError(Exception):
    """The proxy cannot start as it was told to; the message is for whoever told it."""


@dataclass(frozen=True, slots=True)
class ProxyParts:
    """What tests put in place of the real thing."""

    clock: Clock = utc_now
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep
    sources: Sources = field(default_factory=Sources)
    directory: Directory | None = None
    metronome: MakeMetronome = lambda: Steady(LIVE_PERIOD_S)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Sender:
    """What sends, and what is known of where it sends to."""

    courier: Courier
    live: LiveRelay
    engines: Pool
    telemetry: Telemetry
    policy_file: PolicyFile

    def upkeep(self, nap: Callable[[float], Awaitable[None]]) -> list[Coroutine[Any, Any, None]]:
        """What must run for ever: keys are renewed in good time, and a policy that changed is adopted."""
        return [self.engines.keep_fresh(), watch(self.policy_file.changed, self.engines.adopt, nap)]


def read_policy_file(settings: ProxySettings, clock: Clock = utc_now) -> PolicyFile:
    """The policy that the settings name. Raises StartError for one that cannot be used, or not with these settings."""
    try:
        file = PolicyFile(settings.policy, settings.policy_trust, clock)
    except PolicyError as exc:
        raise StartError(str(exc)) from exc
    if is_remote_insecure(settings, file.policy):
        raise StartError(REMOTE_INSECURE)
    return file


def is_remote_insecure(settings: ProxySettings, policy: Policy) -> bool:
    """Whether a policy that proves nothing would send to another machine, and nobody has asked for that by name."""
    return policy.is_insecure and not settings.engine_is_loopback and not settings.insecure_remote_engine


def warn_of(policy: Policy) -> None:
    """Say what a policy accepts that proves less than it seems; errors, so that whoever watches the logs finds them."""
    if policy.is_insecure:
        _log.error("insecure_policy", detail=insecure.WARNING)
    if policy.has_insecure_roots:
        _log.error("insecure_roots", detail=INSECURE_ROOTS_WARNING)


@asynccontextmanager
async def sending(settings: ProxySettings, file: PolicyFile, parts: ProxyParts) -> AsyncIterator[Sender]:
    """What can send while the context is open; whoever opens it sees to the upkeep. Raises StartError."""
    async with engine_session(settings, file.policy) as session, collateral_store(settings, parts) as store:
        yield _sender(settings, file, session, store, parts)


@asynccontextmanager
async def engine_session(settings: ProxySettings, policy: Policy) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to the engine. Raises StartError."""
    try:
        tls = ssl.create_default_context(cafile=settings.ca_file)  # the system's roots, or those of the file alone
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
async def collateral_store(settings: ProxySettings, parts: ProxyParts) -> AsyncIterator[CollateralStore]:
    """Where collateral comes from.

    The vendors' services have a session of their own: the engine's may know other roots, or this machine only.
    """
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=settings.connect_timeout_s, idle_timeout_s=IDLE_VENDOR_S
    ) as session:
        ask = None if settings.offline_collateral else ask_over(session)
        yield CollateralStore(Cache(settings.collateral_directory), ask, parts.clock, parts.sources)


def _sender(
    settings: ProxySettings,
    file: PolicyFile,
    session: aiohttp.ClientSession,
    store: CollateralStore,
    parts: ProxyParts,
) -> Sender:
    telemetry = Telemetry(Spans(SPANS_KEPT if settings.otlp_traces else 0))
    log = IdentityLog(settings.state_directory / LOG_FILE)

    def admit(way: Way, policy: Policy) -> Trust:
        fetch = partial(fetch_document, session, way.url, proxy=way.egress_proxy, host=way.host)
        verifier = EngineVerifier(way.url, fetch, store, telemetry, log=log, clock=parts.clock)
        return Trust(verifier.verify, policy, telemetry, clock=parts.clock, nap=parts.nap)

    joined = gauges(telemetry, parts.clock)
    way_to = ways(settings, parts.environ)
    engines = Pool(
        [way_to(engine, None) for engine in settings.engine if not is_named(engine)],
        file.policy,
        admit,
        finder=finder_of(settings, way_to, parts),
        joined=joined,
        nap=parts.nap,
    )
    telemetry.ready.set_function(lambda: float(engines.is_ready))
    telemetry.insecure.set_function(lambda: float(engines.policy.is_insecure or engines.policy.has_insecure_roots))
    receipts = Receipts(settings.receipts_dir) if settings.receipts_dir else None
    relay = Relay(session, engines, telemetry, idle_timeout_s=settings.idle_timeout_s, receipts=receipts)
    courier = Courier(engines, relay, telemetry, api_key=settings.api_key)
    live = LiveRelay(
        session,
        engines,
        telemetry,
        shaping=settings.live_shaping,
        metronome=parts.metronome,
        api_key=settings.api_key,
        receipts=receipts,
    )
    return Sender(courier, live, engines, telemetry, file)


def ways(settings: ProxySettings, environ: Mapping[str, str]) -> WayTo:
    """How engines are reached. Raises StartError."""

    def way_to(url: str, host: str | None) -> Way:
        if settings.relay is not None:
            split = urlsplit(url)
            return Way(f"{settings.relay}/{quote(split.netloc, safe=':')}{split.path}", egress_proxy=egress_of_relay)
        # By its name: that is what NO_PROXY lists.
        named = urlsplit(url)._replace(netloc=host).geturl() if host else url
        return Way(url, host, proxy_for(named, environ))

    try:
        egress_of_relay = proxy_for(settings.relay, environ) if settings.relay else None
        for engine in settings.engine:
            way_to(url_of(engine), None)
    except ValueError as exc:
        raise StartError(str(exc)) from exc
    return way_to


def finder_of(settings: ProxySettings, way_to: WayTo, parts: ProxyParts) -> Discovery | None:
    """Who finds the engines that stand behind names; None where there are none."""
    if not any(map(is_named, settings.engine)):
        return None
    if (directory := parts.directory) is None:
        from proxy.engines.directory import Dns  # whoever names each engine needs none of it  # noqa: PLC0415

        directory = Dns()
    return Discovery(settings.engine, directory, way_to, nap=parts.nap)


@asynccontextmanager
async def running(work: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Coroutines that run for ever, while the context is open. One that fails ends the program, not just itself."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
