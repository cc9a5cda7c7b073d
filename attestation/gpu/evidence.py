"""What did the devices of a machine answer? Device evidence, in the exact bytes that `report_data` commits to.

::

    {"version": 1,
     "gpus":     [{"arch": "HOPPER", "nonce": "<64 hex>", "evidence": "<base64>", "certificate": "<base64>"}, ...],
     "switches": [{"arch": "LS10",   "nonce": "<64 hex>", "evidence": "<base64>", "certificate": "<base64>"}, ...]}

`evidence` is an SPDM request with the response that the device signed, `certificate` the PEM text of its chain. An
element has the members that NVIDIA's own tools write and their attestation service takes, and no more: whatever else
they write (driver and VBIOS version) is said by the device itself, signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from attestation.errors import EvidenceError
from attestation.types import DeviceEvidence, NonceHex
from core.program import strictjson
from core.program.validation import STRICT, Base64, VersionOne, validate

MAX_GPUS: Final = 16
MAX_SWITCHES: Final = 8
MAX_ANSWER_BYTES: Final = 8192
"""Of a report, as of a chain: what NVML has room for. Real ones stay below 5000."""
MAX_DEVICE_EVIDENCE_BYTES: Final = 600_000


class Architecture(StrEnum):
    """The generation of a device, as NVIDIA's tools spell it."""

    HOPPER = "HOPPER"
    BLACKWELL = "BLACKWELL"
    LS10 = "LS10"
    """The NVSwitch between Hopper GPUs."""


Kind = Literal["gpu", "switch"]

GPU_ARCHITECTURES: Final = frozenset({Architecture.HOPPER, Architecture.BLACKWELL})
SWITCH_ARCHITECTURES: Final = frozenset({Architecture.LS10})


def _bounded(value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_ANSWER_BYTES:
        raise ValueError(f"must have 1 to {MAX_ANSWER_BYTES} bytes")
    return value


_Bytes = Annotated[Base64, AfterValidator(_bounded)]


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What one device answered, and what the machine says of it; nothing in it is verified yet.

    evidence: the SPDM request, then the signed response. certificate: the PEM chain, the device's own first.
    """

    __pydantic_config__ = STRICT

    arch: Architecture
    nonce: NonceHex
    evidence: _Bytes
    certificate: _Bytes


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a machine, in the order in which its driver counts them."""

    gpus: tuple[DeviceAnswer, ...]
    switches: tuple[DeviceAnswer, ...] = ()


def _of(architectures: frozenset[Architecture]) -> AfterValidator:
    def check(answers: tuple[DeviceAnswer, ...]) -> tuple[DeviceAnswer, ...]:
        if any(answer.arch not in architectures for answer in answers):
            raise ValueError(f"only {' and '.join(sorted(architectures))} may stand here")
        return answers

    return AfterValidator(check)


@dataclass(frozen=True, slots=True)
class _Members:
    __pydantic_config__ = STRICT

    version: VersionOne
    gpus: Annotated[tuple[DeviceAnswer, ...], Field(max_length=MAX_GPUS), _of(GPU_ARCHITECTURES)]
    switches: Annotated[tuple[DeviceAnswer, ...], Field(max_length=MAX_SWITCHES), _of(SWITCH_ARCHITECTURES)]


_MEMBERS = TypeAdapter(_Members)
_ANSWER = TypeAdapter(DeviceAnswer)


def parse_answer(members: Mapping[str, Any]) -> DeviceAnswer:
    """Read what one device answered, parsed JSON. Raises EvidenceError naming every fault."""
    try:
        return validate(_ANSWER, members)
    except ValueError as exc:
        raise EvidenceError(f"device evidence: {exc}") from exc


def encode_devices(gpus: Sequence[DeviceAnswer], switches: Sequence[DeviceAnswer] = ()) -> DeviceEvidence:
    """The bytes to carry and hash. Raises EvidenceError when a verifier could not read them back."""
    data = DeviceEvidence(_MEMBERS.dump_json(_Members(1, tuple(gpus), tuple(switches))))
    parse_devices(data)
    return data


def parse_devices(data: DeviceEvidence) -> Devices:
    """Read device evidence. Raises EvidenceError naming every fault."""
    try:
        members = validate(_MEMBERS, strictjson.loads(data, max_bytes=MAX_DEVICE_EVIDENCE_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"device evidence: {exc}") from exc
    if not members.gpus and not members.switches:
        raise EvidenceError("device evidence: it holds no device; a machine without any has no device evidence")
    return Devices(members.gpus, members.switches)
