"""A chain is exactly the certificates that belong there, written as every reader would read them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.tdx.certificates import (
    MAX_CHAIN_BYTES,
    common_name,
    crl_window,
    expect_issued,
    expect_names,
    read_chain,
    window,
)
from tests.attestation.tdx.forge import NAMES, NOW, ForgedIntel
from tests.attestation.tdx.refusals import is_tellable, refusal_of
from tests.attestation.years import LAST, in_year_zero

INTEL = ForgedIntel()
PEM = INTEL.pem("pck", "platform", "root").encode()
PARTS = {role: INTEL.pem(role).encode() for role in ("pck", "platform", "processor", "root")}
CRL = INTEL.crl("platform")


def test_a_chain_is_read() -> None:
    chain = read_chain(PEM, length=3)
    assert chain == tuple(INTEL.certificate(role) for role in ("pck", "platform", "root"))
    expect_names(chain, NAMES["pck"], NAMES["platform"], NAMES["root"])
    expect_issued(chain)


@pytest.mark.parametrize("pem", [PEM.strip(), PEM + b"\n", PEM.replace(b"\n", b"\r\n")], ids=["cut", "more", "CRLF"])
def test_line_ends_do_not_matter(pem: bytes) -> None:
    assert read_chain(pem, length=3) == read_chain(PEM, length=3)


REFUSED = {
    "nothing": (b"", "not certificates in PEM"),
    "no PEM": (b"certificate", "not certificates in PEM"),
    "too much": (b"\n" * (MAX_CHAIN_BYTES + 1), "longer than"),
    "a certificate missing": (PARTS["pck"] + PARTS["root"], "from leaf to root"),
    "a certificate too many": (PEM + PARTS["root"], "from leaf to root"),
    "another order": (PARTS["platform"] + PARTS["pck"] + PARTS["root"], "from leaf to root"),
    "another CA": (PARTS["pck"] + PARTS["processor"] + PARTS["root"], "from leaf to root"),
    "no root at the end": (PARTS["root"] + PARTS["root"] + PARTS["platform"], "from leaf to root"),
    "text before": (b"text\n" + PEM, "text beside"),
    "text between": (PARTS["pck"] + b"text\n" + PARTS["platform"] + PARTS["root"], "text beside"),
    "another kind of PEM": (PARTS["pck"].replace(b"CERTIFICATE", b"ANYTHING") + PEM, "text beside"),
    "lines of another length": (PEM.replace(b"\n", b"", 2).replace(b"-----MII", b"-----\nMII"), "not cert|another way"),
}


@pytest.mark.parametrize(("pem", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_chain_is_refused(pem: bytes, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        read_chain(pem, length=3)


def test_every_part_of_a_chain_has_its_name() -> None:
    chain = read_chain(PEM, length=3)
    for position in range(3):
        names = [NAMES[role] for role in ("pck", "platform", "root")]
        names[position] = "Intel SGX TCB Signing"
        with pytest.raises(EvidenceError, match="not one of"):
            expect_names(chain, *names)


def test_a_signature_of_another_is_refused() -> None:
    # The names fit, and the key of one of them is another.
    renamed = ForgedIntel(names={"processor": NAMES["platform"]})
    chain = (INTEL.certificate("pck"), renamed.certificate("processor"), INTEL.certificate("root"))
    with pytest.raises(EvidenceError, match="does not verify"):
        expect_issued(chain)


def test_certificates_are_valid_together_from_the_last_to_begin_to_the_first_to_end() -> None:
    end = NOW + timedelta(days=3)
    early = ForgedIntel(ends={"platform": end})
    together = window((early.certificate("pck"), early.certificate("platform")), (early.certificate("root"),))
    assert together == (NOW - timedelta(days=1000), end)


def test_a_revocation_list_says_when_it_was_issued_and_when_the_next_is_due() -> None:
    assert crl_window(CRL) == (INTEL.issued, INTEL.next_update)


@pytest.mark.parametrize("der", [b"", b"0", CRL[:-1], CRL + b"0", INTEL.pem("root").encode()], ids=range(5))
def test_what_is_no_revocation_list_is_refused(der: bytes) -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        crl_window(der)


@given(st.sampled_from([PEM, b"-----BEGIN CERTIFICATE-----\n"]), st.integers(0, len(PEM)), st.binary(max_size=20))
def test_spoilt_pem_is_read_or_refused_and_nothing_else(pem: bytes, at: int, spoilt: bytes) -> None:
    data = pem[:at] + spoilt + pem[at + len(spoilt) :]
    assert is_tellable(refusal_of(lambda: common_name(read_chain(data, length=3)[0])))


@given(st.integers(0, len(CRL)), st.binary(max_size=20))
def test_a_spoilt_revocation_list_is_read_or_refused_and_nothing_else(at: int, spoilt: bytes) -> None:
    assert is_tellable(refusal_of(lambda: crl_window(CRL[:at] + spoilt + CRL[at + len(spoilt) :])))


@pytest.mark.parametrize("names", [(), ("Intel SGX Root CA", "Intel SGX PCK Certificate")], ids=["none", "two"])
def test_only_one_common_name_is_a_name(names: tuple[str, ...]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    with pytest.raises(EvidenceError, match="no common name, or several"):
        common_name(builder.sign(key, hashes.SHA256()))


def test_a_certificate_of_the_year_zero_cannot_be_read() -> None:
    role = "root"
    pem = ForgedIntel(ends={role: LAST}).pem(role).encode()
    assert read_chain(pem, length=1)
    with pytest.raises(EvidenceError, match="not certificates"):
        read_chain(in_year_zero(pem), length=1)
