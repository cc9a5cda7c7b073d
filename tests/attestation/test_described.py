"""Evidence is read for people without being judged, and what cannot be read says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.described import describe
from attestation.types import DeviceEvidence, Evidence, EvidenceKind
from tests.attestation import machines
from tests.attestation.gpu.forge import Machine
from tests.attestation.samples import attested


def test_an_snp_report_tells_what_a_policy_wants_to_know() -> None:
    described = describe(machines.snp_document())
    assert described["product"] == "Genoa"
    assert described["measurement"] in machines.AMD.policy().measurements
    assert described["GPU 0"].startswith("driver ")


def test_a_tdx_quote_tells_its_registers() -> None:
    described = describe(machines.tdx_document())
    assert {"mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam"} <= set(described)
    assert "report_data" not in described


def test_every_device_has_its_line() -> None:
    described = describe(machines.snp_document(gpus=Machine.build(8, 4)))
    assert [name for name in described if name.startswith(("GPU", "switch"))] == [
        *(f"GPU {number}" for number in range(8)),
        *(f"switch {number}" for number in range(4)),
    ]


def test_development_evidence_has_nothing_to_tell() -> None:
    assert describe(attested()) == {}


@pytest.mark.parametrize("kind", [EvidenceKind.SNP, EvidenceKind.TDX])
def test_what_cannot_be_read_is_said_and_not_raised(kind: EvidenceKind) -> None:
    broken = replace(attested(), evidence=Evidence(kind, b"junk"), device_evidence=DeviceEvidence(b"junk"))
    described = describe(broken)
    assert described["report"].startswith("cannot be read")
    assert described["devices"].startswith("cannot be read")
