"""Is the engine there, is our clock right, and is it what the policy asks for? Each check, with what to do about it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from attestation.errors import EvidenceError, FetchError, RefusedError
from attestation.policy import Policy
from attestation.types import Check, CheckStatus
from core.channel.gateway import WELL_KNOWN_GATEWAY_PATH
from core.channel.keyconfig import KEYS_MEDIA_TYPE
from core.program.http.client import NotLoopbackError
from core.program.run import ExitCode
from proxy.doctor.findings import Finding, fail, ok, skip, warn
from proxy.engines.lease import Way
from proxy.engines.verifier import AttestedEngine, EngineVerifier

CLOCK_TOLERANCE: Final = timedelta(seconds=60)
COLLATERAL_WARNING: Final = timedelta(days=1)

_UNREACHABLE: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "its name leads nowhere", "correct --engine, or this machine's name resolution"),
    (
        aiohttp.ClientConnectorCertificateError,
        "its TLS certificate is not one that is trusted here",
        "name the roots that signed it with --ca-file; look at the clock and at what stands between",
    ),
    (ssl.SSLError, "what answers speaks no TLS", "is it http:// in --engine, or another port?"),
    (
        aiohttp.ClientProxyConnectionError,
        "the HTTP proxy that the environment names cannot be reached",
        "correct HTTP_PROXY or HTTPS_PROXY, or exempt the engine in NO_PROXY",
    ),
    (
        aiohttp.ClientHttpProxyError,
        "the HTTP proxy refuses to pass on",
        "have the engine allowed there, or use NO_PROXY",
    ),
    (
        aiohttp.ConnectionTimeoutError,
        "no answer to a connection",
        "a firewall drops what is sent to this port, or the machine is off",
    ),
    (TimeoutError, "it accepts connections and says nothing", "what listens there may be no engine; look at its log"),
    (
        NotLoopbackError,
        "it is not this machine, and the policy proves nothing",
        "use a policy that names real machines; for development --insecure-remote-engine",
    ),
    (ConnectionRefusedError, "nothing listens there", "start the engine, or correct the port in --engine"),
    (OSError, "the way to it fails", "look at this machine's network"),
    (aiohttp.ClientError, "what answers speaks no HTTP, or ends the connection", "correct --engine"),
)
"""What can be in the way, the first that fits; OSErrors stand inside aiohttp's."""

_CURES: Final = {
    "nonce": "somebody answers with an old attestation: look at what stands between, such as a cache",
    "evidence kind": "the policy names no such machine: compare with `sottovoce-attest show`",
    "binding": "somebody between answers in the engine's name, or its machine is not of that kind",
    "lifetime": "set the clock of this machine; else restart the engine, whose keys have not been renewed",
    "keys": "the engine is of another version: update the older of the two",
    "post-quantum": "update the engine, or drop --require-pq and statement.require_pq",
    "log level": "have the engine run with --log-level info, or allow it in [statement]",
    "request log": "have the engine run without --log-requests, or set statement.allow_request_log",
    "components": "have the engine start its own model server, or name the component in statement.allow_attached",
    "arguments": "compare statement.arguments with what `sottovoce-attest show` prints",
    "plugins": "name the plugin in statement.allow_plugins, if you know what it is",
    "options": "have the engine run without them, or name them in statement.allow_options",
    "api keys": "have the engine run with --api-keys, or drop statement.require_api_keys",
    "models": "compare [[models]] with what `sottovoce-attest show` prints; a new model needs a new policy",
    "document": "what answers is no engine, or one of another version",
    "devices": "compare [gpu] with what `sottovoce-attest show` prints",
    "snp measurement": "another image or number of vCPUs runs: name its digest too, if it is a release that you trust",
    "snp tcb": "the machine's firmware is older than the policy accepts: have it updated",
    "snp certificates": "let this machine ask AMD (kdsintf.amd.com), or have the engine send its certificates",
    "tdx authenticity": "let this machine ask Intel (api.trustedservices.intel.com), or have the engine send it",
}
"""What to do when a check fails, by its name."""

_CURES_OF_KINDS: Final = {
    "snp": "compare [snp] with what `sottovoce-attest show` prints; docs/policy.md has every key",
    "tdx": "compare [tdx] with what `sottovoce-attest show` prints; docs/policy.md has every key",
    "gpu": "compare [gpu] with what `sottovoce-attest show` prints, and let this machine ask NVIDIA",
    "switch": "compare [gpu.switches] with what `sottovoce-attest show` prints, and let this machine ask NVIDIA",
    "nras": "let this machine ask NVIDIA (nras.attestation.nvidia.com), or drop [gpu.nras]",
}
_CURE: Final = "compare the policy with what `sottovoce-attest show` prints of the engine"


@dataclass(slots=True)
class Looked:
    """What was found out about an engine. attested: what it proved, if the policy accepts it."""

    findings: list[Finding] = field(default_factory=list)
    attested: AttestedEngine | None = None


ANSWER_S: Final = 30.0
"""For the whole of an answer: whoever sends it byte by byte is no engine."""


async def reach(session: aiohttp.ClientSession, way: Way, *, now: datetime) -> tuple[Finding, ...]:
    """Whether an engine answers, and whether the clocks of both sides agree."""
    try:
        async with (
            asyncio.timeout(ANSWER_S),
            session.get(way.url + WELL_KNOWN_GATEWAY_PATH, allow_redirects=False, **way.asking({})) as response,
        ):
            status, headers = response.status, response.headers
    except (aiohttp.ClientError, OSError) as exc:
        return (_unreachable(exc),)
    return (_answered(status, headers.get("Content-Type", "")), _clock(headers.get("Date"), now))


def _unreachable(exc: BaseException) -> Finding:
    inner = getattr(exc, "os_error", None)
    causes = [cause for cause in (exc, inner) if cause is not None]
    detail, cure = next(
        (detail, cure) for kind, detail, cure in _UNREACHABLE if any(isinstance(cause, kind) for cause in causes)
    )
    return fail("engine", f"it cannot be reached: {detail}", cure)


def _answered(status: int, media_type: str) -> Finding:
    if status == 200 and media_type == KEYS_MEDIA_TYPE:
        return ok("engine", "it answers")
    if status == 503:
        return fail("engine", "it starts, ends, or is overloaded", "wait; its /readyz and its log tell which")
    return fail("engine", f"what answers (with {status}) is no engine", "correct --engine, or what forwards to it")


def _clock(date: str | None, now: datetime) -> Finding:
    """By the other side's clock, which nobody vouches for: it shows a mistake, and proves nothing."""
    try:
        there = parsedate_to_datetime(date or "").astimezone(UTC)
    except (ValueError, OverflowError):  # a year that is not counted
        return skip("clock", "the engine's side does not tell its time")
    ahead_s = (now - there).total_seconds()
    if abs(ahead_s) > CLOCK_TOLERANCE.total_seconds():
        way = "ahead of" if ahead_s > 0 else "behind"
        cure = "set the clock of whichever is wrong (`timedatectl`); certificates and keys are judged by this one's"
        return fail("clock", f"this machine's is {abs(ahead_s):.0f} s {way} the engine's", cure)
    return ok("clock", f"within {CLOCK_TOLERANCE.total_seconds():.0f} s of the engine's")


async def attest(verifier: EngineVerifier, policy: Policy, now: datetime) -> Looked:
    """Have the engine attest itself, and judge it by `policy`."""
    try:
        attested = await verifier.verify(policy)
    except RefusedError as exc:
        return Looked([_check(check) for check in exc.checks])
    except FetchError as exc:
        return Looked([fail("attestation", str(exc), "look at the engine's log, and at what stands between")])
    except EvidenceError as exc:
        return Looked([fail("attestation", str(exc), _CURES["document"], ExitCode.REFUSED)])
    findings = [_check(check) for check in attested.result.checks]
    return Looked([*findings, *_collateral(attested, now)], attested)


def _check(check: Check) -> Finding:
    if check.status is CheckStatus.PASS:
        return ok(check.name, check.detail)
    if check.status is CheckStatus.SKIP:
        return skip(check.name, check.detail)
    return fail(check.name, check.detail, cure_of(check.name), ExitCode.REFUSED)


def cure_of(check: str) -> str:
    """What to do when a check of this name fails."""
    return _CURES.get(check) or _CURES_OF_KINDS.get(check.partition(" ")[0]) or _CURE


def _collateral(attested: AttestedEngine, now: datetime) -> Iterator[Finding]:
    expires, had = attested.result.collateral_expires_at, attested.collateral_at
    if expires is None or had is None:
        yield skip("collateral", "none is needed")
        return
    told = f"the oldest piece is {_days(now - had)} old; the first expires in {_days(expires - now)}"
    if expires - now < COLLATERAL_WARNING:
        yield warn("collateral", told, "let this machine or the engine ask the vendors (no --offline-collateral)")
    else:
        yield ok("collateral", told)


def _days(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
