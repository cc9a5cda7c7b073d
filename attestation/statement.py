"""What does the engine claim, and which 64 bytes bind the claim to a machine and a moment?

A statement is JSON, fixed for a key epoch, carried and hashed as exact bytes. Nothing in it is believed because it
is said: evidence whose `report_data` commits to it shows that the measured software said it.

The binding, with `||` for concatenation and 00 for one zero byte::

    N           = SHA-256(n1 || ... || nk)                       the waiting clients' nonces, in order
    S           = SHA-256(statement)
    gpu_nonce   = SHA-256("sottovoce gpu v1"    || 00 || N || S)
    D           = SHA-256(device evidence)                       of the empty string when there is none
    report_data = SHA-512("sottovoce report v1" || 00 || N || S || D)

So a report answers these nonces, for this statement, beside these devices; and the devices were asked after the
statement was fixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter

from attestation import strictjson
from attestation.channel.keyconfig import KeyConfig, decode_key_configs, encode_key_configs
from attestation.errors import ChannelError, EvidenceError
from attestation.types import DeviceEvidence, Nonce, ReportData, StatementBytes
from attestation.validation import STRICT, Label, Sha256Hex, VersionOne, decode_base64, encode_base64, validate

MAX_STATEMENT_BYTES = 65_536
MAX_NONCES = 64
RECEIPT_KEY_BYTES = 32
MAX_NOT_AFTER = 253_402_300_799
"""The last second of the year 9999, and of what a datetime can hold."""


def _decode_keys(value: object) -> tuple[KeyConfig, ...]:
    try:
        return decode_key_configs(decode_base64(value))
    except ChannelError as exc:
        raise ValueError(str(exc)) from exc


def _encode_keys(keys: Sequence[KeyConfig]) -> str:
    return encode_base64(encode_key_configs(keys))


def _decode_receipt_key(value: object) -> bytes | None:
    if value is None:
        return None
    key = decode_base64(value)
    if len(key) != RECEIPT_KEY_BYTES:
        raise ValueError(f"must be {RECEIPT_KEY_BYTES} bytes")
    return key


def _encode_receipt_key(key: bytes | None) -> str | None:
    return None if key is None else encode_base64(key)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A served model: its id, its other names, and the digest of the files it was loaded from."""

    __pydantic_config__ = STRICT

    id: Label
    aliases: tuple[Label, ...]
    weights_sha256: Sha256Hex


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """Security-relevant settings in force. Only the image is measured, so what an operator set must be confessed.

    backend_arguments: what the backend was started with, as its operator could have written it.
    backend_attached: the backend was already running when the engine came, so nothing is known of it.
    plugins: code loaded into the backend beside its own.
    request_log: a log line per request is written (never content).
    insecure_options: every option in force whose name says `insecure` or `allow`.
    """

    __pydantic_config__ = STRICT

    backend: Label
    backend_arguments: tuple[Label, ...]
    backend_attached: bool
    log_level: Label
    plugins: tuple[Label, ...]
    api_keys_required: bool
    request_log: bool
    insecure_options: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """The engine's claims for one key epoch.

    ohttp_keys: every live key configuration of this engine, one for each worker process.
    not_after: Unix time in seconds after which no request may be sealed to these keys.
    max_chunk_bytes: plaintext of a request chunk. max_request_bytes: a whole inner request, before padding.
    tls_spki_sha256: of the certificate that the engine itself ends TLS with, or None.
    receipt_key: the Ed25519 public key (32 bytes) that signs receipts, or None.
    extensions: the only place where unknown members are ignored.
    """

    __pydantic_config__ = STRICT

    version: VersionOne
    instance: Label
    ohttp_keys: Annotated[tuple[KeyConfig, ...], PlainValidator(_decode_keys), PlainSerializer(_encode_keys)]
    not_after: Annotated[int, Field(ge=0, le=MAX_NOT_AFTER)]
    max_chunk_bytes: Annotated[int, Field(ge=1024, le=262_144)]
    max_request_bytes: Annotated[int, Field(ge=1)]
    models: tuple[ModelIdentity, ...]
    config: EffectiveConfig
    tls_spki_sha256: Sha256Hex | None
    receipt_key: Annotated[bytes | None, PlainValidator(_decode_receipt_key), PlainSerializer(_encode_receipt_key)]
    extensions: Mapping[str, Any] = field(default_factory=dict)


_STATEMENT = TypeAdapter(Statement)


def encode_statement(statement: Statement) -> StatementBytes:
    """The bytes to carry and hash; made once for a key epoch.

    Raises EvidenceError when a verifier could not read them back: better no epoch than one that everybody refuses.
    """
    data = StatementBytes(_STATEMENT.dump_json(statement))
    parse_statement(data)
    return data


def parse_statement(data: StatementBytes) -> Statement:
    """Read a statement. Raises EvidenceError naming every fault."""
    try:
        return validate(_STATEMENT, strictjson.loads(data, max_bytes=MAX_STATEMENT_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"statement: {exc}") from exc


def combine_nonces(nonces: Sequence[Nonce]) -> bytes:
    """N, 32 bytes."""
    return hashlib.sha256(b"".join(nonces)).digest()


def gpu_nonce(nonces: Sequence[Nonce], statement: StatementBytes) -> Nonce:
    """The nonce that devices sign, 32 bytes."""
    n, s = combine_nonces(nonces), hashlib.sha256(statement).digest()
    return Nonce(hashlib.sha256(b"sottovoce gpu v1\x00" + n + s).digest())


def report_data(nonces: Sequence[Nonce], statement: StatementBytes, device_evidence: DeviceEvidence) -> ReportData:
    """The 64 bytes that evidence for this statement, these devices and these nonces must carry."""
    n, s = combine_nonces(nonces), hashlib.sha256(statement).digest()
    d = hashlib.sha256(device_evidence).digest()
    return ReportData(hashlib.sha512(b"sottovoce report v1\x00" + n + s + d).digest())
