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

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, TypeAdapter

from attestation.errors import EvidenceError
from attestation.types import DeviceEvidence, Nonce, ReportData, StatementBytes
from core.channel.keyconfig import KeyConfig, decode_key_configs, encode_key_configs
from core.errors import ChannelError
from core.program import strictjson
from core.program.validation import (
    STRICT,
    Label,
    Sha256Hex,
    UnixSeconds,
    VersionOne,
    decode_base64,
    encode_base64,
    once,
    validate,
)

MAX_STATEMENT_BYTES = 65_536
MAX_NONCES = 64
RECEIPT_KEY_BYTES = 32
LIVE_KEYS = "live_keys"
"""The extension that holds the key configurations of live sessions, as `ohttp_keys` holds the others."""
SUMMARIES = "vllm-instruct"
"""The component that writes summaries, where there is one; its only model is the one that it writes them with."""


def _decode_keys(value: object) -> tuple[KeyConfig, ...]:
    try:
        return decode_key_configs(decode_base64(value))
    except ChannelError as exc:
        raise ValueError(str(exc)) from exc


def _known_extensions(extensions: Mapping[str, Any]) -> Mapping[str, Any]:
    if LIVE_KEYS in extensions and len(set(keys := _decode_keys(extensions[LIVE_KEYS]))) != len(keys):
        raise ValueError(f"{LIVE_KEYS}: a key is given twice")
    return extensions


def _each_name_once(models: tuple[ModelIdentity, ...]) -> tuple[ModelIdentity, ...]:
    # An alias that is another model's name would leave it to the engine which of the two answers.
    names = [name for model in models for name in (model.id, *model.aliases)]
    if len(set(names)) != len(names):
        raise ValueError("a name is given twice")
    return models


def _decode_receipt_key(value: object) -> bytes | None:
    if value is None:
        return None
    key = decode_base64(value)
    if len(key) != RECEIPT_KEY_BYTES:
        raise ValueError(f"must be {RECEIPT_KEY_BYTES} bytes")
    return key


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A served model: its id, its other names, and the digest of the files it was loaded from."""

    __pydantic_config__ = STRICT

    id: Label
    aliases: tuple[Label, ...]
    weights_sha256: Sha256Hex


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a component loaded, and the digest of its files."""

    __pydantic_config__ = STRICT

    id: Label
    weights_sha256: Sha256Hex


@dataclass(frozen=True, slots=True)
class Component:
    """A process that sees plaintext, or several alike: `recogniser`, `aligner`.

    arguments: what it was started with, as its operator could have written it.
    attached: it was already running when the engine came, so nothing is known of it.
    plugins: code loaded into it beside its own.
    """

    __pydantic_config__ = STRICT

    name: Label
    arguments: tuple[Label, ...]
    attached: bool
    plugins: Annotated[tuple[Label, ...], once("a plugin is named twice")]
    models: Annotated[tuple[LoadedModel, ...], once("a model is named twice", lambda model: model.id)]


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """Security-relevant settings in force. Only the image is measured, so what an operator set must be confessed.

    components: everything behind the envelope that sees plaintext, beside the engine itself.
    request_log: a log line per request is written (never content).
    insecure_options: every option in force whose name says `insecure`, `allow` or `assume`.
    evidence_from: who in the guest handed out the evidence, an `EvidenceSource`; `insecure` for development evidence.
    """

    __pydantic_config__ = STRICT

    components: Annotated[tuple[Component, ...], once("a component is named twice", lambda component: component.name)]
    log_level: Label
    api_keys_required: bool
    request_log: bool
    insecure_options: Annotated[tuple[Label, ...], once("an option is named twice")]
    evidence_from: Label


@dataclass(frozen=True, slots=True)
class Statement:
    """The engine's claims for one key epoch.

    ohttp_keys: every live key configuration of this engine, one for each worker process.
    not_after: Unix time in seconds after which no request may be sealed to these keys.
    max_chunk_bytes: plaintext of a request chunk. max_request_bytes: a whole inner request, before padding.
    tls_spki_sha256: of the certificate that the engine itself ends TLS with, or None.
    receipt_key: the Ed25519 public key (32 bytes) that signs receipts, or None.
    extensions: the only place where unknown members are ignored; of those that are known see `live_keys`.
    """

    __pydantic_config__ = STRICT

    version: VersionOne
    instance: Label
    ohttp_keys: Annotated[
        tuple[KeyConfig, ...],
        PlainValidator(_decode_keys),
        PlainSerializer(lambda keys: encode_base64(encode_key_configs(keys))),
        once("a key is given twice", lambda config: config.digest),
    ]
    not_after: UnixSeconds
    max_chunk_bytes: Annotated[int, Field(ge=1024, le=262_144)]
    max_request_bytes: Annotated[int, Field(ge=1)]
    models: Annotated[tuple[ModelIdentity, ...], AfterValidator(_each_name_once)]
    config: EffectiveConfig
    tls_spki_sha256: Sha256Hex | None
    receipt_key: Annotated[
        bytes | None, PlainValidator(_decode_receipt_key), PlainSerializer(lambda key: key and encode_base64(key))
    ]
    extensions: Annotated[Mapping[str, Any], AfterValidator(_known_extensions)] = field(default_factory=dict)

    @property
    def instruct_model(self) -> str | None:
        """The model that writes summaries; None where none does."""
        models = [model.id for one in self.config.components if one.name == SUMMARIES for model in one.models]
        return models[0] if models else None

    @property
    def live_keys(self) -> tuple[KeyConfig, ...]:
        """Key configurations that live sessions may be sealed to, and nothing else; none where none are served."""
        return _decode_keys(self.extensions[LIVE_KEYS]) if LIVE_KEYS in self.extensions else ()


_STATEMENT = TypeAdapter(Statement)


def encode_statement(statement: Statement) -> StatementBytes:
    """The bytes to carry and hash; made once for a key epoch.

    Raises EvidenceError when a verifier could not read them back: better no epoch than one that everybody refuses.
    """
    data = StatementBytes(_STATEMENT.dump_json(statement))
    parse_statement(data)
    return data


def live_keys_extension(configs: Sequence[KeyConfig]) -> dict[str, str]:
    """What `extensions` says of the keys of live sessions: nothing without any."""
    return {LIVE_KEYS: encode_base64(encode_key_configs(configs))} if configs else {}


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
