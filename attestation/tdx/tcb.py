"""Is the platform below the domain one that the policy accepts? What Intel says of it, and its certificate.

A verdict rests on several levels: of the TCB that the domain was launched with, of the present one (TD 1.5 only) and
of the quoting enclave. Intel's own rules let a level pass that is worse than the verdict, such as a quoting enclave
that needs configuration below a platform that is up to date. Here every level must have a status that the policy
accepts, and so must the verdict. The one exception is what TDRelaunchAdvised says: the TCB at launch is out of date,
and the present one is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from attestation.tdx.chain import Flag, Pck, TcbClaims, TcbLevel
from attestation.tdx.policy import NEEDS_ADVISORIES, NEEDS_GRACE, TcbStatus, TdxPolicy
from attestation.types import Check, among, judged, skipped

_LAUNCH: Final = "platform at launch"
_RELAUNCH: Final = (TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED)
_WITH_INTEGRITY: Final = 2


def tcb_checks(claims: TcbClaims, policy: TdxPolicy, now: datetime) -> Iterator[Check]:
    """One line for each thing that the policy may ask of a platform."""
    levels = _levels(claims)
    yield _status(claims.tcb.status, levels, policy)
    yield _advisories(levels, policy)
    yield _dates(levels, policy, now)
    number, minimum = claims.tcb.eval_data_number, policy.min_tcb_evaluation_data_number
    yield _where_asked("tdx tcb evaluation", minimum is not None, number >= (minimum or 0), f"number {number}")
    yield from _pck_checks(claims.platform.pck, policy)


def _levels(claims: TcbClaims) -> dict[str, TcbLevel]:
    levels = {_LAUNCH: claims.platform.tcb_level, "quoting enclave": claims.qe.tcb_level}
    if claims.platform.current_tcb_level is not None:
        levels["platform now"] = claims.platform.current_tcb_level
    return levels


def _status(verdict: TcbStatus, levels: dict[str, TcbLevel], policy: TdxPolicy) -> Check:
    statuses = {"all in all": verdict} | {
        part: level.status for part, level in levels.items() if part != _LAUNCH or verdict not in _RELAUNCH
    }
    accepted = policy.tcb_statuses
    told = ", ".join(f"{part} {status}" for part, status in statuses.items())
    return judged(
        "tdx tcb status",
        all(status in accepted for status in statuses.values()),
        verdict,
        f"{told}; the policy accepts {', '.join(accepted)}",
    )


def _advisories(levels: dict[str, TcbLevel], policy: TdxPolicy) -> Check:
    name = "tdx tcb advisories"
    if NEEDS_ADVISORIES.isdisjoint(policy.tcb_statuses):
        return skipped(name, "the policy accepts no status that rests on advisories")
    # A level that is also out of date hides in its status that it rests on advisories: all but the newest are asked.
    resting = [level for level in levels.values() if level.status is not TcbStatus.UP_TO_DATE]
    if not resting:
        return skipped(name, "no status rests on advisories")
    found = sorted({advisory for level in resting for advisory in level.advisories})
    foreign = [advisory for advisory in found if advisory not in policy.advisories]
    return judged(
        name,
        not foreign,
        f"as the policy names them: {', '.join(found) or 'none'}",
        f"advisories that the policy does not name: {', '.join(foreign)}",
    )


def _dates(levels: dict[str, TcbLevel], policy: TdxPolicy, now: datetime) -> Check:
    name = "tdx tcb date"
    if NEEDS_GRACE.isdisjoint(policy.tcb_statuses):
        return skipped(name, "the policy accepts no TCB that is out of date")
    oldest = _oldest_out_of_date(levels)
    if oldest is None:
        return skipped(name, "nothing is out of date")
    return judged(
        name,
        now - oldest <= timedelta(seconds=policy.out_of_date_grace_s),
        f"out of date, of {oldest:%Y-%m-%d}, within the policy's grace",
        f"out of date, of {oldest:%Y-%m-%d}; the policy's grace is {policy.out_of_date_grace_s} s",
    )


def _oldest_out_of_date(levels: dict[str, TcbLevel]) -> datetime | None:
    return min((level.date for level in levels.values() if level.status in NEEDS_GRACE), default=None)


def out_of_date_since(claims: TcbClaims) -> datetime | None:
    """The date from which the policy's grace counts; None when nothing is out of date."""
    return _oldest_out_of_date(_levels(claims))


def _pck_checks(pck: Pck, policy: TdxPolicy) -> Iterator[Check]:
    # A flag that is not there is no answer.
    for name, flag, value, required in (
        ("tdx static platform", "dynamic_platform", pck.dynamic_platform, policy.require_static_platform),
        ("tdx uncached keys", "cached_keys", pck.cached_keys, policy.require_uncached_keys),
        ("tdx smt off", "smt_enabled", pck.smt_enabled, policy.require_smt_off),
    ):
        detail = f"the PCK certificate has {flag} {value.lower()}"
        yield _where_asked(name, required, value is Flag.FALSE, detail)
    detail = f"the PCK certificate has SGX type {pck.sgx_type}"
    yield _where_asked("tdx memory integrity", policy.require_memory_integrity, pck.sgx_type == _WITH_INTEGRITY, detail)
    instance = "none" if pck.platform_instance_id is None else pck.platform_instance_id.hex()
    yield among("tdx platform instance id", instance, policy.platform_instance_ids)
    yield among("tdx ppid", pck.ppid.hex(), policy.ppids)


def _where_asked(name: str, required: bool, ok: bool, detail: str) -> Check:
    return judged(name, ok, detail, detail) if required else skipped(name, f"the policy does not ask; {detail}")
