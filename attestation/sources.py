"""Where do the vendors publish collateral, and for how long is a piece good? Their interfaces, without the network.

::

    snp-vek        GET  {amd_kds}/vcek/v1/{product}/{hwID}?blSPL=..&teeSPL=..&snpSPL=..&ucodeSPL=..[&fmcSPL=..]   DER
    snp-chain      GET  {amd_kds}/{vcek|vlek}/v1/{product}/cert_chain                                         PEM
    snp-crl        GET  {amd_kds}/{vcek|vlek}/v1/{product}/crl                                                DER
    tdx            GET  {intel_pcs}/tdx/certification/v4/tcb?fmspc=.., /qe/identity                           JSON
                   GET  {intel_pcs}/sgx/certification/v4/pckcrl?ca=..&encoding=der                            DER
                   GET  {intel_root_crl}                                                                      DER
    gpu-rim        GET  {nvidia_rim}/v1/rim/{id}                                        JSON, {"rim": "<base64>"}
    gpu-ocsp       POST {nvidia_ocsp}                                                                         DER
    gpu-nras       POST {nvidia_nras}/v3/attest/{gpu|switch}                                                  JSON
    gpu-nras-keys  GET  {nvidia_nras}/.well-known/jwks.json                                                   JSON

(AMD 57230, Intel's PCS API v4, NVIDIA's RIM service, RFC 6960 appendix A.) What comes is not believed here: appraising
it is somebody else's work. A VLEK is not fetched: AMD gives it only to its cloud provider, whose engine delivers it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote, urlencode

from cryptography.x509 import ocsp

from attestation import strictjson
from attestation.errors import EvidenceError, FetchError
from attestation.snp.abi import Product, SigningKey, parse_tcb
from attestation.snp.certificate import from_pem, parse_certificate, parse_crl
from attestation.snp.collateral import MAX_CHAIN_BYTES, UNKNOWN_PRODUCT
from attestation.snp.vek import parse_vek
from attestation.tdx.collateral import parse_collateral
from attestation.types import CollateralKey, CollateralKind
from attestation.validation import decode_base64

MAX_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sources:
    """The services, each an origin and path without a final slash."""

    amd_kds: str = "https://kdsintf.amd.com"
    intel_pcs: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"
    nvidia_nras: str = "https://nras.attestation.nvidia.com"


@dataclass(frozen=True, slots=True)
class Question:
    """An HTTP request: a GET, or a POST of `body`."""

    url: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200. headers: names in lower case."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Ask = Callable[[Question], Awaitable[Reply]]
"""Raises FetchError."""


async def fetch_piece(key: CollateralKey, sources: Sources, ask: Ask, *, question: bytes | None = None) -> bytes:
    """The piece of that name, as its vendor publishes it now. Raises FetchError.

    question: what must be sent to get it, where its name does not hold that: for `gpu-nras`, the evidence.
    """
    try:
        if key.kind is CollateralKind.GPU_NRAS:
            return await _nras(key.name, question, sources, ask)
        return await _FETCHERS[key.kind](key.name, sources, ask)
    except (ValueError, KeyError, TypeError, EvidenceError) as exc:  # a name, or an answer, not of the agreed form
        raise FetchError(f"not an answer as agreed ({type(exc).__name__})") from exc


async def _vek(name: str, sources: Sources, ask: Ask) -> bytes:
    key, product_name, chip_id, tcb = name.split("/")
    if key != SigningKey.VCEK or product_name == UNKNOWN_PRODUCT:
        raise FetchError("only the engine can have it")
    product = Product(product_name)
    levels = parse_tcb(bytes.fromhex(tcb), fmc=product.has_fmc)
    query = {"blSPL": levels.bootloader, "teeSPL": levels.tee, "snpSPL": levels.snp, "ucodeSPL": levels.microcode}
    if levels.fmc is not None:
        query["fmcSPL"] = levels.fmc
    hardware_id = bytes.fromhex(chip_id).hex()
    return (await ask(Question(f"{sources.amd_kds}/vcek/v1/{product}/{hardware_id}?{urlencode(query)}"))).body


async def _chain(name: str, sources: Sources, ask: Ask) -> bytes:
    return (await ask(Question(f"{_authority(name, sources)}/cert_chain"))).body


async def _crl(name: str, sources: Sources, ask: Ask) -> bytes:
    return (await ask(Question(f"{_authority(name, sources)}/crl"))).body


def _authority(name: str, sources: Sources) -> str:
    key, product = name.split("/")
    return f"{sources.amd_kds}/{SigningKey(key)}/v1/{Product(product)}"


async def _tdx(name: str, sources: Sources, ask: Ask) -> bytes:
    platform, ca = name.split("/")
    fmspc = bytes.fromhex(platform).hex()
    tdx, sgx = (f"{sources.intel_pcs}/{technology}/certification/v4" for technology in ("tdx", "sgx"))
    tcb = await ask(Question(f"{tdx}/tcb?{urlencode({'fmspc': fmspc})}"))
    identity = await ask(Question(f"{tdx}/qe/identity"))
    crl = await ask(Question(f"{sgx}/pckcrl?{urlencode({'ca': ca, 'encoding': 'der'})}"))
    root = await ask(Question(sources.intel_root_crl))
    tcb_info, tcb_signature = _signed_member(tcb.body, "tcbInfo")
    qe_identity, qe_signature = _signed_member(identity.body, "enclaveIdentity")
    return json.dumps(
        {
            "pck_crl_issuer_chain": unquote(crl.headers["sgx-pck-crl-issuer-chain"]),
            "root_ca_crl": root.body.hex(),
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
    signature = bytes.fromhex(_object(body)["signature"])
    text, opening = body.decode("utf-8").lstrip(), f'{{"{member}":'
    if not text.startswith(opening):
        raise ValueError("not a signed member")
    _, end = json.JSONDecoder().raw_decode(text, len(opening))
    return text[len(opening) : end], signature.hex()


async def _rim(name: str, sources: Sources, ask: Ask) -> bytes:
    reply = await ask(Question(f"{sources.nvidia_rim}/v1/rim/{quote(name, safe='')}"))
    return decode_base64(_object(reply.body)["rim"])


async def _ocsp(name: str, sources: Sources, ask: Ask) -> bytes:
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return (await ask(Question(sources.nvidia_ocsp, bytes.fromhex(name), headers))).body


async def _nras_keys(_: str, sources: Sources, ask: Ask) -> bytes:
    return (await ask(Question(f"{sources.nvidia_nras}/.well-known/jwks.json"))).body


async def _nras(name: str, evidence: bytes | None, sources: Sources, ask: Ask) -> bytes:
    if evidence is None:
        raise FetchError("nothing to ask about")
    endpoint = {"gpu": "gpu", "switch": "switch"}[name.partition("/")[0]]
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    return (await ask(Question(f"{sources.nvidia_nras}/v3/attest/{endpoint}", evidence, headers))).body


_FETCHERS: Mapping[CollateralKind, Callable[[str, Sources, Ask], Awaitable[bytes]]] = {
    CollateralKind.SNP_VEK: _vek,
    CollateralKind.SNP_CHAIN: _chain,
    CollateralKind.SNP_CRL: _crl,
    CollateralKind.TDX: _tdx,
    CollateralKind.GPU_RIM: _rim,
    CollateralKind.GPU_OCSP: _ocsp,
    CollateralKind.GPU_NRAS_KEYS: _nras_keys,
}
"""How each kind is asked for by its name; a verdict of NRAS is not."""


def _object(data: bytes) -> dict[str, Any]:
    value = strictjson.loads(data, max_bytes=MAX_PIECE_BYTES)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of fault for the caller
    return value


def good_until(key: CollateralKey, data: bytes, fetched_at: datetime) -> datetime:
    """When a newer piece should be asked for. Raises EvidenceError when the piece cannot be read."""
    try:
        ends = [fetched_at + _KEEP[key.kind]] if key.kind in _KEEP else []
        return min([*ends, _ENDS[key.kind](data)] if key.kind in _ENDS else ends)
    except (ValueError, KeyError, OverflowError) as exc:
        raise EvidenceError(f"{key.kind}: cannot be read ({type(exc).__name__})") from exc


_DAY = timedelta(days=1)

_KEEP: Mapping[CollateralKind, timedelta] = {
    CollateralKind.SNP_CRL: _DAY,
    CollateralKind.TDX: _DAY,
    CollateralKind.GPU_RIM: _DAY,
    CollateralKind.GPU_OCSP: _DAY,
    CollateralKind.GPU_NRAS: _DAY,
    CollateralKind.GPU_NRAS_KEYS: timedelta(hours=1),  # some are added every day, and a verdict may need the newest
}
"""For how long a vendor is believed to have nothing newer, whatever a piece says: a policy may want it younger than
its next update, and a revocation should be heard of soon. AMD's certificates stay as they are."""


def _chain_end(data: bytes) -> datetime:
    certificates = from_pem(data, limit=MAX_CHAIN_BYTES)
    return min(parse_certificate(certificate).not_after for certificate in certificates)


def _ocsp_end(data: bytes) -> datetime:
    answers = ocsp.load_der_ocsp_response(data).responses
    return min(answer.next_update_utc or answer.this_update_utc for answer in answers)


def _keys_end(data: bytes) -> datetime:
    _ = _object(data)["keys"]
    return datetime.max.replace(tzinfo=UTC)


_ENDS: Mapping[CollateralKind, Callable[[bytes], datetime]] = {
    CollateralKind.SNP_VEK: lambda data: parse_vek(data).certificate.not_after,
    CollateralKind.SNP_CHAIN: _chain_end,
    CollateralKind.SNP_CRL: lambda data: parse_crl(data).next_update,
    CollateralKind.TDX: lambda data: parse_collateral(data).next_update,
    CollateralKind.GPU_OCSP: _ocsp_end,
    CollateralKind.GPU_NRAS_KEYS: _keys_end,
}
"""What a piece says of its own end."""
