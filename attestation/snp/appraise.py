"""Is an SEV-SNP guest acceptable? Report, certificates, policy and time in; one line for each check out.

1. report     it can be read, and is of a version that is known (or that the policy lets in)
2. key        signed by a chip's own key, or by one lent to a cloud that the policy names
3. authentic  `attestation.snp.chain`: the lines of `VEK_CHECKS` and `CHAIN_CHECKS`
4. firmware   no older than the policy asks for: what was reported, what cannot be rolled back, what the guest was
              launched on; in order; final; with the mitigations asked for
5. guest      launched without debugging and migration, and as the policy asks; on a platform as it asks
6. software   the privilege level, the measurement, and what the host and the owner of the ID block added

Left out: `report_data`, which `attestation.verification` compares with what it computed itself; the ABI version in the
guest policy, which the firmware enforced at launch; `guest_svn`, which says nothing beside a listed measurement; and
`report_id`, which is another one at each launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from attestation.collateral.roots import Roots
from attestation.errors import EvidenceError
from attestation.snp.abi import GuestPolicy, PlatformInfo, SigningKey, SnpReport, parse_report
from attestation.snp.chain import CHAIN_CHECKS, VEK_CHECKS, check_authenticity, valid_until, verdict
from attestation.snp.collateral import Endorsements, chain_key, collateral_of, crl_key, look_up, vek_key
from attestation.snp.policy import ProductPolicy, SnpPolicy
from attestation.types import Appraisal, Check, Collateral, CollateralKey, among, failed, judged, passed, skipped

__all__ = ["CHECKS", "appraise", "collateral_of", "needs"]

CHECKS: Final = (
    "snp report",
    "snp version",
    "snp signing key",
    *VEK_CHECKS,
    *CHAIN_CHECKS,
    "snp tcb",
    "snp tcb order",
    "snp firmware",
    "snp provisional",
    "snp mitigations",
    "snp guest policy",
    "snp platform",
    "snp migration",
    "snp vmpl",
    "snp measurement",
    "snp host data",
    "snp id key",
    "snp author key",
    "snp family id",
    "snp image id",
    "snp chip",
)
"""The lines of every appraisal, in order."""

_NO_MIGRATION_AGENT: Final = b"\xff" * 32


def appraise(report: bytes, policy: SnpPolicy, collateral: Collateral, *, roots: Roots, now: datetime) -> Appraisal:
    """Judge a report and the machine that it speaks of. Never raises for what it is given as evidence.

    now: an aware datetime.
    """
    try:
        parsed = parse_report(report)
    except EvidenceError as exc:
        rest = (skipped(name, "the report cannot be read") for name in CHECKS[1:])
        return Appraisal((failed(CHECKS[0], str(exc)), *rest), None)
    endorsements = look_up(parsed, collateral)
    product = policy.product(endorsements.product) if endorsements.product else None
    checks = (
        *_form(parsed, policy),
        *check_authenticity(parsed, endorsements, policy, roots=roots, now=now),
        *_firmware(parsed, policy, product),
        *_guest(parsed, policy),
        *_software(parsed, policy),
    )
    return Appraisal(checks, parsed.report_data, _claims(parsed, endorsements), valid_until(endorsements, policy))


def needs(report: bytes, policy: SnpPolicy, collateral: Collateral) -> tuple[CollateralKey, ...]:
    """The names that `appraise` will look up, given what is at hand: of a report of version 2 first that of its VEK.

    Nothing is needed for a report that the policy refuses by its product or its signing key.
    """
    try:
        parsed = parse_report(report)
    except EvidenceError:
        return ()
    product = look_up(parsed, collateral).product
    refused = product is not None and policy.product(product) is None
    if refused or any(_signing_key_faults(parsed, policy)):
        return ()
    key = parsed.signing_key
    return (vek_key(parsed), *((chain_key(key, product), crl_key(key, product)) if product else ()))


def _form(report: SnpReport, policy: SnpPolicy) -> Iterator[Check]:
    yield passed("snp report", "a report of the form that its version has")
    yield judged(
        "snp version",
        report.version <= policy.max_report_version,
        f"version {report.version}",
        f"version {report.version}; the policy accepts up to {policy.max_report_version}",
    )
    yield verdict("snp signing key", _signing_key_faults(report, policy), f"{report.signing_key}")


def _signing_key_faults(report: SnpReport, policy: SnpPolicy) -> Iterator[str]:
    if report.chip_key_masked:
        yield "the platform masks its chip key, so nothing of the report is signed"
    if report.signing_key is SigningKey.VCEK and not any(report.chip_id):
        yield "signed by a chip's own key, and the chip is not named"
    if report.signing_key is SigningKey.VLEK and policy.csp_ids is None:
        yield "signed by a key that AMD lent to a cloud; the policy names no cloud in csp_ids"


def _firmware(report: SnpReport, policy: SnpPolicy, product: ProductPolicy | None) -> Iterator[Check]:
    if product is None:
        yield skipped("snp tcb", "there is no product that the policy has rules for")
    else:
        yield verdict("snp tcb", _tcb_faults(report, product), f"no part older than {product.min_tcb}")
    yield verdict("snp tcb order", _order_faults(report), "reported <= committed <= current")
    yield judged(
        "snp firmware",
        report.committed_version >= policy.oldest_firmware,
        f"{report.committed_version} or newer",
        f"can be rolled back to {report.committed_version}; the policy asks for {policy.min_firmware}",
    )
    yield _provisional(report, policy)
    yield _mitigations(report, product)


def _tcb_faults(report: SnpReport, product: ProductPolicy) -> Iterator[str]:
    for name, tcb in (
        ("reported", report.reported_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
    ):
        if older := tcb.older_than(product.min_tcb):
            yield f"{name}: {', '.join(older)}"


def _order_faults(report: SnpReport) -> Iterator[str]:
    if older := report.committed_tcb.older_than(report.reported_tcb):
        yield f"committed is older than reported: {', '.join(older)}"
    if older := report.current_tcb.older_than(report.committed_tcb):
        yield f"current is older than committed: {', '.join(older)}"
    if report.current_version < report.committed_version:
        yield f"current version {report.current_version} is older than committed {report.committed_version}"


def _provisional(report: SnpReport, policy: SnpPolicy) -> Check:
    if policy.allow_provisional_firmware:
        return skipped("snp provisional", "the policy does not ask whether firmware can be rolled back")
    current, committed = (
        f"{report.current_version}, {report.current_tcb}",
        f"{report.committed_version}, {report.committed_tcb}",
    )
    return judged(
        "snp provisional",
        current == committed,
        "what runs cannot be rolled back",
        f"{current} runs and can be rolled back to {committed}",
    )


def _mitigations(report: SnpReport, product: ProductPolicy | None) -> Check:
    required = product.required_mitigations if product else 0
    missing = required & ~(report.launch_mitigations & report.current_mitigations)
    if not required:
        return skipped("snp mitigations", "the policy does not ask for mitigations")
    return judged(  # before version 5 a report names none
        "snp mitigations", not missing, f"{required:#x}, at launch and now", f"missing at launch or now: {missing:#x}"
    )


def _guest(report: SnpReport, policy: SnpPolicy) -> Iterator[Check]:
    yield verdict("snp guest policy", _guest_faults(report.policy, policy), f"{int(report.policy):#x}")
    missing = [bit for bit in policy.require_platform if PlatformInfo[bit.name] not in report.platform_info]
    if policy.require_platform:
        detail = f"{int(report.platform_info):#x}, with {', '.join(policy.require_platform)}"
        yield judged("snp platform", not missing, detail, f"not in force: {', '.join(missing)}")
    else:
        yield skipped("snp platform", f"the policy does not ask; in force: {int(report.platform_info):#x}")
    yield judged(
        "snp migration",
        report.report_id_ma == _NO_MIGRATION_AGENT,
        "the guest has no migration agent",
        "the guest has a migration agent, which could move it to another machine",
    )


def _guest_faults(bits: GuestPolicy, policy: SnpPolicy) -> Iterator[str]:
    if GuestPolicy.DEBUG in bits:
        yield "the host may debug the guest: it can read and change everything"
    if GuestPolicy.MIGRATE_MA in bits:
        yield "the guest may be given a migration agent"
    if GuestPolicy.SMT in bits and not policy.allow_smt:
        yield "the guest may share a core with others (SMT)"
    if GuestPolicy.CXL in bits and not policy.allow_cxl:
        yield "the guest may use memory beyond the processor's own (CXL)"
    if missing := [bit for bit in policy.require_guest_policy if GuestPolicy[bit.name] not in bits]:
        yield f"does not ask for: {', '.join(missing)}"


def _software(report: SnpReport, policy: SnpPolicy) -> Iterator[Check]:
    yield judged(
        "snp vmpl",
        report.vmpl == policy.vmpl,
        f"asked for from level {report.vmpl}",
        f"asked for from level {report.vmpl}; the policy names {policy.vmpl}",
    )
    yield among("snp measurement", report.measurement.hex(), policy.measurements)
    yield among("snp host data", report.host_data.hex(), policy.host_data)
    yield among("snp id key", report.id_key_digest.hex(), policy.id_key_digests)
    if policy.author_key_digests is not None and not report.author_key_enabled:
        yield failed("snp author key", "the key of the ID block was signed by no author")
    else:
        yield among("snp author key", report.author_key_digest.hex(), policy.author_key_digests)
    yield among("snp family id", report.family_id.hex(), policy.family_ids)
    yield among("snp image id", report.image_id.hex(), policy.image_ids)
    # Of the 64 bytes a chip may use eight, and the policy name those alone or all of them.
    used = 2 * len(report.hardware_id)
    chips = None if policy.chip_ids is None else {chip[:used] for chip in policy.chip_ids if not chip[used:].strip("0")}
    yield among("snp chip", report.hardware_id.hex(), chips)


def _claims(report: SnpReport, endorsements: Endorsements) -> Mapping[str, str]:
    claims = {
        "product": str(endorsements.product or "unknown"),
        "signing_key": str(report.signing_key),
        "chip_id": report.hardware_id.hex(),
        "reported_tcb": str(report.reported_tcb),
        "firmware": str(report.current_version),
        "report_version": str(report.version),
        "guest_policy": f"{int(report.policy):#x}",
        "platform_info": f"{int(report.platform_info):#x}",
        "vmpl": str(report.vmpl),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
    }
    vek = endorsements.vek.value
    return claims if vek is None or vek.csp_id is None else {**claims, "csp_id": vek.csp_id}
