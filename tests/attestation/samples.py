"""An engine's statement, a policy that accepts it, and evidence that binds it; tests change one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from attestation.document import AttestationDocument
from attestation.insecure import InsecurePolicy
from attestation.policy import ModelPolicy, Policy, StatementPolicy
from attestation.statement import (
    Component,
    EffectiveConfig,
    LoadedModel,
    ModelIdentity,
    Statement,
    encode_statement,
    report_data,
)
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, Nonce, StatementBytes
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NONCE = Nonce(bytes(range(32)))
OTHER_NONCE = Nonce(bytes(32))
KEY = GatewayKey.generate(())
PQ_KEY = GatewayKey.generate({KEY.config.key_id}, Kem.MLKEM768_X25519)
NO_DEVICES = DeviceEvidence(b"")
INSECURE_PREFIX = b"sottovoce insecure evidence v1\x00"

RECOGNISER = Component(
    "faster-whisper",
    ("device=cpu",),
    attached=False,
    plugins=(),
    models=(LoadedModel("openai/whisper-large-v3", "ab" * 32),),
)

CONFIG = EffectiveConfig(
    components=(RECOGNISER,),
    log_level="info",
    api_keys_required=True,
    request_log=False,
    insecure_options=("insecure_evidence",),
    evidence_from="insecure",
)

MEASURED: dict[str, Any] = {"insecure_options": (), "evidence_from": "configfs"}
"""What `statement_with` takes for an engine on a machine that is measured."""

STATEMENT = Statement(
    version=1,
    instance="3f2a",
    ohttp_keys=(PQ_KEY.config, KEY.config),
    not_after=int(NOW.timestamp()) + 3600,
    max_chunk_bytes=65_536,
    max_request_bytes=27_262_976,
    models=(ModelIdentity("openai/whisper-large-v3", ("whisper-1",), "ab" * 32),),
    config=CONFIG,
    tls_spki_sha256="cd" * 32,
    receipt_key=bytes(range(32)),
    extensions={"note": [1, {"deep": None}]},
)

STRICT_POLICY = Policy(
    machine={EvidenceKind.INSECURE: InsecurePolicy(accept=True)},
    statement=StatementPolicy(
        require_api_keys=True, require_pq=True, arguments={RECOGNISER.name: RECOGNISER.arguments}
    ),
    models=(ModelPolicy("openai/whisper-large-v3", ("ab" * 32,)),),
    digest="ef" * 32,
)
"""Leaves nothing to skip but what cannot be checked without a TEE."""

DEFAULT_POLICY = replace(STRICT_POLICY, statement=StatementPolicy(), models=())


def hearing(**changes: Any) -> dict[str, Any]:
    """What `statement_with` takes for a recogniser with other members."""
    return {"components": (replace(RECOGNISER, **changes),)}


def statement_with(**changes: Any) -> Statement:
    """The sample with members of the statement, or of its `config`, changed."""
    of_config = {name: changes.pop(name) for name in tuple(changes) if hasattr(CONFIG, name)}
    return replace(STATEMENT, config=replace(CONFIG, **of_config), **changes)


def attested(
    statement: Statement | StatementBytes = STATEMENT,
    nonces: tuple[Nonce, ...] = (NONCE,),
    devices: DeviceEvidence = NO_DEVICES,
) -> AttestationDocument:
    """A document with development evidence that binds what it is given."""
    data = encode_statement(statement) if isinstance(statement, Statement) else statement
    report = INSECURE_PREFIX + report_data(nonces, data, devices)
    return AttestationDocument(nonces, data, Evidence(EvidenceKind.INSECURE, report), devices)
