"""The table of certificates is read by role, and nothing that is not as it must be is read."""

from __future__ import annotations

import contextlib
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.snp.abi import Product
from attestation.snp.certificate import to_pem
from attestation.snp.table import MAX_TABLE_BYTES, CertificateTable, parse_certificate_table
from attestation.snp.table import certificate_table as written_table
from tests.attestation.snp.forge import ForgedAmd, certificate_table

MILAN = ForgedAmd(Product.MILAN)
VEK, ASK, ARK = MILAN.vek(MILAN.report()), MILAN.ask().der(), MILAN.ark().der()
ALL = {"vcek": VEK, "vlek": b"lent", "ask": ASK, "ark": ARK}


def test_a_table_is_read_by_role_in_any_order() -> None:
    assert parse_certificate_table(certificate_table(ALL)) == CertificateTable(VEK, b"lent", ASK, ARK)
    backwards = dict(reversed(ALL.items()))
    assert parse_certificate_table(certificate_table(backwards)) == CertificateTable(VEK, b"lent", ASK, ARK)


_DER = st.binary(min_size=1, max_size=100).map(lambda content: b"\x30" + content)


@given(st.dictionaries(st.sampled_from(sorted(ALL)), _DER))
def test_a_table_that_we_write_is_read_back(certificates: dict[str, bytes]) -> None:
    table = written_table(certificates.items())
    assert parse_certificate_table(table) == CertificateTable(**certificates)
    assert table == (certificate_table(certificates) if certificates else b"")


def test_certificates_of_other_roles_are_not_written() -> None:
    assert written_table([("crl", b"list"), ("ark", ARK)]) == certificate_table({"ark": ARK})
    assert written_table([("crl", b"list")]) == b""


def test_no_bytes_are_an_empty_table() -> None:
    assert parse_certificate_table(b"") == parse_certificate_table(bytes(24)) == CertificateTable()


def test_a_certificate_may_stand_there_as_pem() -> None:
    assert parse_certificate_table(certificate_table({"vcek": to_pem(VEK)})) == CertificateTable(vcek=VEK)


def test_a_role_that_is_not_known_is_passed_over() -> None:
    known = certificate_table({"ark": ARK})
    unknown = uuid.UUID(int=1).bytes_le + struct.pack("<II", 72 + len(ARK), 3)
    moved = known[:16] + struct.pack("<II", 72, len(ARK))
    assert parse_certificate_table(moved + unknown + bytes(24) + ARK + b"any") == CertificateTable(ark=ARK)


def _entry(offset: int, length: int, role: str = "ark") -> bytes:
    return certificate_table({role: b""})[:16] + struct.pack("<II", offset, length)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(_entry(48, 4) + bytes(24) + b"abc", id="an entry beyond the end"),
        pytest.param(_entry(51, 1) + bytes(24) + b"abc", id="an entry at the end"),
        pytest.param(_entry(2**32 - 1, 2**32 - 1) + bytes(24) + b"abc", id="an entry far beyond the end"),
        pytest.param(_entry(0, 10) + bytes(24) + b"abc", id="an entry over the head"),
        pytest.param(_entry(47, 2) + bytes(24) + b"abc", id="an entry over the end of the head"),
        pytest.param(_entry(72, 3) + _entry(74, 2, "ask") + bytes(24) + b"abcd", id="entries that overlap"),
        pytest.param(_entry(72, 3) + _entry(72, 3, "ask") + bytes(24) + b"abc", id="entries that are the same bytes"),
        pytest.param(_entry(72, 1) + _entry(73, 1) + bytes(24) + b"ab", id="a role twice"),
        pytest.param(_entry(48, 0) + bytes(24), id="an empty certificate"),
        pytest.param(_entry(48, 8193) + bytes(24) + bytes(8193), id="a long certificate"),
        pytest.param(_entry(48, 3), id="no end"),
        pytest.param(b"".join(_entry(0, 0) for _ in range(33)) + bytes(24), id="too many entries"),
        pytest.param(bytes(MAX_TABLE_BYTES + 1), id="too long"),
        pytest.param(certificate_table({"ark": to_pem(ARK) + to_pem(ASK)}), id="two certificates in an entry"),
        pytest.param(certificate_table({"ark": b"-----BEGIN CERTIFICATE-----"}), id="broken PEM"),
    ],
)
def test_a_table_that_is_not_in_order_is_refused(table: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"table|PEM"):
        parse_certificate_table(table)


def test_every_truncated_table_is_refused() -> None:
    table = certificate_table({"vcek": b"abc", "ark": b"defg"})
    parse_certificate_table(table)
    for length in range(1, len(table)):
        with pytest.raises(EvidenceError):
            parse_certificate_table(table[:length])


@given(st.binary(max_size=200) | st.tuples(st.integers(0, 95), st.binary(max_size=24)))
def test_any_bytes_are_a_table_or_refused(data: bytes | tuple[int, bytes]) -> None:
    table = certificate_table({"vcek": b"abc", "ask": b"defg", "ark": b"hi"})
    if isinstance(data, tuple):
        place, overwriting = data
        data = table[:place] + overwriting + table[place + len(overwriting) :]
    with contextlib.suppress(EvidenceError):
        parse_certificate_table(data)
