"""Collateral is read strictly, within a bound, and says from when until when it is in force."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.tdx.collateral import MAX_COLLATERAL_BYTES, parse_collateral
from tests.attestation.tdx.forge import ForgedIntel
from tests.attestation.tdx.refusals import is_tellable, refusal_of

INTEL = ForgedIntel()
MEMBERS = INTEL.members()
DATA = json.dumps(MEMBERS).encode()


def _with(**changes: Any) -> bytes:
    return json.dumps({**MEMBERS, **changes}).encode()


def test_collateral_is_read() -> None:
    collateral = parse_collateral(DATA)
    assert collateral.members.tcb_info == MEMBERS["tcb_info"]
    assert collateral.members.root_ca_crl == bytes.fromhex(MEMBERS["root_ca_crl"])
    assert collateral.crl_chain == (INTEL.certificate("platform"), INTEL.certificate("root"))
    assert collateral.tcb_chain == collateral.qe_chain == (INTEL.certificate("tcb signing"), INTEL.certificate("root"))
    assert collateral.pce_id == bytes(2)
    assert (collateral.oldest, collateral.newest, collateral.next_update) == (
        INTEL.issued,
        INTEL.issued,
        INTEL.next_update,
    )


def test_a_pck_chain_beside_that_of_the_quote_is_dropped() -> None:
    assert parse_collateral(_with(pck_certificate_chain="whatever")).tcb_chain == parse_collateral(DATA).tcb_chain


SOONER, LATER = INTEL.issued - timedelta(days=5), INTEL.issued + timedelta(days=1)
_DATED: dict[str, Callable[..., str]] = {"tcb_info": INTEL.tcb_info, "qe_identity": INTEL.qe_identity}


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("part", _DATED)
def test_dates_of_signed_json_count(part: str) -> None:
    def dated(**dates: str) -> bytes:
        return _with(**{part: _DATED[part](**dates)})

    assert parse_collateral(dated(issueDate=_instant(SOONER))).oldest == SOONER
    assert parse_collateral(dated(issueDate=_instant(LATER))).newest == LATER
    assert parse_collateral(dated(nextUpdate=_instant(LATER))).next_update == LATER


def test_dates_of_revocation_lists_count_but_for_the_age_of_the_yearly_one() -> None:
    assert parse_collateral(_with(pck_crl=INTEL.crl("platform", issued=SOONER).hex())).oldest == SOONER
    assert parse_collateral(_with(root_ca_crl=INTEL.crl("root", issued=SOONER).hex())).oldest == INTEL.issued
    for name, issuer in (("pck_crl", "platform"), ("root_ca_crl", "root")):
        assert parse_collateral(_with(**{name: INTEL.crl(issuer, issued=LATER).hex()})).newest == LATER
        soon = parse_collateral(_with(**{name: INTEL.crl(issuer, next_update=LATER).hex()}))
        assert soon.next_update == LATER


def test_times_are_in_utc() -> None:
    assert parse_collateral(DATA).next_update.tzinfo is UTC


REFUSED = {
    "no JSON": (b"{", "not JSON"),
    "too much": (b" " * (MAX_COLLATERAL_BYTES + 1), "longer than"),
    "no object": (b"[]", "document"),
    "an unknown member": (_with(extra=""), "extra: unknown member"),
    "a member twice": (DATA[:-1] + b', "tcb_info": ""}', "names a member twice"),
    "a number": (_with(tcb_info=1), "tcb_info"),
    "capitals": (_with(pck_crl=MEMBERS["pck_crl"].upper()), "pck_crl: must be lower-case hexadecimal"),
    "half a byte": (_with(pck_crl="abc"), "pck_crl: must be lower-case hexadecimal"),
    "spaces": (_with(pck_crl="ab cd"), "pck_crl: must be lower-case hexadecimal"),
    "an empty list": (_with(root_ca_crl=""), "root_ca_crl: must be lower-case hexadecimal"),
    "a list that is none": (_with(root_ca_crl="00"), "a revocation list cannot be read"),
    "a short signature": (_with(tcb_info_signature="ab" * 63), "tcb_info_signature: must be 64 bytes"),
    "a long signature": (_with(qe_identity_signature="ab" * 65), "qe_identity_signature: must be 64 bytes"),
    "a chain that is none": (_with(tcb_info_issuer_chain=""), "not certificates"),
    "a chain too long": (_with(qe_identity_issuer_chain=INTEL.pem("pck", "platform", "root")), "is not 2 certificates"),
    "TCB info that is no JSON": (_with(tcb_info="{"), "tcb_info: not JSON"),
    "TCB info without a date": (_with(tcb_info="{}"), "tcb_info: .*issueDate"),
    "TCB info of no PCE": (_with(tcb_info=INTEL.tcb_info(pceId="0")), "tcb_info: .*pceId"),
    "another form of date": (_with(tcb_info=INTEL.tcb_info(issueDate="2026-06-01")), "tcb_info: .*in UTC"),
    "another zone": (_with(qe_identity=INTEL.qe_identity(nextUpdate="2026-06-01T00:00:00+02:00")), "qe_identity: "),
    "a date that is a number": (_with(qe_identity=INTEL.qe_identity(nextUpdate=1)), "qe_identity: .*a time"),
    "a QE identity that is no object": (_with(qe_identity="[]"), "qe_identity: document"),
} | {
    f"no {name}": (json.dumps({key: value for key, value in MEMBERS.items() if key != name}).encode(), f"{name}: Field")
    for name in MEMBERS
}


@pytest.mark.parametrize(("data", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_collateral_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        parse_collateral(data)


def test_signed_json_may_say_more() -> None:
    assert parse_collateral(_with(tcb_info=INTEL.tcb_info(later="more"))).next_update == INTEL.next_update


@given(st.sampled_from(sorted(MEMBERS)), st.text(max_size=40) | st.none() | st.integers() | st.lists(st.none()))
def test_a_member_of_anything_is_read_or_refused_and_nothing_else(name: str, value: object) -> None:
    assert is_tellable(refusal_of(lambda: parse_collateral(_with(**{name: value}))))


@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(DATA)), st.binary(min_size=1, max_size=8)))
def test_spoilt_collateral_is_read_or_refused_and_nothing_else(spoilt: bytes | tuple[int, bytes]) -> None:
    data = spoilt if isinstance(spoilt, bytes) else DATA[: spoilt[0]] + spoilt[1] + DATA[spoilt[0] + len(spoilt[1]) :]
    assert is_tellable(refusal_of(lambda: parse_collateral(data)))
