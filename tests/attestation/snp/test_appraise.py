"""Each rule of the policy refuses by itself, and what it does not ask is skipped, never passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.snp.abi import GuestPolicy, PlatformInfo, Product, SigningKey, Tcb, parse_report
from attestation.snp.appraise import CHECKS, appraise, needs
from attestation.snp.chain import CHAIN_CHECKS, VEK_CHECKS
from attestation.snp.collateral import vek_key
from attestation.snp.policy import GuestRequirement, PlatformRequirement, ProductPolicy, SnpPolicy
from attestation.types import Appraisal, CheckStatus, CollateralKind
from tests.attestation.snp.forge import CSP_ID, MEASUREMENT, ForgedAmd, write
from tests.attestation.snp.judge import AMD, detail, failed, judge, replaced, skipped

TURIN = ForgedAmd(Product.TURIN)
LENT = ForgedAmd(Product.GENOA, SigningKey.VLEK)
MIN_TCB = AMD.policy().products[0].min_tcb

NEWER, OLDER = bytes([4, 0, 0, 0, 0, 0, 24, 220]), bytes([4, 0, 0, 0, 0, 0, 24, 218])
HOST_DATA, ID_KEY, AUTHOR_KEY, FAMILY, IMAGE = b"\x11" * 32, b"\x22" * 48, b"\x33" * 48, b"\x44" * 16, b"\x55" * 16

FULL_FIELDS: Mapping[str, int | bytes] = {
    "policy": 0x20000 | sum(GuestPolicy[bit.name] for bit in GuestRequirement),
    "platform_info": sum(PlatformInfo[bit.name] for bit in PlatformRequirement),
    "host_data": HOST_DATA,
    "id_key_digest": ID_KEY,
    "author_key_digest": AUTHOR_KEY,
    "key_info": 1,
    "family_id": FAMILY,
    "image_id": IMAGE,
}
FULL_RULES: Mapping[str, Any] = {
    "products": (ProductPolicy(Product.TURIN, TURIN.policy().products[0].min_tcb, 0x3F),),
    "require_guest_policy": tuple(GuestRequirement),
    "require_platform": tuple(PlatformRequirement),
    "host_data": (HOST_DATA.hex(),),
    "id_key_digests": (ID_KEY.hex(),),
    "author_key_digests": (AUTHOR_KEY.hex(),),
    "family_ids": (FAMILY.hex(),),
    "image_ids": (IMAGE.hex(),),
    "chip_ids": (TURIN.chip_id.hex(),),
}


@dataclass(frozen=True)
class _Case:
    """Fields of a good report, or rules of the policy that accepts it, that fail one check."""

    check: str
    fields: Mapping[str, int | bytes] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    amd: ForgedAmd = AMD

    def judge(self) -> Appraisal:
        return judge(self.amd, self.amd.report(**self.fields), self.amd.policy(**self.rules))


def _asked(check: str, *, rules: Mapping[str, Any] | None = None, **fields: int | bytes) -> _Case:
    """A fault under a policy that asks for everything."""
    return _Case(check, {**FULL_FIELDS, **fields}, {**FULL_RULES, **(rules or {})}, TURIN)


def _products(**levels: int) -> dict[str, Any]:
    return {"products": (ProductPolicy(Product.MILAN, replace(MIN_TCB, **levels)),)}


CASES = {
    "a version that is not known": _Case("snp version", {"version": 6}, amd=TURIN),
    "a version beyond the policy's": _Case("snp version", rules={"max_report_version": 2}),
    "a masked chip key": _Case("snp signing key", {"key_info": 2}),
    "a chip that is not named": _Case("snp signing key", {"chip_id": bytes(64)}),
    "reported firmware that is too old": _Case("snp tcb", {"reported_tcb": OLDER}),
    "firmware at launch that was too old": _Case("snp tcb", {"launch_tcb": OLDER}),
    "an old bootloader": _Case("snp tcb", rules=_products(bootloader=5)),
    "an old TEE": _Case("snp tcb", rules=_products(tee=1)),
    "old SNP firmware": _Case("snp tcb", rules=_products(snp=25)),
    "old microcode": _Case("snp tcb", rules=_products(microcode=220)),
    "old first mutable code": _Case(
        "snp tcb",
        rules={"products": (ProductPolicy(Product.TURIN, Tcb(1, 1, 4, 81, fmc=2)),)},
        amd=TURIN,
    ),
    "reported firmware that can be rolled back": _Case("snp tcb order", {"reported_tcb": NEWER}),
    "firmware older than what is committed": _Case(
        "snp tcb order", {"committed_tcb": NEWER}, {"allow_provisional_firmware": True}
    ),
    "an ABI older than what is committed": _Case(
        "snp tcb order", {"current_version": bytes([28, 55, 1])}, {"allow_provisional_firmware": True}
    ),
    "old firmware": _Case("snp firmware", rules={"min_firmware": "1.56"}),
    "very old firmware": _Case(
        "snp firmware", {"current_version": bytes([255, 54, 1]), "committed_version": bytes([255, 54, 1])}
    ),
    "provisional firmware": _Case("snp provisional", {"current_version": bytes([30, 55, 1])}),
    "provisional parts of the firmware": _Case("snp provisional", {"current_tcb": NEWER}),
    "a mitigation that is missing at launch": _asked("snp mitigations", launch_mitigations=0x1F),
    "a mitigation that is missing now": _asked("snp mitigations", current_mitigations=0x3E),
    "mitigations that an old report cannot name": _Case(
        "snp mitigations", rules={"products": (ProductPolicy(Product.MILAN, MIN_TCB, 1),)}
    ),
    "debugging": _Case("snp guest policy", {"policy": 0x20000 | 1 << 19}),
    "migration by an agent": _Case("snp guest policy", {"policy": 0x20000 | 1 << 18}),
    "a core shared with others": _Case("snp guest policy", {"policy": 0x20000 | 1 << 16}),
    "memory beyond the processor's": _Case("snp guest policy", {"policy": 0x20000 | 1 << 21}),
    **{
        f"a guest that does not ask for {bit}": _Case("snp guest policy", rules={"require_guest_policy": (bit,)})
        for bit in GuestRequirement
    },
    "a platform without the alias check": _Case("snp platform", {"platform_info": 0xFFDF}),
    **{
        f"a platform without {bit}": _Case("snp platform", {"platform_info": 0}, {"require_platform": (bit,)})
        for bit in PlatformRequirement
    },
    "a migration agent": _Case("snp migration", {"report_id_ma": bytes(31) + b"\x01"}),
    "no migration agent, in an unknown way": _Case("snp migration", {"report_id_ma": bytes(32)}),
    "another privilege level": _Case("snp vmpl", {"vmpl": 1}),
    "the highest privilege level": _Case("snp vmpl", rules={"vmpl": 2}),
    "a privilege level that is none": _Case("snp vmpl", {"vmpl": 2**32 - 1}),
    "other software": _Case("snp measurement", {"measurement": bytes(48)}),
    "other host data": _asked("snp host data", host_data=bytes(32)),
    "another ID key": _asked("snp id key", id_key_digest=bytes(48)),
    "another author": _asked("snp author key", author_key_digest=bytes(48)),
    "an ID key without an author": _asked("snp author key", key_info=0),
    "another family": _asked("snp family id", family_id=bytes(16)),
    "another image": _asked("snp image id", image_id=bytes(16)),
    "another chip": _asked("snp chip", rules={"chip_ids": ("00" * 64,)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_fault_fails_exactly_its_check(case: _Case) -> None:
    assert failed(case.judge()) == [case.check]


def test_every_check_has_a_case() -> None:
    elsewhere = {"snp report", *VEK_CHECKS, *CHAIN_CHECKS}
    assert {case.check for case in CASES.values()} == set(CHECKS) - elsewhere


def test_a_machine_that_meets_every_rule_is_accepted() -> None:
    appraisal = _asked("none").judge()
    assert {check.status for check in appraisal.checks} == {CheckStatus.PASS}


def test_what_the_policy_does_not_ask_is_skipped_and_not_passed() -> None:
    appraisal = judge(policy=AMD.policy(require_platform=(), allow_provisional_firmware=True))
    assert skipped(appraisal) == [
        "snp provisional",
        "snp mitigations",
        "snp platform",
        "snp host data",
        "snp id key",
        "snp author key",
        "snp family id",
        "snp image id",
        "snp chip",
    ]
    told = {check.detail.partition(" not ask")[0] for check in appraisal.checks if check.status is CheckStatus.SKIP}
    assert told == {"the policy does"}


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({"version": 6}, {"max_report_version": 6}),
        ({"policy": 0x20000 | 1 << 16}, {"allow_smt": True}),
        ({"policy": 0x20000 | 1 << 21}, {"allow_cxl": True}),
        ({"policy": 0x20000 | 0x3137}, {}),  # the ABI version that the guest asks for
        ({"current_version": bytes([0, 0, 2])}, {"allow_provisional_firmware": True}),
        ({"platform_info": 2**64 - 1}, {}),  # bits that are not known
        ({"vmpl": 3}, {"vmpl": 3}),
        ({"measurement": b"\x01" * 48}, {"measurements": ("00" * 48, "01" * 48)}),
        ({"host_data": HOST_DATA, "id_key_digest": ID_KEY, "guest_svn": 9}, {}),
        ({"current_version": bytes([0, 55, 1]), "committed_version": bytes([0, 55, 1])}, {}),
    ],
)
def test_what_the_policy_allows_is_accepted(fields: dict[str, int | bytes], rules: dict[str, Any]) -> None:
    assert failed(_Case("none", fields, rules).judge()) == []


@pytest.mark.parametrize("amd", [AMD, TURIN], ids=["64 bytes used", "8 bytes used"])
def test_a_chip_is_named_as_it_is_told(amd: ForgedAmd) -> None:
    told = detail(judge(amd), "snp chip").removeprefix("the policy does not ask; it is ")
    assert len(told) == 2 * amd.product.hardware_id_bytes
    for chip_id in (told, amd.chip_id.hex()):
        assert detail(judge(amd, policy=amd.policy(chip_ids=("00" * 8, chip_id))), "snp chip") == told
    assert failed(judge(amd, policy=amd.policy(chip_ids=(told[:14] + "00",)))) == ["snp chip"]


@pytest.mark.parametrize("rules", [{}, {"allow_smt": True, "allow_cxl": True, "allow_provisional_firmware": True}])
def test_debugging_cannot_be_allowed(rules: dict[str, Any]) -> None:
    appraisal = _Case("", {"policy": 0x20000 | 1 << 19}, rules).judge()
    assert "debug" in detail(appraisal, "snp guest policy")
    assert not any("debug" in rule for rule in SnpPolicy.__slots__)


def test_a_lent_key_needs_a_policy_that_names_its_cloud() -> None:
    appraisal = judge(LENT, policy=LENT.policy(csp_ids=None))
    assert failed(appraisal) == ["snp signing key", "snp vek identity"]
    assert failed(judge(LENT, policy=LENT.policy(csp_ids=("elsewhere", CSP_ID)))) == []
    assert failed(judge(LENT, LENT.report(chip_id=bytes(64)))) == []  # a cloud may hide which chip it is


def test_firmware_that_cannot_be_rolled_back_far_enough_is_too_old() -> None:
    # What the host reports may be newer than what it can return to.
    fields: dict[str, int | bytes] = {"committed_tcb": OLDER, "current_tcb": NEWER}
    appraisal = _Case("", fields, {"allow_provisional_firmware": True}).judge()
    assert failed(appraisal) == ["snp tcb", "snp tcb order"]
    assert detail(appraisal, "snp tcb") == "committed: microcode 218 < 219"


def test_every_fault_is_told() -> None:
    fields: dict[str, int | bytes] = {
        "policy": 0x20000 | 0b1001101 << 16,
        "vmpl": 1,
        "measurement": bytes(48),
        "report_id_ma": bytes(32),
    }
    appraisal = judge(report=AMD.report(**fields), now=AMD.now.replace(year=2060))
    assert failed(appraisal) == [
        "snp validity",
        "snp revocation",
        "snp guest policy",
        "snp migration",
        "snp vmpl",
        "snp measurement",
    ]
    told = detail(appraisal, "snp guest policy")
    assert all(word in told for word in ("debug", "migration agent", "SMT"))


@pytest.mark.parametrize("report", [b"", b"junk", AMD.report()[:-1], AMD.report() + b"\x00", bytes(1184)])
def test_a_report_that_cannot_be_read_fails_the_first_check_and_skips_the_others(report: bytes) -> None:
    appraisal = judge(report=report, collateral={})
    assert failed(appraisal) == ["snp report"]
    assert skipped(appraisal) == list(CHECKS[1:])
    assert (appraisal.reported, appraisal.claims, appraisal.valid_until) == (None, {}, None)


def test_report_data_is_handed_on_and_not_judged() -> None:
    data = bytes(range(64))
    assert judge(report=AMD.report(data)).reported == data


def test_every_byte_of_a_report_matters() -> None:
    report = AMD.report()
    collateral, policy, roots = AMD.collateral(report), AMD.policy(), AMD.roots
    for place in range(len(report)):
        changed = bytearray(report)
        changed[place] ^= 1 << place % 8
        assert failed(appraise(bytes(changed), policy, collateral, roots=roots, now=AMD.now)), f"byte {place:#x}"


def test_claims_are_those_of_the_machine_and_not_of_the_moment() -> None:
    claims = judge(report=AMD.report(b"\x01" * 64)).claims
    assert claims == judge(report=AMD.report(b"\x02" * 64, report_id=b"\x03" * 32)).claims
    assert claims["product"] == "Milan"
    assert claims["measurement"] == MEASUREMENT.hex()
    assert claims["chip_id"] == AMD.chip_id.hex()
    assert claims["reported_tcb"] == "bootloader 4, tee 0, snp 24, microcode 219"
    assert claims["firmware"] == "1.55.29"
    assert judge(LENT).claims["csp_id"] == CSP_ID


def test_the_claims_of_a_report_without_a_product_say_so() -> None:
    assert judge(report=AMD.report(version=2), collateral={}).claims["product"] == "unknown"


def test_all_that_is_needed_is_named_at_once_when_the_report_names_its_product() -> None:
    for amd in (AMD, TURIN, LENT):
        report = amd.report()
        assert needs(report, amd.policy(), {}) == tuple(amd.collateral(report))
        assert needs(report, amd.policy(), amd.collateral(report)) == tuple(amd.collateral(report))


def test_an_old_report_needs_its_vek_first() -> None:
    report = AMD.report(version=2)
    collateral = AMD.collateral(report)
    vek = vek_key(parse_report(report))
    assert needs(report, AMD.policy(), {}) == (vek,)
    assert needs(report, AMD.policy(), {vek: b"junk"}) == (vek,)
    assert needs(report, AMD.policy(), {vek: collateral[vek]}) == tuple(collateral)


def test_nothing_is_needed_for_a_report_that_is_refused_anyway() -> None:
    assert needs(b"junk", AMD.policy(), {}) == ()
    assert needs(AMD.report(), TURIN.policy(), {}) == ()
    assert needs(AMD.report(chip_id=bytes(64)), AMD.policy(), {}) == ()
    assert needs(LENT.report(), LENT.policy(csp_ids=None), {}) == ()


def test_what_is_needed_is_all_that_is_looked_up() -> None:
    report = AMD.report()
    needed = needs(report, AMD.policy(), {})
    everything = AMD.collateral(report)
    assert failed(judge(report=report, collateral={key: everything[key] for key in needed})) == []


@settings(max_examples=50)
@given(st.data())
def test_whatever_is_at_hand_an_appraisal_does_not_raise(data: st.DataObject) -> None:
    report = AMD.report()
    changes = {
        name: data.draw(st.binary(max_size=size))
        for name, size in data.draw(st.lists(st.sampled_from(_SIZES), max_size=3))
    }
    changed = write(report, changes)
    collateral = AMD.collateral(report)
    for kind in (CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN, CollateralKind.SNP_CRL):
        collateral = replaced(collateral, kind, data.draw(st.none() | st.binary(max_size=40)))
    assert failed(judge(report=changed, collateral=collateral))


_SIZES = [("version", 1), ("policy", 8), ("key_info", 4), ("cpuid", 3), ("chip_id", 64), ("current_tcb", 8)]
