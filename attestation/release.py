"""Is this policy its signer's, and not an older one than was accepted here before?

Without a pinned signer a policy is believed because of where it lies. With one it must, in this order:

1. bear a signature of a pinned key over its exact bytes (`attestation.signature`), and, where a Sigstore identity is
   pinned, a bundle of that identity (`attestation.provenance`)
2. have a table `release`: which version it is, and until when
3. not be expired, nor have a version below the least one asked for
4. accept no development evidence and no roots but the vendors': whoever signs speaks for other people's machines
5. not be older than what was accepted before (`attestation.rollback`)

Nothing of a file is read before its signature holds. An expiry binds an unsigned policy too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.errors import PolicyError
from attestation.policy import Policy, Release, parse_policy, read_policy_file
from attestation.rollback import Mark, accept_newer, refuse_older
from attestation.signature import MAX_SIGNATURE_FILE_BYTES, Signer, parse_signer, signature_path, verify_signature
from attestation.state import StateError

SLSA_PROVENANCE = "https://slsa.dev/provenance/v1"
"""What GitHub's attest-build-provenance states."""
MAX_BUNDLE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SigstoreTrust:
    """Whom a Sigstore bundle must come from; its place is `POLICY.sigstore.json`.

    trusted_root: the file of keys and certificates of the Sigstore instance (`trusted_root.json`).
    identity: the subject alternative name of the signing certificate, such as a workflow and the branch it ran on.
    issuer: who vouched for that identity, such as https://token.actions.githubusercontent.com.
    predicate_types: what an in-toto statement about the policy may say of it.
    """

    trusted_root: Path
    identity: str
    issuer: str
    predicate_types: tuple[str, ...] = (SLSA_PROVENANCE,)

    @property
    def key_id(self) -> str:
        """What the identity's versions are remembered by, like the key id of a signer."""
        return hashlib.sha256(f"sigstore\0{self.issuer}\0{self.identity}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PolicyTrust:
    """Whom policies are believed from; nobody in particular by default.

    signers: any one of them must have signed. sigstore: this identity must have signed, too.
    min_version: refuse versions below. state_dir: where versions are remembered; None remembers nothing.
    Raises PolicyError when `min_version` is asked of policies that anybody may have written.
    """

    signers: tuple[Signer, ...] = ()
    min_version: int | None = None
    state_dir: Path | None = None
    sigstore: SigstoreTrust | None = None

    def __post_init__(self) -> None:
        if self.min_version is not None and not self.pins_signer:
            raise PolicyError("policy: a least version means nothing without a pinned signer")

    @property
    def pins_signer(self) -> bool:
        return bool(self.signers) or self.sigstore is not None

    @property
    def pinned(self) -> frozenset[str]:
        """The key ids of everybody who is pinned."""
        sigstore = (self.sigstore.key_id,) if self.sigstore else ()
        return frozenset((*(signer.key_id for signer in self.signers), *sigstore))


def policy_trust(
    signers: Iterable[str],
    *,
    min_version: int | None = None,
    state_dir: Path | None = None,
    sigstore_root: Path | None = None,
    sigstore_identity: str | None = None,
    sigstore_issuer: str | None = None,
) -> PolicyTrust:
    """Trust from options as they are spelled. Raises PolicyError."""
    try:
        keys = tuple(parse_signer(text) for text in signers)
    except ValueError as exc:
        raise PolicyError(f"policy: {exc}") from exc
    if sigstore_root is None and sigstore_identity is None and sigstore_issuer is None:
        return PolicyTrust(keys, min_version, state_dir)
    if (
        sigstore_root is None or not sigstore_identity or not sigstore_issuer
    ):  # an empty one is a mistake, and pins nobody
        raise PolicyError("policy: Sigstore's trusted root, the identity and its issuer need each other")
    return PolicyTrust(keys, min_version, state_dir, SigstoreTrust(sigstore_root, sigstore_identity, sigstore_issuer))


def load_policy(path: Path, trust: PolicyTrust, *, now: datetime) -> Policy:
    """Read a policy to be used, and remember its version. Raises PolicyError.

    It reads and writes files, and waits for a lock: an event loop calls it in a thread.
    """
    policy, vouching = _judged(path, trust, now)
    if trust.pins_signer:
        with _without_state(trust):
            accept_newer(_directory(trust), _mark(policy), by=vouching, pinned=trust.pinned)
    return policy


def check_policy(path: Path, trust: PolicyTrust, *, now: datetime) -> Policy:
    """Read a policy as `load_policy` would, and remember nothing. Raises PolicyError."""
    policy, _ = _judged(path, trust, now)
    return policy


def refuse_unreleasable(policy: Policy, *, now: datetime) -> None:
    """Refuse to sign what nobody who pins a signer would accept. Raises PolicyError naming every reason."""
    _refuse(_faults(policy, 1, now))


def _judged(path: Path, trust: PolicyTrust, now: datetime) -> tuple[Policy, frozenset[str]]:
    """A policy that may be used now, and the key ids of those who vouch for it."""
    data = read_policy_file(path)
    vouching = frozenset(_vouching(path, data, trust))
    policy = parse_policy(data)
    if not trust.pins_signer:
        _refuse(_expiry(policy.release, now))
        return policy, vouching
    _refuse(_faults(policy, trust.min_version or 1, now))
    with _without_state(trust):
        refuse_older(_directory(trust), _mark(policy), pinned=trust.pinned)
    return policy, vouching


def _refuse(faults: Iterator[str]) -> None:
    if told := "; ".join(faults):
        raise PolicyError(f"policy: {told}")


def _vouching(path: Path, data: bytes, trust: PolicyTrust) -> Iterator[str]:
    if trust.signers:
        signature = read_policy_file(signature_path(path), max_bytes=MAX_SIGNATURE_FILE_BYTES)
        yield verify_signature(data, signature, trust.signers).key_id
    if trust.sigstore is not None:
        bundle = read_policy_file(path.with_name(path.name + ".sigstore.json"), max_bytes=MAX_BUNDLE_BYTES)
        _verify_provenance(data, bundle, trust.sigstore)
        yield trust.sigstore.key_id


def _verify_provenance(policy: bytes, bundle: bytes, trust: SigstoreTrust) -> None:
    try:
        from attestation.provenance import verify_provenance  # an extra, which the proxy does not load  # noqa: PLC0415
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


def _mark(policy: Policy) -> Mark:
    if policy.release is None:
        raise PolicyError("policy: it has no table `release`")
    return Mark(policy.release.version, policy.digest)


def _directory(trust: PolicyTrust) -> Path:
    if trust.state_dir is None:
        raise StateError("there is no directory for it")
    return trust.state_dir


@contextmanager
def _without_state(trust: PolicyTrust) -> Iterator[None]:
    """Let what is remembered be missing where a least version takes its place."""
    try:
        yield
    except StateError as exc:
        if trust.min_version is None:
            raise PolicyError(
                f"policy: its version cannot be remembered ({exc}), so that an older one could take its place; "
                "give the least version to accept as --min-policy-version"
            ) from exc
