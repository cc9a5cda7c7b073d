"""How is AMD's key distribution service asked (AMD 57230)?

::

    snp-vek    GET  {amd_kds}/vcek/v1/{product}/{hwID}?blSPL=..&teeSPL=..&snpSPL=..&ucodeSPL=..[&fmcSPL=..]   DER
    snp-chain  GET  {amd_kds}/{vcek|vlek}/v1/{product}/cert_chain                                          PEM
    snp-crl    GET  {amd_kds}/{vcek|vlek}/v1/{product}/crl                                                 DER

A VLEK is not fetched: AMD gives it only to its cloud provider, whose engine delivers it. Certificates stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from attestation.collateral.source import DAY, Lookup, Source
from attestation.errors import FetchError
from attestation.snp.abi import Product, SigningKey, parse_tcb
from attestation.snp.certificate import from_pem, parse_certificate, parse_crl
from attestation.snp.collateral import MAX_CHAIN_BYTES, UNKNOWN_PRODUCT
from attestation.snp.vek import parse_vek
from attestation.types import CollateralKind


async def _vek(lookup: Lookup) -> bytes:
    key, product_name, chip_id, tcb = lookup.name.split("/")
    if key != SigningKey.VCEK or product_name == UNKNOWN_PRODUCT:
        raise FetchError("only the engine can have it")
    product = Product(product_name)
    levels = parse_tcb(bytes.fromhex(tcb), fmc=product.has_fmc)
    query = {"blSPL": levels.bootloader, "teeSPL": levels.tee, "snpSPL": levels.snp, "ucodeSPL": levels.microcode}
    if levels.fmc is not None:
        query["fmcSPL"] = levels.fmc
    hardware_id = bytes.fromhex(chip_id).hex()
    return await lookup.get(f"{lookup.sources.amd_kds}/vcek/v1/{product}/{hardware_id}?{urlencode(query)}")


async def _chain(lookup: Lookup) -> bytes:
    return await lookup.get(f"{_authority(lookup)}/cert_chain")


async def _crl(lookup: Lookup) -> bytes:
    return await lookup.get(f"{_authority(lookup)}/crl")


def _authority(lookup: Lookup) -> str:
    key, product = lookup.name.split("/")
    return f"{lookup.sources.amd_kds}/{SigningKey(key)}/v1/{Product(product)}"


def _chain_end(pem: bytes) -> datetime:
    certificates = from_pem(pem, limit=MAX_CHAIN_BYTES)
    return min(parse_certificate(certificate).not_after for certificate in certificates)


SOURCES: Final[Mapping[CollateralKind, Source]] = {
    CollateralKind.SNP_VEK: Source(_vek, end=lambda der: parse_vek(der).certificate.not_after),
    CollateralKind.SNP_CHAIN: Source(_chain, end=_chain_end),
    CollateralKind.SNP_CRL: Source(_crl, keep=DAY, end=lambda der: parse_crl(der).next_update),
}
