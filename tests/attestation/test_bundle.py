"""What is kept can be read again, and says whose nonce it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attestation.bundle import Bundle, parse_bundle, parse_saved
from attestation.errors import EvidenceError
from tests.attestation.samples import NONCE, NOW, attested

BUNDLE = Bundle(NONCE, int(NOW.timestamp()), attested())
GOOD: dict[str, Any] = json.loads(BUNDLE.encode())


def test_a_bundle_is_read_back() -> None:
    assert parse_bundle(BUNDLE.encode()) == BUNDLE


def test_a_bundle_shows_its_document_as_the_engine_answered_it() -> None:
    assert GOOD["document"] == json.loads(attested().encode())


def test_a_saved_file_is_a_bundle_or_a_document() -> None:
    assert parse_saved(BUNDLE.encode()) == BUNDLE
    assert parse_saved(attested().encode()) == BUNDLE.document


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("nonce", "00"),
        ("fetched_at", "now"),
        ("fetched_at", -1),
        ("fetched_at", 10**15),
        ("document", "text"),
        ("document", {}),
        ("surplus", 1),
    ],
)
def test_a_faulty_bundle_is_refused(name: str, value: object) -> None:
    with pytest.raises(EvidenceError):
        parse_saved(json.dumps({**GOOD, name: value}).encode())


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_member_may_be_missing(name: str) -> None:
    with pytest.raises(EvidenceError):
        parse_saved(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b'{"document": 1, "document": 1}'])
def test_what_is_neither_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_saved(data)
