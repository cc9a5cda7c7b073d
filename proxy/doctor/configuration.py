"""What would keep a proxy from starting, or from going on? Everything that can be told before anything is sent."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attestation import insecure
from attestation.errors import PolicyError
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.release.load import check_policy
from core.program.http.client import proxy_for
from core.program.run import ExitCode
from core.program.settings import SettingsError, flag_of, variable_of
from proxy.doctor.findings import Finding, Level, fail, ok, warn
from proxy.engines.discovery import url_of
from proxy.local.tls import ServerTls
from proxy.sender import REMOTE_INSECURE, is_remote_insecure
from proxy.settings import ProxySettings

RENEW_POLICY_WITHIN: Final = timedelta(days=14)


def settings_findings(error: SettingsError) -> Iterator[Finding]:
    """A line for each setting that cannot be used."""
    for name, fault in error.faults:
        if name == "config":
            cure = "mend the file that --config or SOTTOVOCE_CONFIG names"
        elif name:
            cure = f"give {flag_of(name)}, {variable_of(name)} or `{name}` in the file; see docs/configuration.md"
        else:
            cure = "see docs/configuration.md"
        yield fail(flag_of(name) if name else "settings", fault, cure, ExitCode.USAGE)


def start_findings(settings: ProxySettings, environ: Mapping[str, str], now: datetime) -> Iterator[Finding]:
    """What `sottovoce proxy` looks at before it serves, without remembering anything."""
    yield from _policy(settings, now)
    yield from _certificates(settings)
    yield _egress(settings, environ)
    yield _place("state directory", settings.state_directory, "--state-dir")
    yield _place("collateral cache", settings.collateral_directory, "--collateral-dir")


def start_faults(settings: ProxySettings, environ: Mapping[str, str], now: datetime) -> list[str]:
    """Of these, what keeps it from starting."""
    findings = start_findings(settings, environ, now)
    return [f"{found.subject}: {found.detail}" for found in findings if found.level is Level.FAIL]


def _policy(settings: ProxySettings, now: datetime) -> Iterator[Finding]:
    try:
        policy = check_policy(settings.policy, settings.policy_trust, now=now)
    except PolicyError as exc:
        cure = "`sottovoce-attest policy check` shows how it is read; docs/policy.md has every key"
        yield fail("policy", str(exc).removeprefix("policy: "), cure, ExitCode.USAGE)
        return
    if is_remote_insecure(settings, policy):
        yield fail("policy", REMOTE_INSECURE, "use a policy that names real machines", ExitCode.USAGE)
    elif policy.is_insecure:
        yield warn("policy", insecure.WARNING, "for anything but development use a policy that names real machines")
    elif policy.has_insecure_roots:
        yield warn("policy", INSECURE_ROOTS_WARNING, "remove [insecure_roots] for machines that a vendor vouches for")
    else:
        yield ok("policy", f"can be used; its SHA-256 is {policy.digest}")
    yield from _release(policy, now)


def _release(policy: Policy, now: datetime) -> Iterator[Finding]:
    if policy.release is None:
        return
    told = f"version {policy.release.version}, until {policy.release.expires:%Y-%m-%dT%H:%M:%SZ}"
    if policy.release.expires - now < RENEW_POLICY_WITHIN:
        yield warn("policy expiry", told, "get the next version from whoever signs it, before requests are refused")
    else:
        yield ok("policy expiry", told)


def _certificates(settings: ProxySettings) -> Iterator[Finding]:
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            ServerTls(settings.tls_cert, settings.tls_key)
        except (OSError, ValueError):
            cure = "both are PEM; the chain begins with the certificate of that key"
            yield fail("--tls-cert and --tls-key", "not a certificate and its key", cure, ExitCode.USAGE)
        else:
            yield ok("TLS for apps", "the certificate and its key fit")
    try:
        ssl.create_default_context(cafile=settings.ca_file)
    except OSError:
        yield fail("--ca-file", "not a file of PEM certificates", "name a file of PEM certificates", ExitCode.USAGE)


def _egress(settings: ProxySettings, environ: Mapping[str, str]) -> Finding:
    try:
        asked = [settings.relay] if settings.relay else map(url_of, settings.engine)
        proxies = [proxy_for(url, environ) for url in asked]
    except ValueError as exc:
        return fail("HTTP proxy", str(exc), "correct or unset that variable", ExitCode.USAGE)
    return ok(
        "HTTP proxy", "the engine is reached through the one that the environment names" if any(proxies) else "none"
    )


def _place(subject: str, path: Path, flag: str) -> Finding:
    """Whether files can be kept there. It need not exist yet: it is made when it is needed."""
    there = path
    with suppress(OSError):
        while not there.exists() and there != there.parent:
            there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ok(subject, str(path))
    cure = f"make it writable for this user, or name another with {flag}"
    return warn(subject, f"{path} cannot be written to", cure)
