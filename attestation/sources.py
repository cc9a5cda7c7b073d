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

from cryptography import x509
from cryptography.x509 import ocsp

from attestation import strictjson
from attestation.errors import EvidenceError, FetchError
from attestation.snp.abi import Product, parse_tcb
from attestation.types import CollateralKey, CollateralKind
from attestation.validation import decode_base64

MAX_PIECE_BYTES = 1024 * 1024

KEEP_WITHOUT_DATE = timedelta(days=1)
"""For pieces that name no next update: a vendor may sign them anew, or publish other keys."""


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


async def fetch_piece(key: CollateralKey, sources: Sources, ask: Ask) -> bytes:
    """The piece of that name, as its vendor publishes it now. Raises FetchError."""
    try:
        return await _FETCHERS[key.kind](key.name, sources, ask)
    except (ValueError, KeyError) as exc:  # a name, or an answer, that is not of the agreed form
        raise FetchError(f"{key.kind}: not an answer as agreed ({type(exc).__name__})") from exc


async def _vek(name: str, sources: Sources, ask: Ask) -> bytes:
    key, product, chip_id, tcb = name.split("/")
    if key != "vcek" or product == "-":
        raise FetchError("snp-vek: only the engine has it")
    turin = product == Product.TURIN
    parts = parse_tcb(bytes.fromhex(tcb), fmc=turin)
    query = {"blSPL": parts.bootloader, "teeSPL": parts.tee, "snpSPL": parts.snp, "ucodeSPL": parts.microcode}
    if turin:
        query = {"fmcSPL": parts.fmc or 0, **query}
    return (await ask(Question(f"{sources.amd_kds}/vcek/v1/{product}/{chip_id}?{urlencode(query)}"))).body


async def _chain(name: str, sources: Sources, ask: Ask) -> bytes:
    key, product = name.split("/")
    return (await ask(Question(f"{sources.amd_kds}/{key}/v1/{product}/cert_chain"))).body


async def _crl(name: str, sources: Sources, ask: Ask) -> bytes:
    key, product = name.split("/")
    return (await ask(Question(f"{sources.amd_kds}/{key}/v1/{product}/crl"))).body


async def _tdx(name: str, sources: Sources, ask: Ask) -> bytes:
    fmspc, ca = name.split("/")
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
    text = body.decode("utf-8").strip()
    opening = f'{{"{member}":'
    if not text.startswith(opening):
        raise ValueError("not a signed member")
    _, length = json.JSONDecoder().raw_decode(text[len(opening) :])
    end = len(opening) + length
    rest = json.loads("{" + text[end:].lstrip().removeprefix(","))
    return text[len(opening) : end], bytes.fromhex(rest["signature"]).hex()


async def _rim(name: str, sources: Sources, ask: Ask) -> bytes:
    reply = await ask(Question(f"{sources.nvidia_rim}/v1/rim/{quote(name, safe='')}"))
    return decode_base64(_object(reply.body)["rim"])


async def _ocsp(name: str, sources: Sources, ask: Ask) -> bytes:
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return (await ask(Question(sources.nvidia_ocsp, bytes.fromhex(name), headers))).body


async def _nras_keys(_: str, sources: Sources, ask: Ask) -> bytes:
    return (await ask(Question(f"{sources.nvidia_nras}/.well-known/jwks.json"))).body


async def _nras(_: str, __: Sources, ___: Ask) -> bytes:
    raise FetchError("gpu-nras: its question is the evidence itself, which a name does not hold")


_FETCHERS: Mapping[CollateralKind, Callable[[str, Sources, Ask], Awaitable[bytes]]] = {
    CollateralKind.SNP_VEK: _vek,
    CollateralKind.SNP_CHAIN: _chain,
    CollateralKind.SNP_CRL: _crl,
    CollateralKind.TDX: _tdx,
    CollateralKind.GPU_RIM: _rim,
    CollateralKind.GPU_OCSP: _ocsp,
    CollateralKind.GPU_NRAS: _nras,
    CollateralKind.GPU_NRAS_KEYS: _nras_keys,
}


def _object(data: bytes) -> dict[str, Any]:
    value = strictjson.loads(data, max_bytes=MAX_PIECE_BYTES)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of fault for the caller
    return value


def good_until(key: CollateralKey, data: bytes, fetched_at: datetime) -> datetime:
    """When a newer piece should be asked for. Raises EvidenceError when the piece cannot be read."""
    if key.kind in _FOR_EVER:
        return datetime.max.replace(tzinfo=UTC)
    if (dates := _NEXT_UPDATES.get(key.kind)) is None:
        return fetched_at + KEEP_WITHOUT_DATE
    try:
        return min(dates(data), default=fetched_at + KEEP_WITHOUT_DATE)
    except (ValueError, KeyError, TypeError) as exc:
        raise EvidenceError(f"{key.kind}: cannot be read ({type(exc).__name__})") from exc


def _crl_update(data: bytes) -> list[datetime]:
    update = x509.load_der_x509_crl(data).next_update_utc
    return [update] if update else []


def _tdx_updates(data: bytes) -> list[datetime]:
    members = _object(data)
    documents = (_object(members[name].encode()) for name in ("tcb_info", "qe_identity"))
    crls = (_crl_update(bytes.fromhex(members[name])) for name in ("root_ca_crl", "pck_crl"))
    return [datetime.fromisoformat(document["nextUpdate"]) for document in documents] + [
        update for updates in crls for update in updates
    ]


def _ocsp_updates(data: bytes) -> list[datetime]:
    answers = ocsp.load_der_ocsp_response(data).responses
    return [answer.next_update_utc for answer in answers if answer.next_update_utc]


_FOR_EVER = (CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN)
"""Certificates: good as long as they are valid, which is for the appraisal to say."""

_NEXT_UPDATES: Mapping[CollateralKind, Callable[[bytes], list[datetime]]] = {
    CollateralKind.SNP_CRL: _crl_update,
    CollateralKind.TDX: _tdx_updates,
    CollateralKind.GPU_OCSP: _ocsp_updates,
}
