"""Which reference values does an SEV-SNP guest have by its files? The table `[snp]` of a policy, written or compared.

What files do not tell, a machine does: its product, and how new its firmware is. That is taken from one report, where
there is one, which must have what the files give; nobody verified it, and a comment says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attestation.reference.policy_text import Value, array, comment, unlike
from attestation.snp.abi import GuestPolicy, SnpReport, Tcb
from attestation.snp.policy import SnpPolicy


@dataclass(frozen=True, slots=True)
class SnpReference:
    """What was computed. host_data: empty without initdata. measured: a report of one such guest."""

    measurements: tuple[Value, ...]
    host_data: tuple[Value, ...] = ()
    measured: SnpReport | None = None


def contradictions(reference: SnpReference) -> Iterator[str]:
    """How the measured guest is not the one that the files describe."""
    report = reference.measured
    if report is None:
        return
    if report.measurement.hex() not in {value.text for value in reference.measurements}:
        yield f"the report has the measurement {report.measurement.hex()}, which these files do not give"
    if reference.host_data and report.host_data.hex() not in {value.text for value in reference.host_data}:
        yield f"the report has the host data {report.host_data.hex()}, which the initdata does not give"


def differences(policy: SnpPolicy, reference: SnpReference) -> Iterator[str]:
    """How the table of a policy differs from what was computed; what was not computed is not looked at."""
    yield from unlike("snp.measurements", policy.measurements, reference.measurements, all_of_them=True)
    if reference.host_data:
        yield from unlike("snp.host_data", policy.host_data, reference.host_data, all_of_them=True)
    elif policy.host_data is not None:
        yield "snp.host_data is asked for, and no initdata was given to compare it with"


def table(reference: SnpReference) -> str:
    """The table of a policy. Without a measured guest it lacks its products, and cannot be used before it has some."""
    text = "\n" + comment(
        "What was launched: one digest for each number of vCPUs and model of CPU. Another file, vCPU, CPU model, SEV "
        "feature or VMM gives another digest; memory, disks, devices and host data do not."
    )
    text += "[snp]\n" + array("measurements", reference.measurements)
    if reference.host_data:
        text += comment("What the host was given to give to the guest: the digest of its initdata.")
        text += array("host_data", reference.host_data)
    else:
        text += comment(
            "No initdata was given: without `host_data` every pod on this guest image is accepted, whatever it runs."
        )
    return text + "".join(_of_machine(reference.measured))


def _of_machine(report: SnpReport | None) -> Iterator[str]:
    if report is None or report.product is None:
        yield comment(
            "Which processors, and firmware how new, no file tells: add [[snp.products]] with name and min_tcb, as "
            "`sottovoce-attest collect` in such a guest prints them, or compute this with --measured."
        )
        return
    if report.vmpl:
        yield f"vmpl = {report.vmpl}  # of the measured guest\n"
    if report.policy & GuestPolicy.SMT:
        yield "allow_smt = true  # the measured guest may share its cores with others\n"
    if report.committed_tcb != report.current_tcb or report.committed_version != report.current_version:
        yield "allow_provisional_firmware = true  # of the measured machine can be rolled back\n"
    yield "\n" + comment(
        "The measured machine. Nobody verified its report: `sottovoce-attest inspect` does. A lower TCB accepts older "
        "firmware, a higher one shuts out what has not been updated."
    )
    yield f'[[snp.products]]\nname = "{report.product}"\nmin_tcb = {_tcb(report.reported_tcb)}\n'


def _tcb(tcb: Tcb) -> str:
    parts = {name: getattr(tcb, name) for name in ("fmc", "bootloader", "tee", "snp", "microcode")}
    return f"{{ {', '.join(f'{name} = {level}' for name, level in parts.items() if level is not None)} }}"
