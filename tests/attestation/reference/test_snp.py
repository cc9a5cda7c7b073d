"""The table `[snp]` is written so that a policy with it accepts the guest, and every difference of another is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from attestation.policy import parse_policy
from attestation.reference.policy_text import Value, head
from attestation.reference.snp import SnpReference, contradictions, differences, table
from attestation.snp.abi import Product, parse_report
from attestation.snp.appraise import appraise
from attestation.snp.policy import SnpPolicy
from attestation.types import EvidenceKind
from tests.attestation.snp.forge import MEASUREMENT, ForgedAmd

HOST_DATA = bytes(range(32))
OTHER = "ab" * 48
ONE, FOUR = Value(MEASUREMENT.hex(), "1 vCPU, EPYC-v4"), Value(OTHER, "4 vCPUs, EPYC-v4")
GIVEN = Value(HOST_DATA.hex(), "initdata.toml, sha384")


def measured(amd: ForgedAmd, **fields: int | bytes) -> SnpReference:
    report = parse_report(amd.report(**{"host_data": HOST_DATA} | fields))
    return SnpReference((ONE, FOUR), (GIVEN,), report)


def policy_of(text: str) -> SnpPolicy:
    rules = parse_policy((head(["firmware: none"]) + text).encode()).machine[EvidenceKind.SNP]
    assert isinstance(rules, SnpPolicy)
    return rules


@pytest.mark.parametrize("product", Product)
def test_a_policy_that_is_written_accepts_the_guest_that_was_measured(product: Product) -> None:
    amd = ForgedAmd(product)
    reference = measured(amd)
    assert list(contradictions(reference)) == []
    rules = policy_of(table(reference))
    report = amd.report(host_data=HOST_DATA)
    appraisal = appraise(report, rules, amd.collateral(report), roots=amd.roots, now=amd.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert list(differences(rules, reference)) == []


def test_what_the_measured_guest_needs_beside_is_written_and_no_more() -> None:
    amd = ForgedAmd(Product.MILAN)
    plain = policy_of(table(measured(amd)))
    assert (plain.vmpl, plain.allow_smt, plain.allow_provisional_firmware) == (0, False, False)
    newer = bytes([4, 0, 0, 0, 0, 0, 24, 220])
    lent = policy_of(table(measured(amd, vmpl=1, policy=0x30000, current_tcb=newer)))
    assert (lent.vmpl, lent.allow_smt, lent.allow_provisional_firmware) == (1, True, True)


def test_every_value_has_its_origin_beside_it() -> None:
    text = table(measured(ForgedAmd(Product.TURIN)))
    for value in (ONE, FOUR, GIVEN):
        assert f'"{value.text}",  # {value.origin}' in text
    assert "Nobody verified its report" in text


def test_without_a_measured_guest_the_products_are_lacking_and_it_is_said() -> None:
    text = table(SnpReference((ONE,), (GIVEN,)))
    assert set(tomllib.loads(text)["snp"]) == {"measurements", "host_data"}
    assert "add [[snp.products]]" in text
    of_version_2 = parse_report(ForgedAmd(Product.MILAN).report(version=2, cpuid=b""))
    assert "add [[snp.products]]" in table(SnpReference((ONE,), measured=of_version_2))


def test_without_initdata_it_is_said_what_is_accepted() -> None:
    assert "every pod on this guest image is accepted" in table(SnpReference((ONE,)))


def test_a_measured_guest_of_other_files_or_initdata_is_told() -> None:
    amd = ForgedAmd(Product.MILAN)
    (measurement,) = contradictions(measured(amd, measurement=bytes(48)))
    assert measurement == f"the report has the measurement {'00' * 48}, which these files do not give"
    (host_data,) = contradictions(measured(amd, host_data=bytes(32)))
    assert "host data" in host_data
    assert list(contradictions(replace(measured(amd, host_data=bytes(32)), host_data=()))) == []


def test_every_difference_of_a_policy_is_told() -> None:
    reference = measured(ForgedAmd(Product.MILAN))
    rules = policy_of(table(reference))
    stale = replace(rules, measurements=(ONE.text, "cd" * 48), host_data=("ef" * 32,))
    assert list(differences(stale, reference)) == [
        f"snp.measurements names {'cd' * 48}, which these files do not give",
        f"snp.measurements does not name {FOUR.text} (4 vCPUs, EPYC-v4)",
        f"snp.host_data names {'ef' * 32}, which these files do not give",
        f"snp.host_data does not name {GIVEN.text} (initdata.toml, sha384)",
    ]
    (open_to_any,) = differences(replace(rules, host_data=None), reference)
    assert open_to_any.startswith("snp.host_data is not asked for, so that any would do; computed: ")
    (unknown,) = differences(rules, replace(reference, host_data=()))
    assert unknown == "snp.host_data is asked for, and no initdata was given to compare it with"
