"""The attestation document: what the engine answers to a nonce, and what a user may keep to check again later.

::

    {"version": 1,
     "nonces": ["<64 hex>", ...],              one collection answers up to 64 waiting clients
     "statement": "<base64>",                  exact bytes
     "evidence": {"kind": "...", "report": "<base64>"},
     "device_evidence": "<base64>",            exact bytes, empty when there are no devices
     "collateral": [{"kind": "...", "name": "...", "data": "<base64>"}, ...]}

Collateral is what the engine had at hand of certificates, revocation lists and reference values. It may be missing, and
`report_data` does not commit to it: every piece is signed by somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, TypeAdapter

from attestation.errors import EvidenceError
from attestation.statement import MAX_NONCES
from attestation.types import (
    Collateral,
    CollateralKey,
    CollateralKind,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    NonceHex,
    StatementBytes,
)
from core.program import strictjson
from core.program.validation import STRICT, Base64, Label, VersionOne, once, validate

WELL_KNOWN_PATH = "/.well-known/sottovoce-attestation"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""Eight GPUs with certificate chains and collateral stay under 1 MiB."""
MAX_COLLATERAL = 256
"""Pieces: eight GPUs and four switches have some 90, most of them revocation answers."""


@dataclass(frozen=True, slots=True)
class _EvidenceMember:
    __pydantic_config__ = STRICT
    kind: EvidenceKind
    report: Base64


@dataclass(frozen=True, slots=True)
class _CollateralMember:
    __pydantic_config__ = STRICT
    kind: CollateralKind
    name: Label
    data: Base64


@dataclass(frozen=True, slots=True)
class _DocumentMembers:
    __pydantic_config__ = STRICT
    version: VersionOne
    nonces: Annotated[tuple[NonceHex, ...], Field(min_length=1, max_length=MAX_NONCES)]
    statement: Base64
    evidence: _EvidenceMember
    device_evidence: Base64
    collateral: Annotated[
        tuple[_CollateralMember, ...],
        Field(max_length=MAX_COLLATERAL),
        once("a piece is given twice", lambda piece: (piece.kind, piece.name)),
    ]


_DOCUMENT = TypeAdapter(_DocumentMembers)


@dataclass(frozen=True, slots=True)
class AttestationDocument:
    """Evidence with everything it is bound to; nothing in it is verified yet."""

    nonces: tuple[Nonce, ...]
    statement: StatementBytes
    evidence: Evidence
    device_evidence: DeviceEvidence
    collateral: Collateral = field(default_factory=dict)

    def encode(self) -> bytes:
        """The document as it is answered and saved."""
        return _DOCUMENT.dump_json(
            _DocumentMembers(
                version=1,
                nonces=self.nonces,
                statement=self.statement,
                evidence=_EvidenceMember(self.evidence.kind, self.evidence.report),
                device_evidence=self.device_evidence,
                collateral=tuple(
                    _CollateralMember(key.kind, key.name, data) for key, data in sorted(self.collateral.items())
                ),
            )
        )


def parse_document(data: bytes) -> AttestationDocument:
    """Read a document. Raises EvidenceError naming every fault."""
    try:
        members = validate(_DOCUMENT, strictjson.loads(data, max_bytes=MAX_DOCUMENT_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"attestation document: {exc}") from exc
    return AttestationDocument(
        nonces=members.nonces,
        statement=StatementBytes(members.statement),
        evidence=Evidence(members.evidence.kind, members.evidence.report),
        device_evidence=DeviceEvidence(members.device_evidence),
        collateral={CollateralKey(piece.kind, piece.name): piece.data for piece in members.collateral},
    )
