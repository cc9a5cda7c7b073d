"""A quote is read field by field, to the byte, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.tdx.abi import HEADER_BYTES, MAX_QUOTE_BYTES, TD10_BYTES, TD15_BYTES, parse_quote
from tests.attestation.tdx.forge import BODY, ForgedIntel
from tests.attestation.tdx.refusals import is_tellable, refusal_of

INTEL = ForgedIntel()
FIELDS: dict[str, Any] = {
    name: bytes([number]) * len(value) for number, (name, value) in enumerate(BODY.items(), start=1)
}
TD15_FIELDS: dict[str, Any] = {"tee_tcb_svn2": b"\x21" * 16, "mr_service_td": b"\x22" * 48}
CHANGED = {name: value for name, value in FIELDS.items() if name != "report_data"}

V4 = INTEL.quote(FIELDS["report_data"], **CHANGED)
V5_TD10 = INTEL.quote(FIELDS["report_data"], version=5, body_type=2, **CHANGED)
V5_TD15 = INTEL.quote(FIELDS["report_data"], version=5, **CHANGED, **TD15_FIELDS)
QUOTES = {"version 4": V4, "version 5, TD 1.0": V5_TD10, "version 5, TD 1.5": V5_TD15}


@pytest.mark.parametrize(("quote", "version"), [(V4, 4), (V5_TD10, 5)], ids=["version 4", "version 5"])
def test_every_field_of_a_td_1_0_body_is_read(quote: bytes, version: int) -> None:
    parsed = parse_quote(quote)
    assert parsed.version == version
    assert asdict(parsed.report) == {**FIELDS, "tee_tcb_svn2": None, "mr_service_td": None}


def test_every_field_of_a_td_1_5_body_is_read() -> None:
    assert asdict(parse_quote(V5_TD15).report) == {**FIELDS, **TD15_FIELDS}


def test_what_the_quoting_enclave_said_and_its_chain_are_read() -> None:
    quote = INTEL.quote(qe_report_data=FIELDS["report_data"])
    parsed = parse_quote(quote)
    assert parsed.qe_report_data == FIELDS["report_data"]
    assert parsed.pck_chain == INTEL.pem("pck", "platform", "root").encode()


@pytest.mark.parametrize("padding", [b"", bytes(70), bytes(3065), bytes(range(1, 40))], ids=len)
@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
def test_padding_is_cut_off(quote: bytes, padding: bytes) -> None:
    assert parse_quote(quote + padding) == parse_quote(quote)
    assert parse_quote(quote + padding).unpadded == quote


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
def test_every_truncation_is_refused(quote: bytes) -> None:
    for length in range(len(quote)):
        with pytest.raises(EvidenceError, match=r"cut|left over"):
            parse_quote(quote[:length])


def _with(quote: bytes, at: int, value: bytes) -> bytes:
    return quote[:at] + value + quote[at + len(value) :]


_V4_SIZE = HEADER_BYTES + TD10_BYTES
_V4_OUTER = _V4_SIZE + 4 + 128
_V4_QE = _V4_OUTER + 6
_V4_INNER = _V4_QE + 384 + 64 + 2 + 32

REFUSED = {
    "nothing": (b"", "cut"),
    "too much": (V4 + bytes(MAX_QUOTE_BYTES), "longer than"),
    "an SGX quote": (_with(V4, 4, bytes(4)), "an SGX quote"),
    "an SGX quote of version 3": (_with(V4, 0, b"\x03\x00\x02\x00" + bytes(4)), "an SGX quote"),
    "another TEE": (_with(V4, 4, b"\x82"), "unknown TEE type 0x82"),
    "a TEE type with its high bits set": (_with(V4, 7, b"\x01"), "unknown TEE type"),
    "version 3": (_with(V4, 0, b"\x03"), "unknown version 3"),
    "version 6": (_with(V4, 0, b"\x06"), "unknown version 6"),
    "a P-384 key": (_with(V4, 2, b"\x03"), "unknown attestation key type 3"),
    "another vendor's enclave": (_with(V4, 12, b"\x00"), "not by Intel"),
    "version 4 as 5": (_with(V4, 0, b"\x05"), "unknown body type"),
    "version 5 as 4": (_with(V5_TD15, 0, b"\x04"), "cut|left over|certification data"),
    "an SGX body": (_with(V5_TD15, HEADER_BYTES, b"\x01"), "unknown body type 1"),
    "a TD 1.5ex body": (_with(V5_TD15, HEADER_BYTES, b"\x04"), "TD 1.5ex"),
    "another body": (_with(V5_TD15, HEADER_BYTES, b"\x05"), "unknown body type 5"),
    "TD 1.5 as TD 1.0": (_with(V5_TD15, HEADER_BYTES, b"\x02"), "has 584 bytes, not 648"),
    "TD 1.0 as TD 1.5": (_with(V5_TD10, HEADER_BYTES, b"\x03"), "has 648 bytes, not 584"),
    "signature data without end": (_with(V4, _V4_SIZE, b"\xff" * 4), "cut inside the quote"),
    "signature data too short": (_with(V4, _V4_SIZE, bytes(4)), "cut inside the signature data"),
    "certification data of another type": (_with(V4, _V4_OUTER, b"\x05"), "type 5 where 6"),
    "certification data without end": (_with(V4, _V4_OUTER + 2, b"\xff" * 4), "cut inside the signature data"),
    "certification data too short": (_with(V4, _V4_OUTER + 2, b"\x00\x02"), "left over in the signature data"),
    "a chain of another type": (_with(V4, _V4_INNER, b"\x04"), "type 4 where 5"),
    "an encrypted PPID": (_with(V4, _V4_INNER, b"\x03"), "type 3 where 5"),
    "a chain too short": (_with(V4, _V4_INNER + 2, b"\x00\x00"), "left over in the certification data"),
    "a chain without end": (_with(V4, _V4_INNER + 2, b"\xff" * 4), "cut inside the certification data"),
}


@pytest.mark.parametrize(("quote", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_quote_is_refused(quote: bytes, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        parse_quote(quote)


def test_sizes_of_bodies_are_those_of_their_fields() -> None:
    assert (sum(map(len, FIELDS.values())), sum(map(len, (FIELDS | TD15_FIELDS).values()))) == (TD10_BYTES, TD15_BYTES)


@given(st.binary(max_size=1500))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_quote(data)


@given(st.sampled_from(list(QUOTES.values())), st.integers(0, len(V4) - 1), st.binary(min_size=1, max_size=8))
def test_a_spoilt_quote_is_read_or_refused_and_nothing_else(quote: bytes, at: int, spoilt: bytes) -> None:
    assert is_tellable(refusal_of(lambda: parse_quote(_with(quote, at, spoilt))))
