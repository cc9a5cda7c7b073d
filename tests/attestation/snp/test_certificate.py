"""Certificates and revocation lists are read as `cryptography` reads them, and nothing else is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.snp.certificate import (
    MAX_CERTIFICATE_BYTES,
    MAX_CRL_BYTES,
    from_pem,
    is_authority,
    p384_key,
    parse_certificate,
    parse_crl,
    to_pem,
    verify_issued,
)
from tests.attestation.snp.forge import ForgedAmd, ec_key, rsa_key

AMD = ForgedAmd()
REPORT = AMD.report()
VEK, ASK, ARK = AMD.vek(REPORT), AMD.ask().der(), AMD.ark().der()
CRL = AMD.crl(5, 2**64)


def test_a_certificate_reads_as_the_library_reads_it() -> None:
    ours, theirs = parse_certificate(ASK), x509.load_der_x509_certificate(ASK)
    assert ours.signed.tbs == theirs.tbs_certificate_bytes
    assert ours.signed.signature == theirs.signature
    assert ours.serial == theirs.serial_number == 0x10001
    assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert ours.subject == tuple((part.oid.dotted_string, part.value) for part in theirs.subject)
    assert ours.issuer == tuple((part.oid.dotted_string, part.value) for part in theirs.issuer)
    assert (ours.subject_cn, ours.issuer_cn) == ("SEV-Milan", "ARK-Milan")
    assert set(ours.extensions) == {extension.oid.dotted_string for extension in theirs.extensions}
    assert ours.critical == {"2.5.29.15", "2.5.29.19"}


def test_a_serial_number_of_zero_is_read_without_a_warning() -> None:
    assert parse_certificate(VEK).serial == 0  # every warning is an error here


def test_the_key_of_a_vek_is_read() -> None:
    assert p384_key(parse_certificate(VEK)) == ec_key("vek").public_key()


def test_a_revocation_list_reads_as_the_library_reads_it() -> None:
    ours, theirs = parse_crl(CRL), x509.load_der_x509_crl(CRL)
    assert ours.signed.tbs == theirs.tbs_certlist_bytes
    assert (ours.this_update, ours.next_update) == (theirs.last_update_utc, theirs.next_update_utc)
    assert ours.serials == {entry.serial_number for entry in theirs} == {5, 2**64}
    assert ours.issuer == parse_certificate(ARK).subject
    assert parse_crl(AMD.crl()).serials == frozenset()


def test_what_an_authority_signed_verifies_with_its_key_alone() -> None:
    ask, ark = parse_certificate(ASK), parse_certificate(ARK)
    verify_issued(ask.signed, ark)
    verify_issued(parse_crl(CRL).signed, ark)
    verify_issued(parse_certificate(VEK).signed, ask)
    with pytest.raises(EvidenceError, match="not that of the issuer"):
        verify_issued(ask.signed, ask)


def test_a_flipped_bit_in_any_byte_of_a_certificate_is_refused() -> None:
    ask = parse_certificate(ASK)
    for changed in _flipped(VEK):
        with pytest.raises(EvidenceError):
            verify_issued(parse_certificate(changed).signed, ask)


def test_a_flipped_bit_in_any_byte_of_a_revocation_list_is_refused() -> None:
    ark = parse_certificate(ARK)
    for changed in _flipped(CRL):
        with pytest.raises(EvidenceError):
            verify_issued(parse_crl(changed).signed, ark)


def _flipped(der: bytes) -> Iterator[bytes]:
    for place in range(len(der)):
        yield der[:place] + bytes([der[place] ^ 1 << place % 8]) + der[place + 1 :]


def test_every_truncation_is_refused() -> None:
    for length in range(len(VEK)):
        with pytest.raises(EvidenceError):
            parse_certificate(VEK[:length])
    for length in range(len(CRL)):
        with pytest.raises(EvidenceError):
            parse_crl(CRL[:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(EvidenceError):
        parse_certificate(VEK + b"\x00")
    with pytest.raises(EvidenceError):
        parse_crl(CRL + b"\x00")


def test_what_is_too_long_is_not_even_read() -> None:
    with pytest.raises(EvidenceError, match="longer"):
        parse_certificate(VEK.ljust(MAX_CERTIFICATE_BYTES + 1, b"\x00"))
    with pytest.raises(EvidenceError, match="longer"):
        parse_crl(CRL.ljust(MAX_CRL_BYTES + 1, b"\x00"))


def _altered(der: bytes, old: str, new: str) -> bytes:
    """The same bytes with one stretch of as many others, which must stand there."""
    assert bytes.fromhex(old) in der
    assert len(old) == len(new)
    return der.replace(bytes.fromhex(old), bytes.fromhex(new))


@pytest.mark.parametrize("version", ["a003020101", "a003020100", "a003020103"])
def test_another_version_of_certificate_is_refused(version: str) -> None:
    with pytest.raises(EvidenceError, match="version 3"):
        parse_certificate(_altered(ASK, "a003020102", version))


def test_another_version_of_revocation_list_is_refused() -> None:
    with pytest.raises(EvidenceError, match="version 2"):
        parse_crl(_altered(CRL, "020101304106", "020100304106"))


def test_two_signature_algorithms_are_refused() -> None:
    algorithm = parse_certificate(ASK).signed.tbs.index(bytes.fromhex("2a864886f70d01010a"))
    changed = bytearray(ASK)
    changed[ASK.rindex(ASK[algorithm + 4 : algorithm + 13]) + 8] = 0x0B
    with pytest.raises(EvidenceError, match="two signature algorithms"):
        parse_certificate(bytes(changed))


def test_a_signature_of_bits_is_refused() -> None:
    length = len(parse_certificate(ASK).signed.signature)
    assert ASK[-length - 1] == 0, "how many bits of the last byte are no part of it"
    changed = bytearray(ASK)
    changed[-length - 1] = 1
    changed[-1] &= 0xFE  # they are 0 in DER
    with pytest.raises(EvidenceError, match="not whole bytes"):
        parse_certificate(bytes(changed))


def test_an_extension_that_stands_twice_is_refused() -> None:
    usage, constraints = "0603551d0f", "0603551d13"
    with pytest.raises(EvidenceError, match="twice"):
        parse_certificate(_altered(ASK, usage, constraints))


def test_a_name_without_exactly_one_common_name_has_none() -> None:
    ask = parse_certificate(ASK)
    twice = replace(ask, subject=(*ask.subject, ("2.5.4.3", "SEV-Genoa")))
    assert twice.subject_cn is None
    assert replace(ask, subject=ask.subject[:-1]).subject_cn is None


def test_a_part_of_a_name_with_two_attributes_is_refused() -> None:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("SEV-Milan", "SEV-Genoa")]
    name = x509.Name([x509.RelativeDistinguishedName(attributes)])
    builder = (
        x509.CertificateBuilder(name, name)
        .public_key(rsa_key("ask").public_key())
        .serial_number(1)
        .not_valid_before(AMD.now)
        .not_valid_after(AMD.now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    with pytest.raises(EvidenceError, match="several attributes"):
        parse_certificate(builder.sign(rsa_key("ark"), SHA384()).public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("changes", "certificates", "lists"),
    [
        ({"crl_sign": True}, True, True),
        ({}, True, False),
        ({"cert_sign": False, "crl_sign": True}, False, False),
        ({"cert_sign": False}, False, False),
        ({"ca": False, "crl_sign": True}, False, False),
    ],
)
def test_an_authority_may_sign_what_its_extensions_say(
    changes: dict[str, bool], certificates: bool, lists: bool
) -> None:
    certificate = parse_certificate(AMD.ask(**changes).der())
    assert is_authority(certificate, may_sign_crls=False) is certificates
    assert is_authority(certificate, may_sign_crls=True) is lists


@pytest.mark.parametrize("oid", ["2.5.29.15", "2.5.29.19"])
@pytest.mark.parametrize("value", [None, b"", b"\x03\x01\x00", b"\x30\x00", b"junk"])
def test_a_certificate_that_does_not_say_what_it_may_sign_may_sign_nothing(oid: str, value: bytes | None) -> None:
    ark = parse_certificate(ARK)
    others = {name: content for name, content in ark.extensions.items() if name != oid}
    extensions = others if value is None else {**others, oid: value}
    assert not is_authority(replace(ark, extensions=extensions), may_sign_crls=False)


@pytest.mark.parametrize(
    "mark",
    [
        x509.DeltaCRLIndicator(3),
        x509.IssuingDistributionPoint(None, None, False, True, None, False, False),
    ],
    ids=["a delta", "of authorities only"],
)
def test_a_revocation_list_that_is_not_complete_is_refused(mark: x509.ExtensionType) -> None:
    with pytest.raises(EvidenceError, match="critical"):
        parse_crl(AMD.crl(extra=((mark, True),)))


def _rsa(modulus: int, exponent: int) -> bytes:
    @asn1.sequence
    class Key:
        modulus: int
        exponent: int

    return asn1.encode_der(Key(modulus=modulus, exponent=exponent))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(_rsa(2**512 - 569, 65537), id="too small for the signature"),
        pytest.param(_rsa(2**2047, 65537), id="even"),
        pytest.param(_rsa(0, 65537), id="zero"),
        pytest.param(_rsa(-(2**2047) - 1, 65537), id="negative"),
        pytest.param(_rsa(2**2048 - 1, 1), id="an exponent of one"),
        pytest.param(_rsa(2**2048 - 1, 2**2047 + 1), id="an exponent that takes long"),
        pytest.param(_rsa(2**16_384 - 1, 65537), id="too large to reckon with"),
    ],
)
def test_a_strange_rsa_key_verifies_nothing(key: bytes) -> None:
    issuer = replace(parse_certificate(ARK), key_bits=key)
    with pytest.raises(EvidenceError):
        verify_issued(parse_certificate(ASK).signed, issuer)


def test_a_key_of_another_kind_is_not_tried() -> None:
    with pytest.raises(EvidenceError, match="not RSA"):
        verify_issued(parse_certificate(ASK).signed, parse_certificate(VEK))
    with pytest.raises(EvidenceError, match="not on P-384"):
        p384_key(parse_certificate(ASK))


@pytest.mark.parametrize("point", [b"", b"\x00", b"\x04" + bytes(96), b"\x04" + b"\x01" * 96, b"\x04" + bytes(64)])
def test_a_key_that_is_not_a_point_is_refused(point: bytes) -> None:
    with pytest.raises(EvidenceError, match="not a point"):
        p384_key(replace(parse_certificate(VEK), key_bits=point))


def test_pem_is_read_as_it_was_written() -> None:
    assert from_pem(to_pem(ASK) + to_pem(ARK), limit=10_000) == (ASK, ARK)
    theirs = x509.load_der_x509_certificate(ASK).public_bytes(Encoding.PEM)
    assert to_pem(ASK) == theirs
    assert from_pem(theirs.replace(b"\n", b"\r\n"), limit=10_000) == (ASK,)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(to_pem(ASK) + b"and more", id="text after it"),
        pytest.param(b"a certificate:\n" + to_pem(ASK), id="text before it"),
        pytest.param(to_pem(ASK).replace(b"CERTIFICATE", b"PRIVATE KEY"), id="something else"),
        pytest.param(to_pem(ASK)[:-2], id="no end"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n", id="not base64"),
        pytest.param(to_pem(bytes(5000)), id="too long"),
    ],
)
def test_what_is_not_pem_is_refused(text: bytes) -> None:
    with pytest.raises(EvidenceError, match="PEM"):
        from_pem(text, limit=5000)


@given(st.binary(max_size=64) | st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=8)))
def test_any_bytes_are_a_certificate_or_refused(data: bytes | tuple[int, bytes]) -> None:
    for whole, parse in ((VEK, parse_certificate), (ASK, parse_certificate), (CRL, parse_crl)):
        with contextlib.suppress(EvidenceError):
            parse(_overwritten(whole, data))


@given(st.binary(max_size=64) | st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=8)))
def test_any_bytes_are_pem_or_refused(data: bytes | tuple[int, bytes]) -> None:
    with contextlib.suppress(EvidenceError):
        from_pem(_overwritten(to_pem(ASK), data), limit=10_000)


def _overwritten(whole: bytes, data: bytes | tuple[int, bytes]) -> bytes:
    if isinstance(data, bytes):
        return data
    place, overwriting = data
    return whole[:place] + overwriting + whole[place + len(overwriting) :]
