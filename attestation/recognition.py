"""What are these bytes? A report, a quote or the evidence of devices, bare, as vendors' tools leave them in files.

They may be binary or, as text, hexadecimal or base64. Evidence of devices is the JSON of `attestation.gpu.evidence`, or
the list that NVIDIA's tools write, whose further members (versions that the tool read) are passed over.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any

from attestation.errors import EvidenceError
from attestation.evidence import KINDS
from attestation.gpu.evidence import (
    MAX_DEVICE_EVIDENCE_BYTES,
    SWITCH_ARCHITECTURES,
    encode_devices,
    parse_answer,
    parse_devices,
)
from attestation.types import DeviceEvidence, Evidence
from core.program import strictjson

_SPDM_REQUEST = bytes.fromhex("11e0")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2})+")


def recognise(data: bytes) -> Evidence | DeviceEvidence:
    """Evidence of a machine or of devices, not authentic yet. Raises EvidenceError when it is neither."""
    text = data.strip()
    if text[:1] in (b"{", b"["):
        return _devices(text)
    for candidate in (data, *_decoded(text)):
        for kind, rules in KINDS.items():
            if rules.recognises(candidate):
                return Evidence(kind, candidate)
        if candidate.startswith(_SPDM_REQUEST):
            raise EvidenceError("the report of a GPU or switch alone: its certificates belong to it, in JSON")
    raise EvidenceError("neither a report or quote of a known kind, nor evidence of devices in JSON")


def _decoded(text: bytes) -> list[bytes]:
    joined = b"".join(text.split())
    if _HEX.fullmatch(joined):  # before base64, which could be made of the same characters
        return [bytes.fromhex(joined.decode())]
    try:
        return [binascii.a2b_base64(joined, strict_mode=True)]
    except binascii.Error:
        return []


def _devices(text: bytes) -> DeviceEvidence:
    try:
        value = strictjson.loads(text, max_bytes=MAX_DEVICE_EVIDENCE_BYTES)
    except ValueError as exc:
        raise EvidenceError(f"device evidence: {exc}") from exc
    if not isinstance(value, list):
        parse_devices(DeviceEvidence(text))
        return DeviceEvidence(text)
    answers = [parse_answer(_own_members(item)) for item in value]
    switches = [answer for answer in answers if answer.arch in SWITCH_ARCHITECTURES]
    return encode_devices([answer for answer in answers if answer not in switches], switches)


def _own_members(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise EvidenceError("device evidence: not a list of what devices answered")
    return {name: item.get(name) for name in ("arch", "nonce", "evidence", "certificate")}
