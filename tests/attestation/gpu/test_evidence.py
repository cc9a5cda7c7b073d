"""Device evidence is read strictly, within bounds, and is written only in a form that can be read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu.evidence import (
    MAX_ANSWER_BYTES,
    MAX_DEVICE_EVIDENCE_BYTES,
    MAX_GPUS,
    MAX_SWITCHES,
    Architecture,
    DeviceAnswer,
    Devices,
    encode_devices,
    parse_devices,
)
from attestation.types import DeviceEvidence, Nonce

NONCE = Nonce(bytes(range(32)))
GPU = DeviceAnswer(Architecture.HOPPER, NONCE, b"report", b"chain")
SWITCH = DeviceAnswer(Architecture.LS10, NONCE, b"report of a switch", b"chain of a switch")


def _document(**members: Any) -> dict[str, Any]:
    element = {"arch": "HOPPER", "nonce": NONCE.hex(), "evidence": "cmVwb3J0", "certificate": "Y2hhaW4="}
    return {"version": 1, "gpus": [element], "switches": [], **members}


def _parse(document: object) -> Devices:
    return parse_devices(DeviceEvidence(json.dumps(document).encode()))


def test_the_form_is_this_and_no_other() -> None:
    assert encode_devices([GPU]) == json.dumps(_document(), separators=(",", ":")).encode()
    assert _parse(_document()) == Devices((GPU,))


def test_what_is_written_can_be_read() -> None:
    assert parse_devices(encode_devices([GPU, GPU], [SWITCH])) == Devices((GPU, GPU), (SWITCH,))
    assert parse_devices(encode_devices([], [SWITCH])) == Devices((), (SWITCH,))


def test_as_many_devices_as_possible_fit() -> None:
    largest = DeviceAnswer(Architecture.BLACKWELL, NONCE, bytes(MAX_ANSWER_BYTES), bytes(MAX_ANSWER_BYTES))
    switch = DeviceAnswer(Architecture.LS10, NONCE, bytes(MAX_ANSWER_BYTES), bytes(MAX_ANSWER_BYTES))
    data = encode_devices([largest] * MAX_GPUS, [switch] * MAX_SWITCHES)
    assert len(data) <= MAX_DEVICE_EVIDENCE_BYTES
    assert len(parse_devices(data).gpus) == MAX_GPUS


def _element(**members: Any) -> dict[str, Any]:
    return _document(gpus=[{**_document()["gpus"][0], **members}])


def _without(member: str) -> dict[str, Any]:
    element = _document()["gpus"][0]
    del element[member]
    return _document(gpus=[element])


REFUSED: dict[str, tuple[object, str]] = {
    "no object": ([], "Input should be an object"),
    "no version": ({"gpus": [], "switches": []}, "version: Field required"),
    "another version": (_document(version=2), "version"),
    "a version of another type": (_document(version=True), "version"),
    "no list of GPUs": ({"version": 1, "switches": []}, "gpus: Field required"),
    "no list of switches": ({"version": 1, "gpus": []}, "switches: Field required"),
    "an unknown member": (_document(extra=1), "extra: unknown member"),
    "no device": (_document(gpus=[]), "holds no device"),
    "too many GPUs": (_document(gpus=_document()["gpus"] * (MAX_GPUS + 1)), "gpus: .*at most 16"),
    "too many switches": (
        _document(switches=[{**_document()["gpus"][0], "arch": "LS10"}] * (MAX_SWITCHES + 1)),
        "switches: .*at most 8",
    ),
    "a switch among the GPUs": (_element(arch="LS10"), "gpus: only BLACKWELL and HOPPER may stand here"),
    "a GPU among the switches": (_document(switches=_document()["gpus"]), "switches: only LS10 may stand here"),
    "an unknown architecture": (_element(arch="AMPERE"), "gpus.0.arch"),
    "an architecture in lower case": (_element(arch="hopper"), "gpus.0.arch"),
    "an unknown member of a device": (_element(driver_version="590.12"), "gpus.0.driver_version: unknown member"),
    "a short nonce": (_element(nonce="00" * 31), "gpus.0.nonce: a nonce is 64"),
    "a nonce in upper case": (_element(nonce="AB" * 32), "gpus.0.nonce: a nonce is 64"),
    "no base64": (_element(evidence="?"), "gpus.0.evidence: not base64"),
    "base64 that is not canonical": (_element(evidence="YR=="), "gpus.0.evidence: not canonical base64"),
    "an empty report": (_element(evidence=""), "gpus.0.evidence: must have 1 to 8192"),
    "an empty chain": (_element(certificate=""), "gpus.0.certificate: must have 1 to 8192"),
    "a report that is too long": (
        _element(evidence=base64.b64encode(bytes(MAX_ANSWER_BYTES + 1)).decode()),
        "gpus.0.evidence: must have 1 to 8192",
    ),
    **{f"no {member}": (_without(member), f"gpus.0.{member}: Field required") for member in _document()["gpus"][0]},
}


@pytest.mark.parametrize(("document", "reason"), REFUSED.values(), ids=REFUSED)
def test_another_form_is_refused(document: object, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        _parse(document)


def test_a_member_named_twice_is_refused() -> None:
    data = encode_devices([GPU]).replace(b'"version":1', b'"version":1,"version":1')
    with pytest.raises(EvidenceError, match="twice"):
        parse_devices(DeviceEvidence(data))


def test_evidence_beyond_the_bound_is_not_parsed() -> None:
    with pytest.raises(EvidenceError, match="longer than 600000 bytes"):
        parse_devices(DeviceEvidence(encode_devices([GPU]) + b" " * MAX_DEVICE_EVIDENCE_BYTES))


UNWRITABLE: dict[str, Callable[[], DeviceEvidence]] = {
    "no device": lambda: encode_devices([]),
    "a report that is too long": lambda: encode_devices([DeviceAnswer(Architecture.HOPPER, NONCE, bytes(8193), b"c")]),
    "a switch among the GPUs": lambda: encode_devices([SWITCH]),
    "too many": lambda: encode_devices([GPU] * (MAX_GPUS + 1)),
}


@pytest.mark.parametrize("encode", UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_could_not_be_read_is_not_written(encode: Callable[[], DeviceEvidence]) -> None:
    with pytest.raises(EvidenceError):
        encode()


def test_every_truncation_is_refused() -> None:
    data = encode_devices([GPU], [SWITCH])
    for length in range(len(data)):
        with pytest.raises(EvidenceError):
            parse_devices(DeviceEvidence(data[:length]))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
@settings(max_examples=100)
def test_whatever_comes_is_refused(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    with pytest.raises(EvidenceError):
        parse_devices(DeviceEvidence(raw))


_answers = st.builds(
    DeviceAnswer,
    st.sampled_from([Architecture.HOPPER, Architecture.BLACKWELL]),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=1, max_size=64),
    st.binary(min_size=1, max_size=64),
)


@given(st.lists(_answers, min_size=1, max_size=MAX_GPUS))
@settings(max_examples=50)
def test_any_devices_survive_the_way(gpus: list[DeviceAnswer]) -> None:
    assert parse_devices(encode_devices(gpus)) == Devices(tuple(gpus))
