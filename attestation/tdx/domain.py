"""Is this the trust domain that the policy describes? What the TDX module measured and reports of it.

The registers, by who fills them: MRTD by the module, with the firmware as it is loaded; RTMR0 by the firmware, with
its configuration; RTMR1 and RTMR2 by the firmware and the boot loader, with kernel, command line and initial file
system; RTMR3 by the software that then runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attestation.tdx.abi import TdReport
from attestation.tdx.policy import ZERO, TdxPolicy
from attestation.types import Check, among, failed, judged, passed, skipped

_DEBUG: Final = 1


def domain_checks(report: TdReport, policy: TdxPolicy) -> Iterator[Check]:
    """One line for each thing that the policy may ask of a domain."""
    yield judged(
        "tdx module",
        not any(report.mr_signer_seam) and not any(report.seam_attributes),
        "Intel's TDX module, in production",
        f"a TDX module signed by {report.mr_signer_seam.hex()}, with attributes {report.seam_attributes.hex()}",
    )
    yield among("tdx mr_seam", report.mr_seam.hex(), policy.mr_seam)
    attributes = report.td_attributes.hex()
    if report.td_attributes[0] & _DEBUG:
        yield failed("tdx td_attributes", f"{attributes}: a debug domain, whose memory the host can read and write")
    else:
        yield among("tdx td_attributes", attributes, policy.td_attributes)
    yield among("tdx xfam", report.xfam.hex(), policy.xfam)
    if report.mr_service_td is None:
        yield skipped("tdx mr_service_td", "a TD 1.0 report has none")
    else:
        yield among("tdx mr_service_td", report.mr_service_td.hex(), (ZERO,))
    yield among("tdx mr_config_id", report.mr_config_id.hex(), policy.mr_config_id)
    yield among("tdx mr_owner", report.mr_owner.hex(), policy.mr_owner)
    yield among("tdx mr_owner_config", report.mr_owner_config.hex(), policy.mr_owner_config)
    yield from _hardware(report, policy)
    yield from _code(report, policy)


def _hardware(report: TdReport, policy: TdxPolicy) -> Iterator[Check]:
    found = {"mr_td": report.mr_td.hex()}
    entries = [{"mr_td": profile.mr_td, "rtmr0": profile.rtmr0} for profile in policy.hardware]
    if not policy.allow_any_rtmr0:
        found["rtmr0"] = report.rtmr0.hex()
    yield _entry("tdx hardware", found, entries)
    if policy.allow_any_rtmr0:
        yield skipped("tdx rtmr0", f"the policy allows any; it is {report.rtmr0.hex()}")


def _code(report: TdReport, policy: TdxPolicy) -> Iterator[Check]:
    found = {"rtmr1": report.rtmr1.hex(), "rtmr2": report.rtmr2.hex()}
    entries = [{"rtmr1": release.rtmr1, "rtmr2": release.rtmr2, "rtmr3": release.rtmr3} for release in policy.code]
    if not policy.allow_any_rtmr3:
        found["rtmr3"] = report.rtmr3.hex()
    yield _entry("tdx code", found, entries)
    if policy.allow_any_rtmr3:
        yield skipped("tdx rtmr3", f"the policy allows any; it is {report.rtmr3.hex()}")


def _entry(name: str, found: Mapping[str, str], entries: Sequence[Mapping[str, str | None]]) -> Check:
    """Whether one entry has all of these registers."""
    for number, entry in enumerate(entries):
        if all(entry[register] == value for register, value in found.items()):
            return passed(name, f"entry {number} of the policy: {_told(found)}")
    foreign = {
        register: value for register, value in found.items() if all(entry[register] != value for entry in entries)
    }
    if foreign:
        return failed(name, f"values that no entry of the policy has: {_told(foreign)}")
    return failed(name, f"values of different entries of the policy: {_told(found)}")


def _told(registers: Mapping[str, str]) -> str:
    return ", ".join(f"{register} {value}" for register, value in registers.items())
