"""A receipt is believed only as it was signed, and only for the request and the answer that it was signed for."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import pytest

from attestation.errors import AttestationError, EvidenceError, RefusedError
from attestation.receipt import (
    MAX_RECEIPT_BYTES,
    LiveReceipt,
    Receipt,
    ReceiptKey,
    parse_live_receipt,
    parse_receipt,
    verify_live_receipt,
    verify_receipt,
)

KEY = ReceiptKey()
REQUEST, ANSWER = "ab" * 32, "cd" * 32
RECEIPT = Receipt(1, REQUEST, ANSWER, 200, "openai/whisper", 12, replayed=False, issued_at=1_800_000_000)
SIGNED = KEY.sign(RECEIPT)


def verified(text: str = SIGNED, key: bytes | None = KEY.public_key, **seen: str) -> Receipt:
    digests = {"request_sha256": REQUEST, "answer_sha256": ANSWER} | seen
    return verify_receipt(text, key, **digests)[0]


def failed(text: str = SIGNED, key: bytes | None = KEY.public_key, **seen: str) -> list[str]:
    with pytest.raises(RefusedError) as refusal:
        verified(text, key, **seen)
    return [check.name for check in refusal.value.checks if check.failed]


def with_claims(**changes: Any) -> str:
    """The receipt with other claims, under the signature that it had."""
    claims, _, signature = SIGNED.partition(".")
    told = json.loads(b64decode(claims)) | changes
    return f"{b64encode(json.dumps(told, separators=(',', ':')).encode()).decode()}.{signature}"


def test_what_was_signed_is_believed() -> None:
    assert verified() == RECEIPT
    assert verified(KEY.sign(replace(RECEIPT, model=None, status=404, audio_seconds=0))).model is None


def test_each_thing_that_is_wrong_fails_its_own_check() -> None:
    assert failed(key=ReceiptKey().public_key) == ["signature"]
    assert failed(key=None) == ["signature"]
    assert failed(key=bytes(32)) == ["signature"]
    assert failed(request_sha256="00" * 32) == ["request"]
    assert failed(answer_sha256="00" * 32) == ["answer"]


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("request_sha256", "00" * 32),
        ("answer_sha256", "00" * 32),
        ("status", 201),
        ("model", "openai/whisper-1"),
        ("model", None),
        ("audio_seconds", 13),
        ("replayed", True),
        ("issued_at", 1_800_000_001),
    ],
)
def test_a_claim_that_was_changed_is_refused(claim: str, value: Any) -> None:
    assert "signature" in failed(with_claims(**{claim: value}))


def test_every_flipped_bit_is_refused() -> None:
    claims, signature = (b64decode(part) for part in SIGNED.split("."))
    for position in range(8 * (len(claims) + len(signature))):
        both = bytearray(claims + signature)
        both[position // 8] ^= 1 << position % 8
        text = ".".join(b64encode(part).decode() for part in (both[: len(claims)], both[len(claims) :]))
        with pytest.raises(AttestationError):
            verified(text)


def test_every_cut_is_refused() -> None:
    for size in range(len(SIGNED)):
        with pytest.raises(AttestationError):
            verified(SIGNED[:size])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        SIGNED + ".",
        SIGNED.replace(".", ""),
        with_claims(version=2),
        with_claims(more=1),
        with_claims(audio_seconds=1.5),
        with_claims(audio_seconds=-1),
        with_claims(request_sha256="AB" * 32),
        with_claims(model=""),
        "x" * (MAX_RECEIPT_BYTES + 1),
    ],
)
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(EvidenceError, match="receipt: "):
        parse_receipt(text)


def test_a_signature_of_something_else_by_the_same_key_is_none() -> None:
    claims, _, _ = SIGNED.partition(".")
    other = KEY._secret.sign(b64decode(claims))  # without the label
    assert failed(f"{claims}.{b64encode(other).decode()}") == ["signature"]


def test_a_receipt_key_shows_only_its_public_half() -> None:
    assert KEY.public_key.hex()[:8] in repr(KEY)
    assert KEY._secret.private_bytes_raw().hex()[:8] not in repr(KEY)


LIVE = LiveReceipt(1, 5, REQUEST, 7, ANSWER, 1000, "openai/whisper", 12, 1_800_000_000)
SIGNED_LIVE = KEY.sign_live(LIVE)
SEEN = {"up": (5, REQUEST), "down": (7, ANSWER)}


def test_what_was_signed_of_a_live_session_is_believed_and_of_another_is_not() -> None:
    assert verify_live_receipt(SIGNED_LIVE, KEY.public_key, **SEEN)[0] == LIVE
    others: dict[str, tuple[bytes | None, dict[str, tuple[int, str]]]] = {
        "signature": (ReceiptKey().public_key, {}),
        "heard": (KEY.public_key, {"up": (5, ANSWER)}),
        "answered": (KEY.public_key, {"down": (8, ANSWER)}),
    }
    for name, (key, seen) in others.items():
        with pytest.raises(RefusedError) as refusal:
            verify_live_receipt(SIGNED_LIVE, key, **SEEN | seen)
        assert [check.name for check in refusal.value.checks if check.failed] == [name]


def test_a_receipt_of_a_request_is_none_of_a_live_session_nor_the_other_way_round() -> None:
    with pytest.raises(EvidenceError):
        parse_receipt(SIGNED_LIVE)
    with pytest.raises(EvidenceError):
        parse_live_receipt(SIGNED)
    claims = SIGNED_LIVE.partition(".")[0]
    other = KEY._secret.sign(b"sottovoce receipt v1\x00" + b64decode(claims))  # under the label of requests
    with pytest.raises(RefusedError):
        verify_live_receipt(f"{claims}.{b64encode(other).decode()}", KEY.public_key, **SEEN)


def test_every_cut_and_flipped_bit_of_a_receipt_of_a_live_session_is_refused() -> None:
    claims, signature = (b64decode(part) for part in SIGNED_LIVE.split("."))
    for position in range(8 * (len(claims) + len(signature))):
        both = bytearray(claims + signature)
        both[position // 8] ^= 1 << position % 8
        text = ".".join(b64encode(part).decode() for part in (both[: len(claims)], both[len(claims) :]))
        with pytest.raises(AttestationError):
            verify_live_receipt(text, KEY.public_key, **SEEN)
    for size in range(len(SIGNED_LIVE)):
        with pytest.raises(AttestationError):
            verify_live_receipt(SIGNED_LIVE[:size], KEY.public_key, **SEEN)
