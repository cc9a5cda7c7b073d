"""A policy for TDX machines is read strictly, and one that contradicts itself cannot be built."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields
from typing import Any

import pytest
from pydantic import TypeAdapter

import attestation.tdx.policy
from attestation.tdx.policy import (
    NEEDS_ADVISORIES,
    NEEDS_GRACE,
    ZERO,
    CodeRelease,
    HardwareProfile,
    TcbStatus,
    TdxPolicy,
)
from core.program.validation import validate

POLICY: TypeAdapter[TdxPolicy] = TypeAdapter(TdxPolicy)
A, B, C, D = ("a1" * 48, "b2" * 48, "c3" * 48, "d4" * 48)
HARDWARE = (HardwareProfile(A, B),)
CODE = (CodeRelease(C, D),)

MINIMAL = f"""
[[hardware]]
mr_td = "{A}"
rtmr0 = "{B}"
[[code]]
rtmr1 = "{C}"
rtmr2 = "{D}"
"""


def _parse(options: str, tables: str = MINIMAL) -> TdxPolicy:
    return validate(POLICY, tomllib.loads(options + "\n" + tables))


def test_a_minimal_policy_has_the_strict_defaults() -> None:
    policy = _parse("")
    assert policy == TdxPolicy(HARDWARE, CODE)
    assert policy.code[0].rtmr3 == ZERO
    assert policy.td_attributes == ("0000001000000000",)
    assert policy.xfam == ("e702060000000000",)
    assert (policy.mr_config_id, policy.mr_owner, policy.mr_owner_config) == ((ZERO,), (ZERO,), (ZERO,))
    assert policy.tcb_statuses == (TcbStatus.UP_TO_DATE,)
    assert not any(getattr(policy, field.name) for field in fields(policy) if field.name.startswith("allow"))


def test_every_key_is_read() -> None:
    policy = _parse(
        f"""
        allow_any_rtmr0 = true
        allow_any_rtmr3 = true
        mr_seam = ["{A}"]
        td_attributes = ["0000001000000080"]
        xfam = ["e700060000000000"]
        mr_config_id = ["{A}", "{B}"]
        mr_owner = ["{B}"]
        mr_owner_config = ["{C}"]
        tcb_statuses = ["UpToDate", "SWHardeningNeeded", "OutOfDate"]
        advisories = ["INTEL-SA-00615"]
        out_of_date_grace_s = 60
        min_tcb_evaluation_data_number = 18
        max_collateral_age_s = 3600
        collateral_grace_s = 7200
        require_static_platform = true
        require_uncached_keys = true
        require_smt_off = true
        require_memory_integrity = true
        platform_instance_ids = ["{"01" * 16}"]
        ppids = ["{"02" * 16}"]
        """,
        f'[[hardware]]\nmr_td = "{A}"\n[[code]]\nrtmr1 = "{C}"\nrtmr2 = "{D}"\n',
    )
    defaults = {field.name: field.default for field in fields(TdxPolicy) if field.default is not MISSING}
    assert {name for name, default in defaults.items() if getattr(policy, name) == default} == set()


REFUSED = {
    "no hardware": ('[[code]]\nrtmr1 = "a"\nrtmr2 = "b"', "hardware: Field required"),
    "no kernel": (
        f'[[hardware]]\nmr_td = "{A}"\nrtmr0 = "{B}"\n[[code]]\nrtmr2 = "{D}"',
        "code.0.rtmr1: Field required",
    ),
    "no command line": (
        f'[[hardware]]\nmr_td = "{A}"\nrtmr0 = "{B}"\n[[code]]\nrtmr1 = "{C}"',
        "code.0.rtmr2: Field required",
    ),
    "capitals": (MINIMAL.replace("a1", "A1"), "hardware.0.mr_td"),
    "a short register": (MINIMAL.replace(A, A[2:]), "hardware.0.mr_td"),
    "an unknown key": ("debug = true\n" + MINIMAL, "debug: unknown member"),
    "a revoked platform": ('tcb_statuses = ["Revoked"]\n' + MINIMAL, "tcb_statuses.0"),
    "an unknown status": ('tcb_statuses = ["Fine"]\n' + MINIMAL, "tcb_statuses.0"),
    "no status": ("tcb_statuses = []\n" + MINIMAL, "tcb_statuses"),
    "an advisory that is none": ('advisories = ["*"]\n' + MINIMAL, "advisories.0"),
    "a grace of ages": ("collateral_grace_s = 999999999999\n" + MINIMAL, "collateral_grace_s"),
    "a grace in the past": ("collateral_grace_s = -1\n" + MINIMAL, "collateral_grace_s"),
    "an age of nothing": ("max_collateral_age_s = 0\n" + MINIMAL, "max_collateral_age_s"),
    "a contradiction": ("out_of_date_grace_s = 60\n" + MINIMAL, "no status among tcb_statuses is out of date"),
}


@pytest.mark.parametrize(("text", "fault"), REFUSED.values(), ids=REFUSED)
def test_a_faulty_policy_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        validate(POLICY, tomllib.loads(text))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no hardware": ({"hardware": ()}, "hardware is empty"),
    "no code": ({"code": ()}, "code is empty"),
    "no module": ({"mr_seam": ()}, "mr_seam is empty"),
    "no attributes": ({"td_attributes": ()}, "td_attributes is empty"),
    "no xfam": ({"xfam": ()}, "xfam is empty"),
    "nothing up to date": (
        {
            "tcb_statuses": (TcbStatus.SW_HARDENING_NEEDED,),
            "advisories": ("INTEL-SA-00615",),
        },
        "tcb_statuses leaves out UpToDate",
    ),
    "no platform": ({"platform_instance_ids": ()}, "platform_instance_ids is empty"),
    "no processor": ({"ppids": ()}, "ppids is empty"),
    "rtmr0 left out": ({"hardware": (HardwareProfile(A),)}, "hardware.0 names no rtmr0"),
    "rtmr0 ignored": ({"allow_any_rtmr0": True}, "hardware.0 names an rtmr0 that"),
    "rtmr3 ignored": ({"code": (CodeRelease(C, D, A),), "allow_any_rtmr3": True}, "code.0 names an rtmr3 that"),
    "unmeasured firmware": ({"hardware": (HardwareProfile(ZERO, B),)}, "hardware.0 has a register of zeros"),
    "unmeasured configuration": ({"hardware": (HardwareProfile(A, ZERO),)}, "hardware.0 has a register of zeros"),
    "unmeasured kernel": ({"code": (CodeRelease(ZERO, D),)}, "code.0 has a register of zeros"),
    "unmeasured command line": ({"code": (CodeRelease(C, ZERO),)}, "code.0 has a register of zeros"),
    "debug": ({"td_attributes": ("0100001000000000",)}, "td_attributes 0100001000000000"),
    "profiling": ({"td_attributes": ("1000001000000000",)}, "td_attributes 1000001000000000"),
    "migration": ({"td_attributes": ("0000003000000000",)}, "td_attributes 0000003000000000"),
    "#VE on private pages": ({"td_attributes": ("0000000000000000",)}, "td_attributes 0000000000000000"),
    "a reserved bit": ({"td_attributes": ("0000001001000000",)}, "td_attributes 0000001001000000"),
    "hardening without advisories": (
        {"tcb_statuses": (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED)},
        "SWHardeningNeeded among tcb_statuses needs advisories",
    ),
    "advisories without hardening": ({"advisories": ("INTEL-SA-00615",)}, "no status among tcb_statuses rests"),
    "out of date for ever": (
        {"tcb_statuses": (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE)},
        "needs out_of_date_grace_s",
    ),
    "a grace for nothing": ({"out_of_date_grace_s": 60}, "no status among tcb_statuses is out of date"),
}


@pytest.mark.parametrize(("changes", "fault"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_policy_that_contradicts_itself_cannot_be_built(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as refusal:
        TdxPolicy(**({"hardware": HARDWARE, "code": CODE} | changes))
    assert ";" not in str(refusal.value)


def test_every_contradiction_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"ppids is empty.*td_attributes 01.*names no rtmr0.*grace_s is given"):
        TdxPolicy((HardwareProfile(A),), CODE, td_attributes=("01" * 8,), ppids=(), out_of_date_grace_s=1)


@pytest.mark.parametrize("value", ["0000001000000000", "0000005000000000", "0000001000000080", "0000005000000080"])
def test_protection_keys_and_performance_monitoring_can_be_allowed(value: str) -> None:
    assert TdxPolicy(HARDWARE, CODE, td_attributes=(value,)).td_attributes == (value,)


def test_every_status_but_one_needs_a_reason_to_be_accepted() -> None:
    assert set(TcbStatus) - NEEDS_ADVISORIES - NEEDS_GRACE == {TcbStatus.UP_TO_DATE}


def test_the_defaults_that_are_written_down_are_those_of_the_code() -> None:
    example = (attestation.tdx.policy.__doc__ or "").split("::\n", 1)[1].split("\nMeasurements")[0]
    documented = tomllib.loads(example)["tdx"]
    tables = {name: documented.pop(name) for name in ("hardware", "code")}
    defaults = {field.name: field.default for field in fields(TdxPolicy) if field.default is not MISSING}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    assert {
        name: [ZERO if item == "<96 zeros>" else item for item in value] if isinstance(value, list) else value
        for name, value in documented.items()
    } == {name: value for name, value in given.items() if value is not None}
    assert all(f"# {name} = " in example for name, value in given.items() if value is None)
    assert [set(entry) for table in tables.values() for entry in table] == [
        {field.name for field in fields(HardwareProfile)},
        {field.name for field in fields(CodeRelease)},
    ]
