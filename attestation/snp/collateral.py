"""What vouches for a report, and by which names is it looked up?

One certificate for the key (VEK), the two above it (ASK or ASVK, then ARK), and the list of what the ARK revoked. The
guest may deliver all but the last; AMD's key distribution service has them too, except VLEKs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from attestation.errors import EvidenceError
from attestation.snp.abi import Product, SigningKey, SnpReport
from attestation.snp.certificate import (
    MAX_CERTIFICATE_BYTES,
    Certificate,
    RevocationList,
    from_pem,
    parse_certificate,
    parse_crl,
    to_pem,
)
from attestation.snp.table import CertificateTable
from attestation.snp.vek import Vek, parse_vek
from attestation.types import Collateral, CollateralKey, CollateralKind

T = TypeVar("T")

MAX_CHAIN_BYTES: Final = 4 * MAX_CERTIFICATE_BYTES
"""Two certificates as PEM."""

UNKNOWN_PRODUCT: Final = "-"


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificates above a VEK: ASK or ASVK, and ARK."""

    ask: Certificate
    ark: Certificate


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """One piece of collateral that was looked up; `fault` says why there is none, or none that can be read."""

    value: T | None
    fault: str


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What vouches for a report, read and not yet believed.

    product: of the report or, where it names none, of the VEK; None when neither does, and then nothing else is there.
    """

    product: Product | None
    vek: Piece[Vek]
    chain: Piece[Chain]
    crl: Piece[RevocationList]


def vek_key(report: SnpReport) -> CollateralKey:
    """The name of the report's VEK. A report of version 2 does not tell its product."""
    product = UNKNOWN_PRODUCT if report.product is None else report.product
    name = f"{report.signing_key}/{product}/{report.hardware_id.hex()}/{report.reported_tcb.encode().hex()}"
    return CollateralKey(CollateralKind.SNP_VEK, name)


def chain_key(key: SigningKey, product: Product) -> CollateralKey:
    return CollateralKey(CollateralKind.SNP_CHAIN, f"{key}/{product}")


def crl_key(key: SigningKey, product: Product) -> CollateralKey:
    return CollateralKey(CollateralKind.SNP_CRL, f"{key}/{product}")


def look_up(report: SnpReport, collateral: Collateral) -> Endorsements:
    """Find and read what vouches for a report."""
    vek = _piece(collateral, vek_key(report), parse_vek)
    product = report.product or (vek.value.product if vek.value else None)
    if product is None:
        fault = "it cannot be looked up: neither the report nor a VEK certificate names the product"
        return Endorsements(None, vek, Piece(None, fault), Piece(None, fault))
    return Endorsements(
        product,
        vek,
        _piece(collateral, chain_key(report.signing_key, product), _parse_chain),
        _piece(collateral, crl_key(report.signing_key, product), parse_crl),
    )


def _piece(collateral: Collateral, key: CollateralKey, parse: Callable[[bytes], T]) -> Piece[T]:
    data = collateral.get(key)
    if data is None:
        return Piece(None, f"none at hand ({key.name})")
    try:
        return Piece(parse(data), "")
    except EvidenceError as exc:
        return Piece(None, str(exc))


def _parse_chain(pem: bytes) -> Chain:
    certificates = from_pem(pem, limit=MAX_CHAIN_BYTES)
    if len(certificates) != 2:
        raise EvidenceError("the chain is not an ASK or ASVK and an ARK")
    ask, ark = certificates
    return Chain(parse_certificate(ask), parse_certificate(ark))


def collateral_of(report: SnpReport, table: CertificateTable) -> Collateral:
    """What a host's certificate table holds for a report, under the names that its appraisal looks up.

    A chain is there only when the table holds both of its certificates. Raises EvidenceError when the VEK cannot be
    read that must tell the product of a report of version 2.
    """
    vek = table.vlek if report.signing_key is SigningKey.VLEK else table.vcek
    pieces = {} if vek is None else {vek_key(report): vek}
    product = report.product or (parse_vek(vek).product if vek is not None else None)
    if product is None or table.ask is None or table.ark is None:
        return pieces
    return {**pieces, chain_key(report.signing_key, product): to_pem(table.ask) + to_pem(table.ark)}
