"""Whose policies are believed? What a relying party pins, and how each of its programs is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, PlainValidator, ValidationInfo, field_validator

from attestation.errors import PolicyError
from attestation.release.signature import Signer, parse_signer
from core.program.files import state_directory
from core.program.settings import ProgramSettings

MAX_SIGSTORE_BUNDLE_BYTES: Final = 1024 * 1024
SLSA_PROVENANCE: Final = "https://slsa.dev/provenance/v1"
"""What GitHub's attest-build-provenance states."""


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
    require_pq: ask for post-quantum keys, whatever the policy says.
    Raises PolicyError when `min_version` is asked of policies that anybody may have written.
    """

    signers: tuple[Signer, ...] = ()
    min_version: int | None = None
    state_dir: Path | None = None
    sigstore: SigstoreTrust | None = None
    require_pq: bool = False

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


class StateOptions(ProgramSettings):
    """Where a relying party keeps what it must not forget."""

    state_dir: Path | None = Field(
        None,
        description="Where policy versions and the log of identities are kept. Default: the user's data directory.",
    )

    @property
    def state_directory(self) -> Path:
        return self.state_dir or state_directory()


def _signer(value: object) -> Signer:
    return parse_signer(value if isinstance(value, str) else "")


class SignerOptions(StateOptions):
    """Whose a policy must be: the same for every program of a relying party."""

    policy_signer: tuple[Annotated[Signer, PlainValidator(_signer)], ...] = Field(
        (), description="ed25519:HEX that must have signed the policy; may be repeated, and one of them is enough."
    )
    policy_sigstore_root: Path | None = Field(None, description="trusted_root.json of a Sigstore instance.")
    policy_sigstore_identity: str | None = Field(None, description="Who must have made POLICY.sigstore.json.")
    policy_sigstore_issuer: str | None = Field(
        None, validate_default=True, description="Who must have vouched for that identity."
    )
    min_policy_version: int | None = Field(None, ge=1, description="Refuse older versions of a signed policy.")

    @field_validator("policy_sigstore_issuer")
    @classmethod
    def _sigstore_is_whole(cls, issuer: str | None, info: ValidationInfo) -> str | None:
        parts = (info.data.get("policy_sigstore_root"), info.data.get("policy_sigstore_identity"), issuer)
        # An empty one is a mistake, and would pin nobody.
        if any(part is not None for part in parts) and not all(parts):
            raise ValueError("Sigstore's trusted root, the identity and its issuer need each other")
        return issuer

    @field_validator("min_policy_version")
    @classmethod
    def _versions_are_somebodys(cls, version: int | None, info: ValidationInfo) -> int | None:
        if version is not None and not (info.data.get("policy_signer") or info.data.get("policy_sigstore_issuer")):
            raise ValueError("a least version means nothing without a pinned signer")
        return version

    @property
    def policy_trust(self) -> PolicyTrust:
        root, identity, issuer = (
            self.policy_sigstore_root,
            self.policy_sigstore_identity,
            self.policy_sigstore_issuer,
        )
        sigstore = SigstoreTrust(root, identity, issuer) if root and identity and issuer else None
        return PolicyTrust(self.policy_signer, self.min_policy_version, self.state_directory, sigstore)


class TrustOptions(SignerOptions):
    """By which policy engines are judged, and whose it must be."""

    policy: Path = Field(description="TOML file of what the engine must prove.")
    require_pq: bool = Field(
        False,
        description="Refuse engines without post-quantum keys (ML-KEM-768 with X25519), whatever the policy says.",
    )

    @property
    def policy_trust(self) -> PolicyTrust:
        return replace(super().policy_trust, require_pq=self.require_pq)
