"""How is Intel's provisioning certification service asked (its API v4)?

::

    tdx  GET  {intel_pcs}/tdx/certification/v4/tcb?fmspc=.., /qe/identity          JSON
         GET  {intel_pcs}/sgx/certification/v4/pckcrl?ca=..&encoding=der           DER
         GET  {intel_root_crl}                                                     DER

The four become one piece; the chains of issuers stand in the answers' headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlencode

from attestation.collateral.source import DAY, Lookup, Question, Source, read_object
from attestation.tdx.collateral import parse_collateral
from attestation.types import CollateralKind


async def _collateral(lookup: Lookup) -> bytes:
    platform, ca = lookup.name.split("/")
    fmspc = bytes.fromhex(platform).hex()
    tdx, sgx = (f"{lookup.sources.intel_pcs}/{technology}/certification/v4" for technology in ("tdx", "sgx"))
    tcb = await lookup.ask(Question(f"{tdx}/tcb?{urlencode({'fmspc': fmspc})}"))
    identity = await lookup.ask(Question(f"{tdx}/qe/identity"))
    crl = await lookup.ask(Question(f"{sgx}/pckcrl?{urlencode({'ca': ca, 'encoding': 'der'})}"))
    root_crl = await lookup.get(lookup.sources.intel_root_crl)
    tcb_info, tcb_signature = _signed_member(tcb.body, "tcbInfo")
    qe_identity, qe_signature = _signed_member(identity.body, "enclaveIdentity")
    return json.dumps(
        {
            "pck_crl_issuer_chain": unquote(crl.headers["sgx-pck-crl-issuer-chain"]),
            "root_ca_crl": root_crl.hex(),
            "pck_crl": crl.body.hex(),
            "tcb_info_issuer_chain": unquote(tcb.headers["tcb-info-issuer-chain"]),
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": unquote(identity.headers["sgx-enclave-identity-issuer-chain"]),
            "qe_identity": qe_identity,
            "qe_identity_signature": qe_signature,
        }
    ).encode()


def _signed_member(body: bytes, member: str) -> tuple[str, str]:
    """The exact text of a member, which is what was signed, and the signature in hexadecimal.

    Read by its place, never written anew: `{"<member>":<text>,"signature":"<hex>"}`.
    """
    signature = bytes.fromhex(read_object(body)["signature"])
    text, opening = body.decode("utf-8").lstrip(), f'{{"{member}":'
    if not text.startswith(opening):
        raise ValueError("not a signed member")
    _, end = json.JSONDecoder().raw_decode(text, len(opening))
    return text[len(opening) : end], signature.hex()


SOURCES: Final[Mapping[CollateralKind, Source]] = {
    CollateralKind.TDX: Source(_collateral, keep=DAY, end=lambda data: parse_collateral(data).next_update),
}
