"""The table `[snp]` is read from TOML, strict by default, and refused when it is empty or contradicts itself."""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from pydantic import TypeAdapter

from attestation.snp import policy as module
from attestation.snp.abi import FirmwareVersion, GuestPolicy, PlatformInfo, Product, Tcb
from attestation.snp.policy import GuestRequirement, PlatformRequirement, ProductPolicy, SnpPolicy
from core.program.validation import validate

_POLICY = TypeAdapter(SnpPolicy)
MEASUREMENT = "ab" * 48
MILAN = {"name": "Milan", "min_tcb": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}}
TURIN = {"name": "Turin", "min_tcb": {"fmc": 1, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 81}}
MINIMAL: dict[str, Any] = {"measurements": [MEASUREMENT], "products": [MILAN]}


def _parse(**changes: Any) -> SnpPolicy:
    return validate(_POLICY, MINIMAL | changes)


def _documented() -> str:
    assert module.__doc__ is not None
    _, _, rest = module.__doc__.partition("::\n\n")
    table, _, _ = rest.partition("\nDebugging")
    return textwrap.dedent(table).replace("<96 hex>", MEASUREMENT)


def test_the_documented_table_is_the_defaults() -> None:
    policy = validate(_POLICY, tomllib.loads(_documented())["snp"])
    milan = ProductPolicy(Product.MILAN, Tcb(bootloader=4, tee=0, snp=24, microcode=219))
    turin = ProductPolicy(Product.TURIN, Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=81), 0x3F)
    assert policy == SnpPolicy((MEASUREMENT,), (milan, turin))


def test_every_rule_is_documented() -> None:
    lines = [line.removeprefix("# ").partition(" =")[0] for line in _documented().splitlines()]
    missing = {rule.name for rule in fields(SnpPolicy)} - {"products"} - set(lines)
    assert missing == set()


def test_the_defaults_are_strict() -> None:
    policy = _parse()
    assert (policy.vmpl, policy.csp_ids, policy.max_report_version) == (0, None, 5)
    assert not policy.allow_smt
    assert not policy.allow_cxl
    assert not policy.allow_provisional_firmware
    assert not policy.allow_missing_crl
    assert policy.allow_stale_crl_s == 0
    assert policy.require_platform == (PlatformRequirement.ALIAS_CHECK,)
    assert policy.oldest_firmware == FirmwareVersion(1, 55)


def test_every_rule_can_be_written() -> None:
    policy = _parse(
        products=[{**MILAN, "required_mitigations": 2**64 - 1}, TURIN],
        vmpl=3,
        csp_ids=["a cloud"],
        chip_ids=["00" * 64],
        host_data=["00" * 32],
        id_key_digests=["00" * 48],
        author_key_digests=["00" * 48],
        family_ids=["00" * 16],
        image_ids=["00" * 16],
        allow_smt=True,
        allow_cxl=True,
        require_guest_policy=[str(bit) for bit in GuestRequirement],
        require_platform=[str(bit) for bit in PlatformRequirement],
        min_firmware="1.58",
        allow_provisional_firmware=True,
        max_report_version=6,
        allow_stale_crl_s=60,
        max_crl_age_s=3600,
    )
    assert policy.products[0].required_mitigations == 2**64 - 1
    assert policy.require_guest_policy == tuple(GuestRequirement)
    assert policy.oldest_firmware == FirmwareVersion(1, 58)


def test_the_rules_of_a_product_are_found_by_its_name() -> None:
    policy = _parse(products=[MILAN, TURIN])
    turin = policy.product(Product.TURIN)
    assert turin is not None
    assert turin.min_tcb.fmc == 1
    assert policy.product(Product.GENOA) is None


def test_every_requirement_is_a_bit_of_the_report() -> None:
    assert all(bit.name in GuestPolicy.__members__ for bit in GuestRequirement)
    assert all(bit.name in PlatformInfo.__members__ for bit in PlatformRequirement)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no measurement": ({"measurements": []}, "measurements"),
    "a short measurement": ({"measurements": ["ab" * 32]}, "measurements.0"),
    "a measurement in capitals": ({"measurements": ["AB" * 48]}, "measurements.0"),
    "a measurement and a line break": ({"measurements": [MEASUREMENT + "\n"]}, "measurements.0"),
    "no product": ({"products": []}, "products"),
    "a product that is not known": ({"products": [{**MILAN, "name": "Venice"}]}, "products.0.name"),
    "a product without firmware": ({"products": [{"name": "Milan"}]}, "min_tcb"),
    "half of a TCB": ({"products": [{**MILAN, "min_tcb": {"snp": 1}}]}, "bootloader"),
    "a patch level beyond a byte": (
        {"products": [{**MILAN, "min_tcb": {**MILAN["min_tcb"], "snp": 256}}]},  # type: ignore[dict-item]
        "snp",
    ),
    "a product twice": ({"products": [MILAN, TURIN, MILAN]}, "Milan is named twice"),
    "first mutable code on Milan": (
        {"products": [{**MILAN, "min_tcb": TURIN["min_tcb"]}]},
        "min_tcb of Milan must not name fmc",
    ),
    "no first mutable code on Turin": (
        {"products": [{**TURIN, "min_tcb": MILAN["min_tcb"]}]},
        "min_tcb of Turin must name fmc",
    ),
    "mitigations beyond 64 bits": ({"products": [{**MILAN, "required_mitigations": 2**64}]}, "required_mitigations"),
    "a privilege level that is none": ({"vmpl": 4}, "vmpl"),
    "a list of no clouds": ({"csp_ids": []}, "csp_ids"),
    "a list of no chips": ({"chip_ids": []}, "chip_ids"),
    "half of a chip id": ({"chip_ids": ["00" * 32]}, r"^chip_ids\.0: must be 16 or 128 lower-case hexadecimal digits$"),
    "a list of no host data": ({"host_data": []}, "host_data"),
    "a list of no ID keys": ({"id_key_digests": []}, "id_key_digests"),
    "a list of no authors": ({"author_key_digests": []}, "author_key_digests"),
    "a family without a key": ({"family_ids": ["00" * 16]}, "name id_key_digests"),
    "an image without a key": ({"image_ids": ["00" * 16]}, "name id_key_digests"),
    "a word for a truth": ({"allow_smt": "yes"}, "allow_smt"),
    "a requirement that is none": ({"require_guest_policy": ["debug"]}, "require_guest_policy.0"),
    "a platform requirement that is none": ({"require_platform": ["badram"]}, "require_platform.0"),
    "firmware without a minor version": ({"min_firmware": "1"}, "min_firmware"),
    "firmware as a number": ({"min_firmware": 1.55}, "min_firmware"),
    "a report version that never was": ({"max_report_version": 1}, "max_report_version"),
    "a grace before the end": ({"allow_stale_crl_s": -1}, "allow_stale_crl_s"),
    "an age for a list that may be missing": ({"allow_missing_crl": True, "max_crl_age_s": 1}, "ask for nothing"),
    "a grace for a list that may be missing": ({"allow_missing_crl": True, "allow_stale_crl_s": 1}, "ask for nothing"),
    "debugging": ({"allow_debug": True}, "allow_debug: unknown member"),
    "another word": ({"measurement": MEASUREMENT}, "measurement: unknown member"),
}


@pytest.mark.parametrize(("changes", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_a_faulty_table_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _parse(**changes)


def test_every_contradiction_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="twice") as refusal:
        _parse(
            products=[MILAN, MILAN, {**TURIN, "min_tcb": MILAN["min_tcb"]}],
            image_ids=["00" * 16],
            allow_missing_crl=True,
            max_crl_age_s=1,
        )
    assert str(refusal.value).count(";") == 3


def test_an_empty_policy_cannot_be_built_in_code_either() -> None:
    with pytest.raises(ValueError, match="no measurement is named; no product is named"):
        SnpPolicy((), ())
