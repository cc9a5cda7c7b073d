"""What must a TDX machine prove? Reference values as frozen data: the table `[tdx]` of a policy.

::

    [[tdx.hardware]]                  # one or more: what a machine of one shape measures; all of an entry must match
    mr_td = "<96 hex>"                # the firmware, TDVF
    rtmr0 = "<96 hex>"                # its configuration: ACPI tables, memory map, boot variables

    [[tdx.code]]                      # one or more: what one release of the image measures; all of an entry must match
    rtmr1 = "<96 hex>"                # boot loader and kernel
    rtmr2 = "<96 hex>"                # command line and initial file system
    rtmr3 = "<96 hex>"                # what was measured at run time; zero, which is nothing, by default

    [tdx]                             # every line is optional; these are the defaults
    allow_any_rtmr0 = false
    allow_any_rtmr3 = false
    # mr_seam = ["<96 hex>"]          # releases of the TDX module; without this line Intel's TCB info decides
    td_attributes = ["0000001000000000"]
    xfam = ["e702060000000000"]
    mr_config_id = ["<96 zeros>"]
    mr_owner = ["<96 zeros>"]
    mr_owner_config = ["<96 zeros>"]
    tcb_statuses = ["UpToDate"]
    advisories = []
    out_of_date_grace_s = 0
    # min_tcb_evaluation_data_number = 18
    # max_collateral_age_s = 604800
    collateral_grace_s = 0
    require_static_platform = false
    require_uncached_keys = false
    require_smt_off = false
    require_memory_integrity = false
    # platform_instance_ids = ["<32 hex>"]
    # ppids = ["<32 hex>"]

Measurements stand in pairs, not in a list for each register: a list each would also accept the kernel of one release
with the command line of another, which nobody ever built or tested. They are split in two because MRTD and RTMR0
depend on the machine, and RTMR1 to RTMR3 on the software.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from core.program.validation import STRICT, Hex

Hex8 = Annotated[str, Hex(16)]
Hex16 = Annotated[str, Hex(32)]
Register = Annotated[str, Hex(96)]
Registers = Annotated[tuple[Register, ...], Field(min_length=1)]
# `$` ends the text here, a final newline included: pydantic's patterns are those of Rust's regex crate.
Advisory = Annotated[str, StringConstraints(pattern=r"^INTEL-[A-Z]{2,8}-[0-9]{1,8}$")]
Seconds = Annotated[int, Field(ge=0, le=10 * 365 * 86_400)]

ZERO: Final = "00" * 48

DEFAULT_TD_ATTRIBUTES: Final = "0000001000000000"
DEFAULT_XFAM: Final = "e702060000000000"

_DEBUG: Final = 1 << 0
_SEPT_VE_DISABLE: Final = 1 << 28
_MIGRATABLE: Final = 1 << 29
_PKS: Final = 1 << 30
_PERFMON: Final = 1 << 63
_ATTRIBUTES: Final = {
    _DEBUG: "debug",
    _SEPT_VE_DISABLE: "sept_ve_disable",
    _MIGRATABLE: "migratable",
    _PKS: "pks",
    _PERFMON: "perfmon",
}


class TcbStatus(StrEnum):
    """What Intel's TCB info says of a platform. `Revoked` is missing: no policy can accept it."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


NEEDS_ADVISORIES: Final = frozenset(
    {
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    }
)
"""Acceptable only while every advisory behind them is one that the policy names."""

NEEDS_GRACE: Final = frozenset(
    {
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.TD_RELAUNCH_ADVISED,
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    }
)
"""Acceptable only for a time, counted from the date of the TCB level."""


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """What a machine of one shape measures before it boots.

    rtmr0: may be left out only under `allow_any_rtmr0`.
    """

    __pydantic_config__ = STRICT

    mr_td: Register
    rtmr0: Register | None = None


@dataclass(frozen=True, slots=True)
class CodeRelease:
    """What one release of the image measures.

    rtmr1 and rtmr2 are all that tells our software from any other, so that no option leaves them out.
    rtmr3: what that software measures into it; zero when it measures nothing.
    """

    __pydantic_config__ = STRICT

    rtmr1: Register
    rtmr2: Register
    rtmr3: Register = ZERO


@dataclass(frozen=True, slots=True)
class TdxPolicy:
    """Reference values for TDX machines.

    allow_any_rtmr0: accept whatever ACPI tables and boot variables the host made up. The kernel runs code that ACPI
        tables carry, so this is safe only with a kernel that refuses to.
    allow_any_rtmr3: accept whatever was measured at run time; only software that RTMR1 and RTMR2 measured writes there.
    td_attributes: bits 28 (no #VE on private pages) set and nothing else; PKS (30) and PERFMON (63) can be added, and
        a debug, profiling, migration or reserved bit never.
    xfam: the extended state that the domain may use. The default is that of common kernels on these processors.
    mr_config_id, mr_owner, mr_owner_config: what the host may say of the configuration; zero when it says nothing.
    tcb_statuses: Intel's verdicts that are accepted, of the platform (at launch and now) and of its quoting enclave.
    advisories: the security advisories that a status other than UpToDate may rest on.
    out_of_date_grace_s: how long after its date a TCB level that is out of date is still accepted.
    min_tcb_evaluation_data_number: the lower one of TCB info and QE identity must reach it; rises with Intel's
        TCB recoveries, and so refuses collateral that is in force but from before one.
    max_collateral_age_s: since the oldest of TCB info, QE identity and PCK CRL was issued. The root CRL, issued about
        once a year, does not count.
    collateral_grace_s: how long after its `nextUpdate` collateral is still accepted, for a site that cannot fetch it.
    require_static_platform, require_uncached_keys, require_smt_off: flags in the PCK certificate. Off by default,
        because servers for TDX have all three the other way. Where one is required, it must be there and say no.
    require_memory_integrity: cryptographic integrity of memory, as the PCK certificate says (SGX type 2).
    platform_instance_ids, ppids: the machines that are accepted, by ids in their PCK certificate.

    The service TD must be none, and the TDX module Intel's, in production (MRSIGNERSEAM and SEAM attributes zero).
    Neither has an option, since the library that verifies quotes has none.
    Raises ValueError naming every contradiction.
    """

    __pydantic_config__ = STRICT

    hardware: Annotated[tuple[HardwareProfile, ...], Field(min_length=1)]
    code: Annotated[tuple[CodeRelease, ...], Field(min_length=1)]
    allow_any_rtmr0: bool = False
    allow_any_rtmr3: bool = False
    mr_seam: Registers | None = None
    td_attributes: Annotated[tuple[Hex8, ...], Field(min_length=1)] = (DEFAULT_TD_ATTRIBUTES,)
    xfam: Annotated[tuple[Hex8, ...], Field(min_length=1)] = (DEFAULT_XFAM,)
    mr_config_id: Registers = (ZERO,)
    mr_owner: Registers = (ZERO,)
    mr_owner_config: Registers = (ZERO,)
    tcb_statuses: Annotated[tuple[TcbStatus, ...], Field(min_length=1)] = (TcbStatus.UP_TO_DATE,)
    advisories: tuple[Advisory, ...] = ()
    out_of_date_grace_s: Seconds = 0
    min_tcb_evaluation_data_number: Annotated[int, Field(ge=1)] | None = None
    max_collateral_age_s: Annotated[Seconds, Field(ge=1)] | None = None
    collateral_grace_s: Seconds = 0
    require_static_platform: bool = False
    require_uncached_keys: bool = False
    require_smt_off: bool = False
    require_memory_integrity: bool = False
    platform_instance_ids: Annotated[tuple[Hex16, ...], Field(min_length=1)] | None = None
    ppids: Annotated[tuple[Hex16, ...], Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if faults := tuple(_faults(self)):
            raise ValueError("; ".join(faults))


def _bits(attributes: str) -> int:
    return int.from_bytes(bytes.fromhex(attributes), "little")


def attribute_names(attributes: str) -> tuple[str, ...]:
    """The bits of TD_ATTRIBUTES, given as a policy spells them, by name; those without one by their number."""
    bits = _bits(attributes)
    return tuple(_ATTRIBUTES.get(1 << bit, f"bit {bit}") for bit in range(64) if bits >> bit & 1)


def _faults(policy: TdxPolicy) -> Iterator[str]:
    for field in fields(policy):
        if getattr(policy, field.name) == () and field.name not in ("advisories", "tcb_statuses"):
            yield f"{field.name} is empty, so that nothing could be accepted"
    for value in policy.td_attributes:
        if _bits(value) & ~(_PKS | _PERFMON) != _SEPT_VE_DISABLE:
            yield f"td_attributes {value} lacks SEPT_VE_DISABLE, or has a debug, migration or reserved bit"
    yield from _measurement_faults(policy)
    yield from _tcb_faults(policy)


def _measurement_faults(policy: TdxPolicy) -> Iterator[str]:
    for number, profile in enumerate(policy.hardware):
        if profile.rtmr0 is None and not policy.allow_any_rtmr0:
            yield f"hardware.{number} names no rtmr0, which only allow_any_rtmr0 permits"
        if profile.rtmr0 is not None and policy.allow_any_rtmr0:
            yield f"hardware.{number} names an rtmr0 that allow_any_rtmr0 would ignore"
        if ZERO in (profile.mr_td, profile.rtmr0):
            yield f"hardware.{number} has a register of zeros, in which nothing was measured"
    for number, release in enumerate(policy.code):
        if release.rtmr3 != ZERO and policy.allow_any_rtmr3:
            yield f"code.{number} names an rtmr3 that allow_any_rtmr3 would ignore"
        if ZERO in (release.rtmr1, release.rtmr2):
            yield f"code.{number} has a register of zeros, in which nothing was measured"


def _tcb_faults(policy: TdxPolicy) -> Iterator[str]:
    if TcbStatus.UP_TO_DATE not in policy.tcb_statuses:
        yield "tcb_statuses leaves out UpToDate, which a quoting enclave should have"
    hardening = sorted(NEEDS_ADVISORIES.intersection(policy.tcb_statuses))
    ageing = sorted(NEEDS_GRACE.intersection(policy.tcb_statuses))
    if hardening and not policy.advisories:
        yield f"{', '.join(hardening)} among tcb_statuses needs advisories"
    if policy.advisories and not hardening:
        yield "advisories are named, but no status among tcb_statuses rests on them"
    if ageing and not policy.out_of_date_grace_s:
        yield f"{', '.join(ageing)} among tcb_statuses needs out_of_date_grace_s"
    if policy.out_of_date_grace_s and not ageing:
        yield "out_of_date_grace_s is given, but no status among tcb_statuses is out of date"
