"""What did an attested engine make of a request, and how does anybody check that later? A signed receipt.

A receipt travels in the trailers of a sealed answer (`sottovoce-receipt`)::

    receipt   = base64(claims) "." base64(signature)
    claims    = {"version": 1, "request_sha256": "<64 hex>", "answer_sha256": "<64 hex>", "status": 200,
                 "model": "openai/whisper-large-v3" or null, "audio_seconds": 12, "replayed": false,
                 "issued_at": 1800000000}
    signature = Ed25519(receipt key, "sottovoce receipt v1" 00 claims)

request_sha256 is that of the body of the sealed request, as it was posted; answer_sha256 that of the sealed answer up
to the chunk that carries the receipt, which is the final one. So a receipt says nothing of what was said: only that
these very bytes went in and those came out. The receipt key is drawn when an engine starts, lives in its memory alone,
and stands in its statement: whoever keeps an attestation (`sottovoce-attest verify --save`) checks every receipt of
that engine with it, for as long as it ran. Audio is told in whole seconds, rounded up.

A receipt of a live session is a record before the engine's end (`core.channel.records`), so nobody has the one without
the other. It covers the messages of the WebSocket as they passed, one behind the other::

    claims    = {"version": 1, "frames_up": 321, "up_sha256": "<64 hex>", "frames_down": 318, "down_sha256": "<64 hex>",
                 "code": 1000, "model": "openai/whisper-large-v3" or null, "audio_seconds": 31,
                 "issued_at": 1800000000}
    signature = Ed25519(receipt key, "sottovoce live receipt v1" 00 claims)

up: those that had opened when the session ended: all audio that was heard, and every event. down: those before the one
in which the receipt begins, so every event that was said. code: with which the session ends. model: the one that heard
all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, TypeAdapter

from attestation.errors import EvidenceError, RefusedError
from attestation.types import Check, judged
from core.program import strictjson
from core.program.validation import (
    STRICT,
    Label,
    Sha256Hex,
    UnixSeconds,
    VersionOne,
    decode_base64,
    encode_base64,
    validate,
)

R = TypeVar("R")

RECEIPT_HEADER: Final = "sottovoce-receipt"
"""Asks for a receipt, with the value 1; and carries it, among the trailers."""
MAX_RECEIPT_BYTES: Final = 4_096

_LABEL: Final = b"sottovoce receipt v1\x00"
_LIVE_LABEL: Final = b"sottovoce live receipt v1\x00"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The claims of a receipt.

    model: None where none answered. audio_seconds: heard for this request, rounded up; 0 where an answer was replayed.
    issued_at: Unix time in seconds, by the engine's clock.
    """

    __pydantic_config__ = STRICT

    version: VersionOne
    request_sha256: Sha256Hex
    answer_sha256: Sha256Hex
    status: Annotated[int, Field(ge=200, le=599)]
    model: Label | None
    audio_seconds: Annotated[int, Field(ge=0)]
    replayed: bool
    issued_at: UnixSeconds


@dataclass(frozen=True, slots=True)
class LiveReceipt:
    """The claims of a receipt of a live session.

    model: None where none heard, or several did. audio_seconds: heard, rounded up. issued_at: as of a `Receipt`.
    """

    __pydantic_config__ = STRICT

    version: VersionOne
    frames_up: Annotated[int, Field(ge=1)]
    up_sha256: Sha256Hex
    frames_down: Annotated[int, Field(ge=1)]
    down_sha256: Sha256Hex
    code: Annotated[int, Field(ge=1000, le=4999)]
    model: Label | None
    audio_seconds: Annotated[int, Field(ge=0)]
    issued_at: UnixSeconds


_RECEIPT = TypeAdapter(Receipt)
_LIVE_RECEIPT = TypeAdapter(LiveReceipt)


class ReceiptKey:
    """Signs receipts; shows only its public half."""

    __slots__ = ("_secret", "public_key")

    def __init__(self) -> None:
        self._secret = Ed25519PrivateKey.generate()
        self.public_key = self._secret.public_key().public_bytes_raw()

    def sign(self, receipt: Receipt) -> str:
        """The receipt as it travels."""
        return self._signed(_LABEL, _RECEIPT.dump_json(receipt))

    def sign_live(self, receipt: LiveReceipt) -> str:
        return self._signed(_LIVE_LABEL, _LIVE_RECEIPT.dump_json(receipt))

    def _signed(self, label: bytes, claims: bytes) -> str:
        return f"{encode_base64(claims)}.{encode_base64(self._secret.sign(label + claims))}"

    def __repr__(self) -> str:
        return f"ReceiptKey({self.public_key.hex()[:8]}..., secret=***)"


def parse_receipt(text: str) -> tuple[Receipt, bytes, bytes]:
    """The claims of a receipt, their bytes and the signature over them. Raises EvidenceError."""
    return _parsed(_RECEIPT, text)


def parse_live_receipt(text: str) -> tuple[LiveReceipt, bytes, bytes]:
    """As `parse_receipt`, of a live session."""
    return _parsed(_LIVE_RECEIPT, text)


def _parsed(kind: TypeAdapter[R], text: str) -> tuple[R, bytes, bytes]:
    try:
        if len(text) > MAX_RECEIPT_BYTES:
            raise ValueError(f"longer than {MAX_RECEIPT_BYTES} bytes")  # noqa: TRY301 - told as the other faults
        claims, _, signature = text.partition(".")
        data = decode_base64(claims)
        return validate(kind, strictjson.loads(data, max_bytes=MAX_RECEIPT_BYTES)), data, decode_base64(signature)
    except ValueError as exc:
        raise EvidenceError(f"receipt: {exc}") from exc


def verify_receipt(
    text: str, receipt_key: bytes | None, *, request_sha256: str, answer_sha256: str
) -> tuple[Receipt, tuple[Check, ...]]:
    """Check a receipt with the key of a verified statement, and against what was sent and received (hexadecimal).

    Raises EvidenceError for what cannot be read, RefusedError carrying every check.
    """
    receipt, claims, signature = parse_receipt(text)
    checks = (
        _signature(receipt_key, _LABEL + claims, signature),
        judged(
            "request",
            receipt.request_sha256 == request_sha256,
            "it is for the request that was sent",
            "it is for another request",
        ),
        judged(
            "answer",
            receipt.answer_sha256 == answer_sha256,
            "it is for the answer that came",
            "it is for another answer",
        ),
    )
    if any(check.failed for check in checks):
        raise RefusedError(checks)
    return receipt, checks


def verify_live_receipt(
    text: str, receipt_key: bytes | None, *, up: tuple[int, str], down: tuple[int, str]
) -> tuple[LiveReceipt, tuple[Check, ...]]:
    """As `verify_receipt`. up, down: of how many messages that were sent and received, and their SHA-256."""
    receipt, claims, signature = parse_live_receipt(text)
    checks = (
        _signature(receipt_key, _LIVE_LABEL + claims, signature),
        judged(
            "heard",
            (receipt.frames_up, receipt.up_sha256) == up,
            "it is for what was said",
            "it is for something else that was said",
        ),
        judged(
            "answered",
            (receipt.frames_down, receipt.down_sha256) == down,
            "it is for the events that came",
            "it is for other events",
        ),
    )
    if any(check.failed for check in checks):
        raise RefusedError(checks)
    return receipt, checks


def _signature(receipt_key: bytes | None, signed: bytes, signature: bytes) -> Check:
    return judged(
        "signature",
        receipt_key is not None and _is_signed(receipt_key, signed, signature),
        "the engine's receipt key signed it",
        "the statement names no receipt key" if receipt_key is None else "the engine's receipt key did not sign it",
    )


def _is_signed(receipt_key: bytes, signed: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(receipt_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True
