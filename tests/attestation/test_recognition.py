"""A bare report, quote or device evidence is known in whatever form a tool left it, and nothing else is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.evidence import KINDS
from attestation.gpu.evidence import parse_devices
from attestation.insecure import InsecureAttester
from attestation.recognition import recognise
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, Nonce, ReportData
from tests.attestation import machines
from tests.attestation.gpu.forge import Machine
from tests.vectors import vector

NONCE = Nonce(bytes(32))
REPORTS = {EvidenceKind.SNP: machines.AMD.report(), EvidenceKind.TDX: machines.INTEL.quote()}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "binary": bytes,
    "hexadecimal": lambda data: data.hex().encode(),
    "hexadecimal in capitals": lambda data: data.hex().upper().encode() + b"\n",
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_is_known_in_every_form(kind: EvidenceKind, form: str) -> None:
    assert recognise(FORMS[form](REPORTS[kind])) == Evidence(kind, REPORTS[kind])


async def test_development_evidence_is_known_as_such() -> None:
    evidence = await InsecureAttester().collect(ReportData(bytes(64)))
    assert recognise(evidence.report).kind == EvidenceKind.INSECURE  # type: ignore[union-attr]


def test_every_kind_knows_its_own_reports_and_no_others() -> None:
    for kind, report in REPORTS.items():
        assert [other for other, rules in KINDS.items() if rules.recognises(report)] == [kind]


def test_padding_behind_a_quote_does_not_hide_it() -> None:
    padded = REPORTS[EvidenceKind.TDX] + bytes(3065)
    assert recognise(padded) == Evidence(EvidenceKind.TDX, padded)


def test_evidence_of_devices_is_known_as_engines_carry_it() -> None:
    devices = Machine.build(2, 1).answer(NONCE)
    assert recognise(devices) == devices


def test_evidence_of_devices_is_known_as_nvidias_tools_write_it() -> None:
    gpus, switches = Machine.build(2, 1).answers(NONCE)
    listed = [
        {
            "arch": answer.arch,
            "nonce": answer.nonce.hex(),
            "evidence": base64.b64encode(answer.evidence).decode(),
            "certificate": base64.b64encode(answer.certificate).decode(),
            "driver_version": "590.12",
            "version": "1.0",
        }
        for answer in (*gpus, *switches)
    ]
    found = recognise(json.dumps(listed).encode())
    assert not isinstance(found, Evidence)
    assert (parse_devices(found).gpus, parse_devices(found).switches) == (tuple(gpus), tuple(switches))


@pytest.mark.parametrize("name", ["8xH100_590_12", "4xLS10"])
def test_what_nvidias_tools_wrote_is_read(name: str) -> None:
    found = recognise(vector(f"nvidia/nvtrust_ppcie_{name}_evidence.json"))
    devices = parse_devices(DeviceEvidence(found))  # type: ignore[arg-type]
    assert (len(devices.gpus), len(devices.switches)) == ((8, 0) if "H100" in name else (0, 4))


_UNKNOWN = {
    "nothing": (b"", "neither a report or quote"),
    "words": (b"no report", "neither a report or quote"),
    "half a report": (REPORTS[EvidenceKind.SNP][:-1], "neither a report or quote"),
    "an empty object": (b"{}", "device evidence: "),
    "an empty list": (b"[]", "it holds no device"),
    "a list of numbers": (b"[1]", "not a list of what devices answered"),
    "a list of half a device": (b'[{"arch": "HOPPER"}]', "nonce: "),
    "no JSON": (b"[", "not JSON"),
    "a GPU's report alone": (b"11e001ff" + b"00" * 33, "its certificates belong to it"),
}


@pytest.mark.parametrize(("data", "fault"), _UNKNOWN.values(), ids=_UNKNOWN.keys())
def test_what_is_no_evidence_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        recognise(data)


@given(st.binary(max_size=200))
def test_nothing_does_more_than_be_refused(data: bytes) -> None:
    with suppress(EvidenceError):
        recognise(data)
