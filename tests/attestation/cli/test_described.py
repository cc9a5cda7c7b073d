"""Evidence is read for people without being judged, and what cannot be read says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.cli.described import describe, describe_devices
from attestation.gpu.evidence import encode_devices
from attestation.insecure import parse_report
from attestation.snp.abi import Product, SigningKey
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, Nonce
from tests.attestation import machines
from tests.attestation.gpu.forge import Machine
from tests.attestation.samples import attested
from tests.attestation.snp.forge import CSP_ID, ForgedAmd


def test_an_snp_report_tells_what_a_policy_wants_to_know() -> None:
    described = describe(machines.snp_document())
    assert described["product"] == "Genoa"
    assert described["measurement"] in machines.AMD.policy().measurements
    assert described["chip id"] == machines.AMD.chip_id.hex()
    assert described["guest policy"] == "0x20000: nothing"
    assert described["platform info"] == "0x20: alias_check"
    for tcb in ("reported TCB", "committed TCB", "launch TCB", "current TCB"):
        assert described[tcb] == "bootloader 9, tee 0, snp 23, microcode 72"
    assert described["firmware"] == "1.55.29, committed 1.55.29"
    assert (described["signing key"], described["cloud (CSP id)"]) == ("vcek", "none")
    assert not any("<" in value or "|" in value for value in described.values())  # no words of Python


def test_a_key_that_was_lent_tells_its_cloud() -> None:
    lent = ForgedAmd(Product.GENOA, SigningKey.VLEK)
    report = lent.report()
    evidence = Evidence(EvidenceKind.SNP, report)
    described = describe(replace(attested(), evidence=evidence, collateral=lent.collateral(report)))
    assert (described["signing key"], described["cloud (CSP id)"]) == ("vlek", CSP_ID)


def test_devices_tell_what_a_policy_names_them_by() -> None:
    machine = Machine.build(1, 2)
    described = describe(machines.snp_document(gpus=machine))
    assert described["GPU 0"] == (
        f"HOPPER, driver 590.12, VBIOS 96.00.A5.00.01, mode ppcie, hardware id {machine.gpus[0].hardware_id}"
    )
    assert described["switch 1"].endswith(f"hardware id {machine.switches[1].hardware_id}")


def test_of_a_device_that_cannot_be_read_the_rest_is_told() -> None:
    nonce = Nonce(bytes(32))
    (good,), _ = Machine.build(1).answers(nonce)
    devices = encode_devices([replace(good, evidence=b"junk"), replace(good, certificate=b"junk")])
    described = describe_devices(devices)
    assert described["GPU 0"].startswith("its report cannot be read, hardware id ")
    assert described["GPU 1"].endswith("mode spt, its chain cannot be read")


def test_a_tdx_quote_tells_its_registers() -> None:
    described = describe(machines.tdx_document())
    assert {"mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam"} <= set(described)
    assert "report_data" not in described
    assert described["td_attributes"] == "0000001000000000 (sept_ve_disable)"
    assert described["fmspc"] == "b0c06f000000"
    assert described["ppid"] in (machines.INTEL.policy().ppids or ())
    assert described["platform_instance_id"] in (machines.INTEL.policy().platform_instance_ids or ())


def test_of_a_quote_whose_chain_cannot_be_read_the_domain_is_told() -> None:
    broken = machines.INTEL.quote(pck_chain="junk")
    described = describe(replace(attested(), evidence=Evidence(EvidenceKind.TDX, broken)))
    assert described["platform"].startswith("cannot be read")
    assert "mr_td" in described


def test_every_device_has_its_line() -> None:
    described = describe(machines.snp_document(gpus=Machine.build(8, 4)))
    assert [name for name in described if name.startswith(("GPU", "switch"))] == [
        *(f"GPU {number}" for number in range(8)),
        *(f"switch {number}" for number in range(4)),
    ]


def test_development_evidence_has_nothing_to_tell_but_what_it_is_bound_to() -> None:
    document = attested()
    assert describe(document) == {"report data": parse_report(document.evidence.report).hex()}


@pytest.mark.parametrize("kind", [EvidenceKind.SNP, EvidenceKind.TDX])
def test_what_cannot_be_read_is_said_and_not_raised(kind: EvidenceKind) -> None:
    broken = replace(attested(), evidence=Evidence(kind, b"junk"), device_evidence=DeviceEvidence(b"junk"))
    described = describe(broken)
    assert described["report"].startswith("cannot be read")
    assert described["devices"].startswith("cannot be read")
