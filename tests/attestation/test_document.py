"""The document is read strictly and read back whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.document import MAX_COLLATERAL, MAX_DOCUMENT_BYTES, AttestationDocument, parse_document
from attestation.errors import EvidenceError
from attestation.types import (
    NONCE_BYTES,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    StatementBytes,
    parse_nonce,
)
from tests.attestation.samples import attested

GOOD: dict[str, Any] = json.loads(attested().encode())

_NONCES = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES).map(Nonce)


@given(st.lists(_NONCES, min_size=1, max_size=64), st.binary(), st.binary(), st.binary())
def test_a_document_is_read_back(nonces: list[Nonce], statement: bytes, report: bytes, devices: bytes) -> None:
    document = AttestationDocument(
        tuple(nonces),
        StatementBytes(statement),
        Evidence(EvidenceKind.INSECURE, report),
        DeviceEvidence(devices),
    )
    assert parse_document(document.encode()) == document


PIECE = {"kind": "snp-crl", "name": "vcek/Milan", "data": "AAAA"}

_FAULTS: dict[str, tuple[str, object]] = {
    "another version": ("version", 2),
    "a version that is no integer": ("version", True),
    "no nonce": ("nonces", []),
    "65 nonces": ("nonces", ["00" * 32] * 65),
    "a nonce in capitals": ("nonces", ["AB" * 32]),
    "a short nonce": ("nonces", ["00" * 31]),
    "a nonce that is no text": ("nonces", [7]),
    "a statement that is no base64": ("statement", "?"),
    "a statement in the clear": ("statement", {}),
    "an unknown kind of evidence": ("evidence", {"kind": "canary", "report": ""}),
    "evidence without a report": ("evidence", {"kind": "insecure"}),
    "evidence with more": ("evidence", {"kind": "insecure", "report": "", "canary": 1}),
    "device evidence that is null": ("device_evidence", None),
    "collateral of an unknown kind": ("collateral", [PIECE | {"kind": "canary"}]),
    "collateral that is no base64": ("collateral", [PIECE | {"data": "?"}]),
    "collateral with a piece twice": ("collateral", [PIECE, PIECE | {"data": ""}]),
    "collateral of too many pieces": ("collateral", [PIECE | {"name": f"vcek/{n}"} for n in range(MAX_COLLATERAL + 1)]),
    "an unknown member": ("surplus", "canary"),
}


@pytest.mark.parametrize(("name", "value"), _FAULTS.values(), ids=_FAULTS.keys())
def test_a_faulty_document_is_refused_by_name_and_not_quoted(name: str, value: object) -> None:
    with pytest.raises(EvidenceError, match=rf"^attestation document: {name}") as refusal:
        parse_document(json.dumps({**GOOD, name: value}).encode())
    assert "canary'" not in str(refusal.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_member_may_be_missing(name: str) -> None:
    with pytest.raises(EvidenceError, match=f"{name}: Field required"):
        parse_document(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())


def test_64_nonces_are_read() -> None:
    document = attested(nonces=tuple(Nonce(bytes([number]) * 32) for number in range(64)))
    assert parse_document(document.encode()) == document


def test_every_truncation_is_refused() -> None:
    data = attested().encode()
    for length in range(len(data)):
        with pytest.raises(EvidenceError):
            parse_document(data[:length])


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(EvidenceError, match="longer than"):
        parse_document(b" " * (MAX_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize("text", [None, "", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", "\u0660" * 64, b"0" * 64])
def test_only_64_lower_case_digits_are_a_nonce(text: object) -> None:
    with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
        parse_nonce(text)
