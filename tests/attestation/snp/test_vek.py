"""A VCEK or VLEK certificate says whose key it is, or it is refused."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.snp.abi import Product, SigningKey, Tcb, parse_report
from attestation.snp.vek import issuer_name, parse_vek
from tests.attestation.snp.forge import CSP_ID, ForgedAmd, ec_key, ia5, integer, rsa_key

MILAN, TURIN = ForgedAmd(Product.MILAN), ForgedAmd(Product.TURIN)
LENT = ForgedAmd(Product.GENOA, SigningKey.VLEK)


@pytest.mark.parametrize("product", Product)
def test_a_vcek_names_its_chip_and_its_firmware(product: Product) -> None:
    amd = ForgedAmd(product)
    report = amd.report()
    vek = parse_vek(amd.vek(report))
    assert (vek.key, vek.product, vek.csp_id) == (SigningKey.VCEK, product, None)
    assert vek.tcb == parse_report(report).reported_tcb
    assert vek.hardware_id == parse_report(report).hardware_id
    assert vek.public_key == ec_key("vek").public_key()


@pytest.mark.parametrize("product", Product)
def test_a_vlek_names_its_cloud(product: Product) -> None:
    amd = ForgedAmd(product, SigningKey.VLEK)
    vek = parse_vek(amd.vek(amd.report()))
    assert (vek.key, vek.product, vek.csp_id, vek.hardware_id) == (SigningKey.VLEK, product, CSP_ID, None)


def test_the_issuer_of_a_key_is_named_as_amd_does() -> None:
    names = [issuer_name(key, product) for key in SigningKey for product in Product]
    assert names == ["SEV-Milan", "SEV-Genoa", "SEV-Turin", "SEV-VLEK-Milan", "SEV-VLEK-Genoa", "SEV-VLEK-Turin"]


def test_patch_levels_of_two_bytes_are_read() -> None:
    report = MILAN.report(reported_tcb=bytes([127, 128, 0, 0, 0, 0, 200, 255]))
    assert parse_vek(MILAN.vek(report)).tcb == Tcb(127, 128, 200, 255)


@pytest.mark.parametrize("name", ["Genoa", "Genoa-B1", "Siena", "Siena-A0", "Bergamo"])
def test_the_processors_of_a_line_share_its_keys(name: str) -> None:
    amd = ForgedAmd(Product.GENOA)
    assert parse_vek(amd.vek(amd.report(), extensions={"2": ia5(name)})).product is Product.GENOA


def test_a_hardware_id_may_be_wrapped() -> None:
    report = MILAN.report()
    wrapped = {"4": b"\x04\x40" + MILAN.chip_id}
    assert parse_vek(MILAN.vek(report, extensions=wrapped)).hardware_id == MILAN.chip_id


def test_extensions_may_be_critical_when_they_are_known() -> None:
    for amd in (MILAN, TURIN, LENT):
        parse_vek(amd.vek(amd.report(), critical=True))


BAD = [
    *((number, None, "missing or not") for number in ("1", "2", "3.1", "3.2", "3.3", "3.8")),
    ("4", None, "does not name a chip"),
    ("4", b"\x04\x40" + bytes(63), "missing or not"),
    ("5", ia5(CSP_ID), "names both"),
    ("1", integer(1), "way that is not known"),
    ("1", integer(2), "way that is not known"),
    ("3.9", integer(1), "way that is not known"),
    ("3.4", integer(1), "parts of the firmware"),
    ("3.7", integer(255), "parts of the firmware"),
    ("3.1", integer(256), "not one byte"),
    ("3.1", b"\x02\x01\xff", "not one byte"),
    ("3.1", b"\x02\x02\x00\x01", "missing or not"),
    ("3.1", integer(4) + b"\x00", "missing or not"),
    ("3.1", b"\x04\x01\x04", "missing or not"),
    ("2", ia5("Genoa-B0"), "another product"),
    ("2", ia5("Milano"), "another product"),
    ("2", b"\x0c\x08Milan-B0", "missing or not"),
    ("2", ia5("Milan\x1b[2J"), "printable"),
    ("2", ia5("Milan-" + "B" * 59), "printable"),
]


@pytest.mark.parametrize(("number", "value", "fault"), BAD)
def test_an_extension_that_is_not_as_amd_makes_it_is_refused(number: str, value: bytes | None, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        parse_vek(MILAN.vek(MILAN.report(), extensions={number: value}))


def test_a_turin_key_counts_the_first_mutable_code() -> None:
    with pytest.raises(EvidenceError, match="way that is not known"):
        parse_vek(TURIN.vek(TURIN.report(), extensions={"3.9": None}))


def test_a_vlek_without_a_cloud_is_refused() -> None:
    for extensions in ({"5": None}, {"5": None, "4": bytes(64)}, {"4": bytes(64)}):
        with pytest.raises(EvidenceError, match="does not name"):
            parse_vek(LENT.vek(LENT.report(), extensions=extensions))


def test_a_certificate_of_another_role_is_refused() -> None:
    report = MILAN.report()
    with pytest.raises(EvidenceError, match="not that of a vcek"):
        parse_vek(MILAN.vek(report, subject="SEV-VLEK"))
    with pytest.raises(EvidenceError, match="not that of a vlek"):
        parse_vek(MILAN.vek(report, issuer="SEV-VLEK-Milan"))
    for issuer in ("ARK-Milan", "SEV-Venice", "SEV-"):
        with pytest.raises(EvidenceError, match="no ASK or ASVK"):
            parse_vek(MILAN.vek(report, issuer=issuer))
    for authority in (MILAN.ask(), MILAN.ark()):
        with pytest.raises(EvidenceError):
            parse_vek(authority.der())


def test_a_critical_extension_that_is_not_known_is_refused() -> None:
    with pytest.raises(EvidenceError, match="critical"):
        parse_vek(MILAN.vek(MILAN.report(), extensions={"99": b"?"}, critical=True))
    parse_vek(MILAN.vek(MILAN.report(), extensions={"99": b"?"}))


def test_a_key_that_is_not_on_p384_is_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa_key("ask")):
        with pytest.raises(EvidenceError, match="P-384"):
            parse_vek(MILAN.vek(MILAN.report(), public_key=key.public_key()))


@given(st.data())
def test_any_bytes_in_the_extensions_are_read_or_refused(data: st.DataObject) -> None:
    der = data.draw(st.sampled_from(CERTIFICATES))
    overwriting = data.draw(st.binary(min_size=1, max_size=12))
    place = data.draw(st.integers(der.index(AMD_ARC), der.rindex(AMD_ARC) + 80))
    with contextlib.suppress(EvidenceError):
        parse_vek(der[:place] + overwriting + der[place + len(overwriting) :])


AMD_ARC = bytes.fromhex("2b060104019c78")
CERTIFICATES = [amd.vek(amd.report()) for amd in (MILAN, TURIN, LENT)]
