"""The table `[tdx]` is written so that a policy with it accepts the guest, and every difference of another is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from attestation.policy import parse_policy
from attestation.reference.direct_boot import CodeCandidate
from attestation.reference.policy_text import Value, head
from attestation.reference.tdx import TdxReference, contradictions, differences, table
from attestation.tdx.abi import parse_quote
from attestation.tdx.appraise import appraise
from attestation.tdx.policy import CodeRelease, HardwareProfile, TdxPolicy
from attestation.types import EvidenceKind
from tests.attestation.tdx.forge import BODY, ForgedIntel

INTEL = ForgedIntel()
CONFIG_ID = bytes(range(48))
NEW, OLD = Value(BODY["mr_td"].hex(), "under QEMU from 9 on"), Value("cd" * 48, "under QEMU 8")
RAW = CodeCandidate(BODY["rtmr1"], BODY["rtmr2"], "the kernel as its file is")
CHANGED = CodeCandidate(b"\xee" * 48, BODY["rtmr2"], "the kernel as QEMU changes its header")
GIVEN = Value(CONFIG_ID.hex(), "initdata.toml, sha384")
REFERENCE = TdxReference((NEW, OLD), (RAW, CHANGED), (GIVEN,))


def quote(**body: bytes) -> bytes:
    fields: dict[str, Any] = {"mr_config_id": CONFIG_ID} | body
    return INTEL.quote(**fields)


def measured(**body: bytes) -> TdxReference:
    return replace(REFERENCE, measured=parse_quote(quote(**body)).report)


def policy_of(text: str) -> TdxPolicy:
    rules = parse_policy((head(["firmware: none"]) + text).encode()).machine[EvidenceKind.TDX]
    assert isinstance(rules, TdxPolicy)
    return rules


def accepts(rules: TdxPolicy, **body: bytes) -> bool:
    checks = appraise(quote(**body), rules, INTEL.collateral(), roots=INTEL.roots, now=INTEL.now).checks
    return not any(check.failed for check in checks)


def test_a_policy_that_is_written_accepts_the_guest_that_was_measured_and_no_other_way_of_measuring() -> None:
    reference = measured()
    assert list(contradictions(reference)) == []
    rules = policy_of(table(reference))
    assert rules.hardware == (HardwareProfile(NEW.text, BODY["rtmr0"].hex()),)
    assert rules.code == (CodeRelease(RAW.rtmr1.hex(), RAW.rtmr2.hex()),)
    assert accepts(rules)
    assert not accepts(rules, rtmr1=CHANGED.rtmr1)
    assert not accepts(rules, mr_config_id=bytes(48))
    assert list(differences(rules, reference)) == []


def test_without_a_measured_guest_all_candidates_are_named_and_rtmr0_is_lacking() -> None:
    text = table(REFERENCE)
    read = tomllib.loads(text)["tdx"]
    assert [entry["mr_td"] for entry in read["hardware"]] == [NEW.text, OLD.text]
    assert [entry["rtmr1"] for entry in read["code"]] == [RAW.rtmr1.hex(), CHANGED.rtmr1.hex()]
    assert "rtmr0 is lacking" in text
    assert "Each of these names the same kernel" in text
    with pytest.raises(Exception, match="names no rtmr0"):
        policy_of(text)


def test_whoever_accepts_any_rtmr0_is_warned_and_has_a_policy() -> None:
    text = table(REFERENCE, allow_any_rtmr0=True)
    assert "DANGER" in text
    rules = policy_of(text)
    assert accepts(rules)
    assert accepts(rules, rtmr0=bytes(48), rtmr1=CHANGED.rtmr1)
    assert not accepts(rules, rtmr1=bytes(48))


def test_what_the_measured_guest_has_unlike_the_defaults_is_written() -> None:
    pks = bytes.fromhex("0000005000000000")
    rules = policy_of(table(measured(xfam=bytes.fromhex("e700060000000000"), td_attributes=pks)))
    assert (rules.xfam, rules.td_attributes) == (("e700060000000000",), (pks.hex(),))


def test_every_value_has_its_origin_beside_it() -> None:
    text = table(REFERENCE)
    assert f'"{GIVEN.text}",  # {GIVEN.origin}' in text
    for origin in (NEW.origin, OLD.origin, RAW.how, CHANGED.how):
        assert origin in text
    assert "No initdata was given" in table(replace(REFERENCE, mr_config_id=()))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"mr_td": bytes(48)}, "MRTD"),
        ({"rtmr1": bytes(48)}, "RTMR1"),
        ({"rtmr2": bytes(48)}, "RTMR2"),
        ({"mr_config_id": bytes(48)}, "MRCONFIGID"),
    ],
)
def test_a_measured_guest_of_other_files_or_initdata_is_told(body: dict[str, bytes], told: str) -> None:
    (contradiction,) = contradictions(measured(**body))
    assert told in contradiction


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another firmware": (
        {"hardware": (HardwareProfile("ab" * 48, BODY["rtmr0"].hex()),)},
        ["tdx.hardware.mr_td names", "tdx.hardware.mr_td does not name", "tdx.hardware.rtmr0 does not name"],
    ),
    "another shape": (
        {"hardware": (HardwareProfile(NEW.text, "ab" * 48),)},
        ["tdx.hardware.rtmr0 names", "tdx.hardware.rtmr0 does not name"],
    ),
    "another kernel": (
        {"code": (CodeRelease("ab" * 48, RAW.rtmr2.hex()),)},
        ["tdx.code (rtmr1, rtmr2) names", "tdx.code (rtmr1, rtmr2) does not name"],
    ),
    "a kernel beside": (
        {"code": (CodeRelease(RAW.rtmr1.hex(), RAW.rtmr2.hex()), CodeRelease("ab" * 48, RAW.rtmr2.hex()))},
        ["tdx.code (rtmr1, rtmr2) names"],
    ),
    "another initdata": ({"mr_config_id": ("ab" * 48,)}, ["tdx.mr_config_id names", "tdx.mr_config_id does not name"]),
    "nothing of initdata": (
        {"mr_config_id": ("00" * 48,)},
        ["tdx.mr_config_id names", "tdx.mr_config_id does not name"],
    ),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES.keys())
def test_every_difference_of_a_policy_is_told(change: dict[str, Any], told: list[str]) -> None:
    reference = measured()
    found = list(differences(replace(policy_of(table(reference)), **change), reference))
    assert len(found) == len(told)
    assert all(difference.startswith(begin) for difference, begin in zip(found, told, strict=True))


def test_one_of_the_candidates_is_enough_where_nothing_was_measured() -> None:
    rules = policy_of(table(measured()))
    assert list(differences(rules, REFERENCE)) == []
    (unknown,) = differences(rules, replace(REFERENCE, mr_config_id=()))
    assert unknown == "tdx.mr_config_id is named, and no initdata was given to compare it with"
