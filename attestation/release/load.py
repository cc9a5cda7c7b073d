"""Is this policy its signer's, and not an older one than was accepted here before?

Without a pinned signer a policy is believed because of where it lies. With one it must, in this order:

1. bear a signature of a pinned key over its exact bytes (`attestation.release.signature`), and, where a Sigstore
   identity is pinned, a bundle of that identity (`attestation.release.provenance`)
2. have a table `release`: which version it is, and until when
3. not be expired, nor have a version below the least one asked for
4. accept no development evidence and no roots but the vendors': whoever signs speaks for other people's machines
5. not be older than what was accepted before (`attestation.release.rollback`)

Nothing of a file is read before its signature holds. An expiry binds an unsigned policy too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from attestation.errors import PolicyError
from attestation.policy import Policy, Release, parse_policy, read_policy_file
from attestation.release.rollback import Mark, accept_newer, refuse_older
from attestation.release.signature import MAX_SIGNATURE_FILE_BYTES, signature_path, verify_signature
from attestation.release.trust import MAX_SIGSTORE_BUNDLE_BYTES, PolicyTrust, SigstoreTrust
from core.errors import StateError


def load_policy(path: Path, trust: PolicyTrust, *, now: datetime) -> Policy:
    """Read a policy to be used, and remember its version. Raises PolicyError.

    It reads and writes files, and waits for a lock: an event loop calls it in a thread.
    """
    policy, offered, vouching = _judged(path, trust, now)
    if offered is not None:
        _remembered(trust, lambda place: accept_newer(place, offered, by=vouching, pinned=trust.pinned))
    return policy


def check_policy(path: Path, trust: PolicyTrust, *, now: datetime) -> Policy:
    """Read a policy as `load_policy` would, and remember nothing. Raises PolicyError."""
    return _judged(path, trust, now)[0]


def refuse_unreleasable(policy: Policy, *, now: datetime) -> None:
    """Refuse to sign what nobody who pins a signer would accept. Raises PolicyError naming every reason."""
    _refuse(_faults(policy, 1, now))


def _judged(path: Path, trust: PolicyTrust, now: datetime) -> tuple[Policy, Mark | None, frozenset[str]]:
    """A policy that may be used now; with a pinned signer its version, and the key ids of those who vouch for it."""
    data = read_policy_file(path)
    vouching = frozenset(_vouching(path, data, trust))
    policy = parse_policy(data)
    if trust.require_pq:
        policy = replace(policy, statement=replace(policy.statement, require_pq=True))
    if not trust.pins_signer:
        _refuse(_expiry(policy.release, now))
        return policy, None, vouching
    _refuse(_faults(policy, trust.min_version or 1, now))
    offered = Mark.of(policy)
    _remembered(trust, lambda place: refuse_older(place, offered, pinned=trust.pinned))
    return policy, offered, vouching


def _refuse(faults: Iterator[str]) -> None:
    if told := "; ".join(faults):
        raise PolicyError(f"policy: {told}")


def _vouching(path: Path, data: bytes, trust: PolicyTrust) -> Iterator[str]:
    if trust.signers:
        signature = read_policy_file(signature_path(path), max_bytes=MAX_SIGNATURE_FILE_BYTES)
        yield verify_signature(data, signature, trust.signers).key_id
    if trust.sigstore is not None:
        bundle = read_policy_file(path.with_name(path.name + ".sigstore.json"), max_bytes=MAX_SIGSTORE_BUNDLE_BYTES)
        _verify_provenance(data, bundle, trust.sigstore)
        yield trust.sigstore.key_id


def _verify_provenance(policy: bytes, bundle: bytes, trust: SigstoreTrust) -> None:
    try:
        from attestation.release.provenance import verify_provenance  # an extra, which the proxy does not load  # noqa: PLC0415
    except ImportError as exc:
        raise PolicyError(
            "policy: Sigstore bundles need the extra `sigstore`: pip install 'sottovoce[sigstore]'"
        ) from exc
    verify_provenance(policy, bundle, trust)


def _faults(policy: Policy, min_version: int, now: datetime) -> Iterator[str]:
    """What speaks against a signed policy."""
    if policy.release is None:
        yield "it is signed and has no table `release`"
    elif policy.release.version < min_version:
        yield f"version {policy.release.version}; at least {min_version} is asked for"
    yield from _expiry(policy.release, now)
    if policy.is_insecure:
        yield "it is signed and accepts development evidence"
    if policy.has_insecure_roots:
        yield "it is signed and names insecure roots"


def _expiry(release: Release | None, now: datetime) -> Iterator[str]:
    if release is not None and now >= release.expires:
        yield f"it expired at {release.expires:%Y-%m-%dT%H:%M:%SZ}"


def _remembered(trust: PolicyTrust, act: Callable[[Path], None]) -> None:
    """Go by what was accepted before, which may be unknown where a least version takes its place."""
    try:
        if trust.state_dir is None:
            raise StateError("there is no directory for it")  # noqa: TRY301 - told as whatever else is in the way
        act(trust.state_dir)
    except StateError as exc:
        if trust.min_version is None:
            raise PolicyError(
                f"policy: its version cannot be remembered ({exc}), so that an older one could take its place; "
                "give the least version to accept as --min-policy-version"
            ) from exc
