"""Which reference values does a TDX guest have by its files? The table `[tdx]` of a policy, written or compared.

Files give MRTD, RTMR1 and RTMR2 in the few ways in which hosts and firmware are known to measure them; every one names
the same files and nothing else, so that a policy may name them all. RTMR0 depends on memory, processors and devices,
and no file tells it: it is taken from one quote of a machine of that shape, which must have what the files give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attestation.reference.direct_boot import CodeCandidate
from attestation.reference.policy_text import Value, array, comment, entry, unlike
from attestation.tdx.abi import TdReport
from attestation.tdx.policy import DEFAULT_TD_ATTRIBUTES, DEFAULT_XFAM, ZERO, TdxPolicy


@dataclass(frozen=True, slots=True)
class TdxReference:
    """What was computed. mr_td, code: candidates. mr_config_id: empty without initdata. measured: of one such guest."""

    mr_td: tuple[Value, ...]
    code: tuple[CodeCandidate, ...]
    mr_config_id: tuple[Value, ...] = ()
    measured: TdReport | None = None

    @property
    def hardware_in_force(self) -> tuple[Value, ...]:
        """The candidates for MRTD that the measured guest leaves."""
        measured = self.measured
        return tuple(value for value in self.mr_td if measured is None or value.text == measured.mr_td.hex())

    @property
    def code_in_force(self) -> tuple[CodeCandidate, ...]:
        """The candidates for RTMR1 and RTMR2 that the measured guest leaves."""
        measured = self.measured
        return tuple(
            one for one in self.code if measured is None or (one.rtmr1, one.rtmr2) == (measured.rtmr1, measured.rtmr2)
        )


def contradictions(reference: TdxReference) -> Iterator[str]:
    """How the measured guest is not the one that the files describe."""
    quote = reference.measured
    if quote is None:
        return
    if not reference.hardware_in_force:
        yield f"the quote has the MRTD {quote.mr_td.hex()}, which this firmware does not give"
    if not reference.code_in_force:
        yield (
            f"the quote has RTMR1 {quote.rtmr1.hex()} and RTMR2 {quote.rtmr2.hex()}, which kernel, command line and "
            "initrd do not give in any way that is known"
        )
    if reference.mr_config_id and quote.mr_config_id.hex() not in {value.text for value in reference.mr_config_id}:
        yield f"the quote has the MRCONFIGID {quote.mr_config_id.hex()}, which the initdata does not give"


def differences(policy: TdxPolicy, reference: TdxReference) -> Iterator[str]:
    """How the table of a policy differs from what was computed; what was not computed is not looked at."""
    named = dict.fromkeys(profile.mr_td for profile in policy.hardware)
    yield from unlike("tdx.hardware.mr_td", named, reference.hardware_in_force, all_of_them=False)
    pairs = dict.fromkeys(f"{release.rtmr1} {release.rtmr2}" for release in policy.code)
    computed = [Value(f"{one.rtmr1.hex()} {one.rtmr2.hex()}", one.how) for one in reference.code_in_force]
    yield from unlike("tdx.code (rtmr1, rtmr2)", pairs, computed, all_of_them=False)
    if reference.mr_config_id:
        yield from unlike("tdx.mr_config_id", policy.mr_config_id, reference.mr_config_id, all_of_them=True)
    elif policy.mr_config_id != (ZERO,):
        yield "tdx.mr_config_id is named, and no initdata was given to compare it with"
    if (quote := reference.measured) is not None and not policy.allow_any_rtmr0:
        of_machine = [Value(quote.rtmr0.hex(), "of the measured machine")]
        shapes = [profile.rtmr0 for profile in policy.hardware if profile.rtmr0 and profile.mr_td == quote.mr_td.hex()]
        yield from unlike("tdx.hardware.rtmr0", shapes, of_machine, all_of_them=True)


def table(reference: TdxReference, *, allow_any_rtmr0: bool = False) -> str:
    """The table of a policy. Without a measured guest it lacks RTMR0, and cannot be used before that is added."""
    text = "\n[tdx]\n"
    if reference.mr_config_id:
        text += comment("What the host was given to give to the guest: the digest of its initdata.")
        text += array("mr_config_id", reference.mr_config_id)
    else:
        text += comment("No initdata was given: `mr_config_id` stays zero, which a pod with initdata does not have.")
    if allow_any_rtmr0:
        text += comment("DANGER: whatever ACPI tables and boot variables the host makes up are accepted.")
        text += "allow_any_rtmr0 = true\n"
    text += "".join(_machine_rules(reference.measured))
    text += "".join(_hardware(value, reference.measured, allow_any_rtmr0) for value in reference.hardware_in_force)
    for one in reference.code_in_force:
        text += entry("tdx.code", {"rtmr1": one.rtmr1.hex(), "rtmr2": one.rtmr2.hex()}, f"Measured as {one.how}.")
    if len(reference.code_in_force) > 1:
        text += "\n" + comment(
            "Each of these names the same kernel, command line and initrd. Which way a machine has, its first boot "
            "tells: compute this with --measured, or take the others out by hand."
        )
    return text


def _machine_rules(quote: TdReport | None) -> Iterator[str]:
    if quote is None:
        return
    for key, found, default in (
        ("td_attributes", quote.td_attributes.hex(), DEFAULT_TD_ATTRIBUTES),
        ("xfam", quote.xfam.hex(), DEFAULT_XFAM),
    ):
        if found != default:
            yield f'{key} = ["{found}"]  # of the measured guest\n'


def _hardware(mr_td: Value, quote: TdReport | None, allow_any_rtmr0: bool) -> str:
    values, origin = {"mr_td": mr_td.text}, f"Of the firmware: {mr_td.origin}."
    if allow_any_rtmr0:
        return entry("tdx.hardware", values, origin)
    if quote is None:
        lacking = comment(
            "rtmr0 is lacking: it depends on memory, vCPUs, devices and QEMU, and takes one boot of a machine of this "
            "shape: `sottovoce-attest collect --out FILE` there, and --measured FILE here."
        )
        return entry("tdx.hardware", values, origin) + lacking
    return entry("tdx.hardware", values | {"rtmr0": quote.rtmr0.hex()}, f"{origin} RTMR0 of the measured machine.")
