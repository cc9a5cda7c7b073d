"""Collateral is found by the names that are documented, and delivered under the same."""

from __future__ import annotations

from typing import Any

import pytest

from attestation.errors import EvidenceError
from attestation.snp.abi import Product, SigningKey, parse_report
from attestation.snp.collateral import Piece, chain_key, collateral_of, crl_key, look_up, vek_key
from attestation.snp.table import CertificateTable, parse_certificate_table
from attestation.types import CollateralKey, CollateralKind
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.snp.judge import replaced

MILAN, TURIN = ForgedAmd(Product.MILAN), ForgedAmd(Product.TURIN)
LENT = ForgedAmd(Product.GENOA, SigningKey.VLEK)
REPORT = MILAN.report()
OLD_REPORT = MILAN.report(version=2)


def test_a_vek_is_named_by_key_product_chip_and_firmware() -> None:
    names = [vek_key(parse_report(amd.report())).name for amd in (MILAN, TURIN, LENT)]
    assert names == [
        f"vcek/Milan/{MILAN.chip_id.hex()}/04000000000018db",
        f"vcek/Turin/{TURIN.chip_id[:8].hex()}/0101010400000051",
        f"vlek/Genoa/{LENT.chip_id.hex()}/0900000000001748",
    ]


def test_a_report_that_does_not_name_its_product_has_a_dash_for_it() -> None:
    name = vek_key(parse_report(OLD_REPORT)).name
    assert name == f"vcek/-/{MILAN.chip_id.hex()}/04000000000018db"


def test_chain_and_revocation_list_are_named_by_key_and_product() -> None:
    assert chain_key(SigningKey.VLEK, Product.TURIN) == CollateralKey(CollateralKind.SNP_CHAIN, "vlek/Turin")
    assert crl_key(SigningKey.VCEK, Product.MILAN) == CollateralKey(CollateralKind.SNP_CRL, "vcek/Milan")


@pytest.mark.parametrize("amd", [MILAN, TURIN, LENT], ids=lambda amd: f"{amd.signing} of {amd.product}")
def test_everything_at_hand_is_found(amd: ForgedAmd) -> None:
    report = amd.report()
    collateral = amd.collateral(report)
    found = look_up(parse_report(report), collateral)
    assert found.product is amd.product
    assert found.vek.value is not None
    assert found.vek.value.certificate.der == collateral[vek_key(parse_report(report))]
    assert found.chain.value is not None
    assert (found.chain.value.ask.der, found.chain.value.ark.der) == (amd.ask().der(), amd.ark().der())
    assert found.crl.value is not None


def test_the_vek_tells_the_product_that_an_old_report_does_not() -> None:
    found = look_up(parse_report(OLD_REPORT), MILAN.collateral(OLD_REPORT))
    assert found.product is Product.MILAN
    assert found.chain.value is not None


def test_without_a_product_nothing_but_the_vek_is_looked_up() -> None:
    collateral = MILAN.collateral(OLD_REPORT)
    for vek in (None, b"no certificate"):
        found = look_up(parse_report(OLD_REPORT), replaced(collateral, CollateralKind.SNP_VEK, vek))
        assert (found.product, found.chain.value, found.crl.value) == (None, None, None)
        assert "names the product" in found.chain.fault


@pytest.mark.parametrize("kind", [CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN, CollateralKind.SNP_CRL])
@pytest.mark.parametrize("data", [None, b"", b"junk", b"\x30\x80", bytes(300_000)])
def test_a_missing_or_unreadable_piece_is_told(kind: CollateralKind, data: bytes | None) -> None:
    found = look_up(parse_report(REPORT), replaced(MILAN.collateral(REPORT), kind, data))
    pieces: dict[CollateralKind, Piece[Any]] = {
        CollateralKind.SNP_VEK: found.vek,
        CollateralKind.SNP_CHAIN: found.chain,
        CollateralKind.SNP_CRL: found.crl,
    }
    assert pieces[kind].value is None
    assert pieces[kind].fault
    assert all(piece.value is not None for other, piece in pieces.items() if other is not kind)


def test_a_chain_is_two_certificates() -> None:
    collateral = MILAN.collateral(REPORT)
    for chain in (MILAN.chain() * 2, MILAN.chain()[: MILAN.chain().index(b"-----END") + 25]):
        found = look_up(parse_report(REPORT), replaced(collateral, CollateralKind.SNP_CHAIN, chain))
        assert found.chain.value is None


@pytest.mark.parametrize(("amd", "version"), [(MILAN, 2), (MILAN, 3), (LENT, 2), (LENT, 3), (TURIN, 3), (TURIN, 5)])
def test_a_hosts_table_is_delivered_under_the_names_that_are_looked_up(amd: ForgedAmd, version: int) -> None:
    report = parse_report(amd.report(version=version))
    vek = amd.vek(amd.report(version=version))
    table = CertificateTable(vcek=vek, vlek=vek, ask=amd.ask().der(), ark=amd.ark().der())
    delivered = collateral_of(report, table)
    assert delivered == {vek_key(report): vek, chain_key(amd.signing, amd.product): amd.chain()}


def test_a_table_without_a_whole_chain_delivers_none() -> None:
    report, vek = parse_report(REPORT), MILAN.vek(REPORT)
    ask, ark = MILAN.ask().der(), MILAN.ark().der()
    assert collateral_of(report, CertificateTable()) == {}
    assert collateral_of(report, CertificateTable(vlek=vek)) == {}
    for table in (CertificateTable(vcek=vek, ask=ask), CertificateTable(vcek=vek, ark=ark)):
        assert collateral_of(report, table) == {vek_key(report): vek}


def test_a_chain_without_a_vek_is_delivered_when_the_report_names_the_product() -> None:
    table = CertificateTable(ask=MILAN.ask().der(), ark=MILAN.ark().der())
    delivered = collateral_of(parse_report(REPORT), table)
    assert set(delivered) == {chain_key(SigningKey.VCEK, Product.MILAN)}
    assert collateral_of(parse_report(OLD_REPORT), table) == {}


def test_a_vek_that_must_tell_the_product_and_cannot_be_read_is_refused() -> None:
    table = parse_certificate_table(MILAN.table(OLD_REPORT))
    with pytest.raises(EvidenceError):
        collateral_of(parse_report(OLD_REPORT), CertificateTable(b"junk", None, table.ask, table.ark))
