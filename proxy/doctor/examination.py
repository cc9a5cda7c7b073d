"""Why does it not work? Everything between a configuration and a transcript, looked at in order.

What stands behind a thing that failed is looked at as far as that makes sense: without an engine there is nothing to
attest, without a policy nobody to send to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Final

import aiohttp

from attestation.fetch import fetch_document
from attestation.policy import Policy
from attestation.release.load import check_policy
from core.errors import OversizeError
from core.program.http.client import open_session, read_bounded
from core.program.settings import SettingsError
from proxy.doctor import engine as engine_checks
from proxy.doctor.configuration import settings_findings, start_findings
from proxy.doctor.findings import Finding, Level, fail, ok, skip, warn
from proxy.doctor.speech import hear
from proxy.engines.lease import Way
from proxy.engines.pool import Pool
from proxy.engines.trust import Trust
from proxy.engines.verifier import AttestedEngine, EngineVerifier
from proxy.sealed.courier import Courier
from proxy.sealed.relay import Relay
from proxy.sender import ProxyParts, collateral_store, engine_session, finder_of, ways
from proxy.settings import ProxySettings
from proxy.telemetry import Telemetry

_NOT_LOOKED_AT: Final = "not looked at, for what it needs has failed"
_LOCAL_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 65_536


async def examine(
    settings: ProxySettings | SettingsError, *, sentence: bool = True, parts: ProxyParts | None = None
) -> AsyncIterator[Finding]:
    """Every finding, as soon as it is made. sentence: whether one is transcribed, which counts for an API key."""
    parts = parts or ProxyParts()
    if isinstance(settings, SettingsError):
        for finding in settings_findings(settings):
            yield finding
        return
    yield ok("settings", "can be used")
    may_start = True
    for finding in start_findings(settings, parts.environ, parts.clock()):
        yield finding
        may_start = may_start and finding.level is not Level.FAIL
    yield await _running_proxy(settings)
    if not may_start:
        yield skip("engine", _NOT_LOOKED_AT)
        return
    policy = check_policy(settings.policy, settings.policy_trust, now=parts.clock())
    async with engine_session(settings, policy) as session:
        found = await _found(settings, parts)
        if not found:
            yield fail("engine", "nobody stands behind its name", "correct --engine, or the name server's records")
        for way in found:
            async for finding in _engine(settings, way, policy, session, parts, sentence=sentence):
                yield replace(finding, subject=f"{finding.subject} ({way.url})") if len(found) > 1 else finding


async def _found(settings: ProxySettings, parts: ProxyParts) -> tuple[Way, ...]:
    """Where the engines are now."""
    way_to = ways(settings, parts.environ)
    finder = finder_of(settings, way_to, parts)
    return await finder.changes() if finder else tuple(way_to(engine, None) for engine in settings.engine)


async def _engine(
    settings: ProxySettings,
    way: Way,
    policy: Policy,
    session: aiohttp.ClientSession,
    parts: ProxyParts,
    *,
    sentence: bool,
) -> AsyncIterator[Finding]:
    found = await engine_checks.reach(session, way, now=parts.clock())
    for finding in found:
        yield finding
    if found[0].level is Level.FAIL:
        yield skip("attestation", _NOT_LOOKED_AT)
        return
    fetch = partial(fetch_document, session, way.url, proxy=way.egress_proxy, host=way.host)
    async with collateral_store(settings, parts) as store:
        verifier = EngineVerifier(way.url, fetch, store, Telemetry(), clock=parts.clock)
        looked = await engine_checks.attest(verifier, policy, parts.clock())
    for finding in looked.findings:
        yield finding
    if looked.attested is None:
        yield skip("test sentence", _NOT_LOOKED_AT)
    elif not sentence:
        yield skip("test sentence", "not asked for")
    else:
        yield await _sentence(settings, _verified(way, policy, looked.attested, parts), session, looked.attested)


async def _sentence(
    settings: ProxySettings, engines: Pool, session: aiohttp.ClientSession, attested: AttestedEngine
) -> Finding:
    models = attested.result.statement.models
    if not models:
        return fail("test sentence", "the engine serves no model", "have it started with --model")
    telemetry = Telemetry()
    relay = Relay(session, engines, telemetry, idle_timeout_s=settings.idle_timeout_s)
    courier = Courier(engines, relay, telemetry, api_key=settings.api_key)
    return await hear(courier, models[0].id, has_api_key=settings.api_key is not None)


def _verified(way: Way, policy: Policy, attested: AttestedEngine, parts: ProxyParts) -> Pool:
    """What was verified a moment ago; nothing is verified again."""

    async def again(_: Policy) -> AttestedEngine:
        return attested

    return Pool([way], policy, lambda _, policy: Trust(again, policy, Telemetry(), clock=parts.clock, nap=parts.nap))


async def _running_proxy(settings: ProxySettings) -> Finding:
    """How a proxy that already runs here does; it may be another one's."""
    url = f"http://{settings.status_listen}/readyz?verbose"
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=_LOCAL_S, idle_timeout_s=_LOCAL_S
    ) as local:
        try:
            async with local.get(url, allow_redirects=False) as response:
                lines = (
                    (await read_bounded(response.content, _MAX_ANSWER_BYTES)).decode("utf-8", "replace").splitlines()
                )
        except (aiohttp.ClientError, OSError, OversizeError):
            return skip("proxy", f"none runs at {settings.status_listen}", "`sottovoce proxy` starts one")
    if response.status == 200:
        return ok("proxy", f"one runs at {settings.status_listen} and is ready")
    unmet = [line.removeprefix("[-] ") for line in lines if line.startswith("[-] ")]
    told = f"not {', not '.join(unmet)}" if unmet else f"it answers {response.status}"
    return warn(
        "proxy", f"one runs at {settings.status_listen} and is not ready: {told}", "see what follows, or its log"
    )
