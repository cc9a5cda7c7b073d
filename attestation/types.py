"""The package's vocabulary, after RFC 9334 (RATS)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NewType

from pydantic import PlainSerializer, PlainValidator

Nonce = NewType("Nonce", bytes)
"""32 random bytes that make an answer fresh."""

StatementBytes = NewType("StatementBytes", bytes)
"""A statement exactly as it was carried and hashed; never re-serialised."""

DeviceEvidence = NewType("DeviceEvidence", bytes)
"""GPU and switch evidence exactly as collected; empty when the machine has no such devices."""

ReportData = NewType("ReportData", bytes)
"""The 64 bytes that a TEE report lets its guest choose."""

NONCE_BYTES = 32
REPORT_DATA_BYTES = 64


def parse_nonce(value: object) -> Nonce:
    """A nonce from its 64 lower-case hexadecimal digits. Raises ValueError."""
    if not isinstance(value, str) or len(value) != 2 * NONCE_BYTES or set(value) - set("0123456789abcdef"):
        raise ValueError("a nonce is 64 lower-case hexadecimal digits")
    return Nonce(bytes.fromhex(value))


NonceHex = Annotated[Nonce, PlainValidator(parse_nonce), PlainSerializer(bytes.hex)]
"""A nonce as documents spell it."""


class EvidenceKind(StrEnum):
    """What vouches for the machine."""

    INSECURE = "insecure"
    """Development only: proves nothing."""
    SNP = "snp"
    """An AMD SEV-SNP attestation report."""
    TDX = "tdx"
    """An Intel TDX quote."""


class EvidenceSource(StrEnum):
    """Who, inside the guest, hands out the reports of its processor."""

    CONFIGFS = "configfs"
    """The kernel itself."""
    COCO = "coco"
    """The attestation agent of Confidential Containers, over its REST API."""
    DSTACK = "dstack"
    """The guest agent of dstack."""


class CheckStatus(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verification. A skipped check was not made, and is never shown as if it had passed."""

    name: str
    status: CheckStatus
    detail: str

    @property
    def failed(self) -> bool:
        return self.status is CheckStatus.FAIL


def passed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.PASS, detail)


def failed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.FAIL, detail)


def skipped(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.SKIP, detail)


def judged(name: str, ok: bool, if_ok: str, if_not: str) -> Check:
    """A check that passes exactly when `ok`."""
    return passed(name, if_ok) if ok else failed(name, if_not)


def among(name: str, value: str, accepted: Collection[str] | None) -> Check:
    """A check of a value that a policy may name; skipped where it names none."""
    if accepted is None:
        return skipped(name, f"the policy does not ask; it is {value}")
    return judged(name, value in accepted, value, f"{value}, which the policy does not name")


class CollateralKind(StrEnum):
    """Signed statements of others that an appraisal needs beside the evidence.

    All of them authenticate themselves, but for the keys of NRAS: NVIDIA publishes no root to pin, so whoever vouches
    for them is the TLS connection that they came by, and they are never taken from the engine.
    """

    SNP_VEK = "snp-vek"
    """A VCEK or VLEK certificate, DER. Name: `{vcek|vlek}/{product or -}/{chip_id, hex}/{reported_tcb, 16 hex}`."""
    SNP_CHAIN = "snp-chain"
    """ASK or ASVK, then ARK, PEM, as AMD's KDS answers. Name: `{vcek|vlek}/{product}`."""
    SNP_CRL = "snp-crl"
    """Revoked ASKs or ASVKs, a DER CRL signed by the ARK. Name: `{vcek|vlek}/{product}`."""
    TDX = "tdx"
    """TCB info, QE identity, CRLs and chains: the JSON of `dcap_qvl`. Name: `{fmspc, hex}/{processor|platform}`."""
    GPU_RIM = "gpu-rim"
    """NVIDIA's reference values, a signed SWID document. Name: its RIM id."""
    GPU_OCSP = "gpu-ocsp"
    """A DER OCSP response (RFC 6960). Name: the DER request that it answers, without a nonce, hex."""
    GPU_NRAS = "gpu-nras"
    """NVIDIA's own verdict over the device evidence, as JSON. Name: `{gpu|switch}/{device nonce, hex}`."""
    GPU_NRAS_KEYS = "gpu-nras-keys"
    """The JWKS that signs those verdicts. Name: `jwks`."""


@dataclass(frozen=True, slots=True, order=True)
class CollateralKey:
    """What a piece of collateral is looked up by."""

    kind: CollateralKind
    name: str


Collateral = Mapping[CollateralKey, bytes]
"""Whatever collateral is at hand, from wherever: nothing in it is believed before its signature is checked."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attester produced.

    report: in the form its kind defines. collateral: what came with it, such as a certificate table.
    """

    kind: EvidenceKind
    report: bytes
    collateral: Collateral = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TsmProvider:
    """How Linux's configfs-tsm hands out a kind of evidence.

    name: as its `provider` says. has_levels: a report is asked for from one of several privilege levels.
    has_certificates: the host adds a table of certificates.
    """

    name: str
    has_levels: bool = False
    has_certificates: bool = False


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What the rules of one kind of evidence say of a report.

    checks: whether the report is authentic, and whether the machine it speaks of is acceptable.
    reported: the report_data it carries; None when the report cannot be read, or for devices, which carry none.
    claims: what an authentic report says of the machine, by name, for people and for the log; no nonces, so that the
        same machine with the same software gives the same claims.
    valid_until: when the first certificate or piece of collateral that it rests on expires; None when none does.
    """

    checks: tuple[Check, ...]
    reported: ReportData | None
    claims: Mapping[str, str] = field(default_factory=dict)
    valid_until: datetime | None = None
