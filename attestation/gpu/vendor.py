"""How are NVIDIA's services asked?

::

    gpu-rim        GET  {nvidia_rim}/v1/rim/{id}                                        JSON, {"rim": "<base64>"}
    gpu-ocsp       POST {nvidia_ocsp}                                  (RFC 6960 appendix A)                  DER
    gpu-nras       POST {nvidia_nras}/v4/attest/{gpu|switch}                                                  JSON
    gpu-nras-keys  GET  {nvidia_nras}/.well-known/jwks.json                                                   JSON
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from cryptography.x509 import ocsp

from attestation.collateral.source import DAY, Lookup, Question, Source, read_object
from attestation.errors import FetchError
from attestation.types import CollateralKind
from core.program.validation import decode_base64


async def _rim(lookup: Lookup) -> bytes:
    body = await lookup.get(f"{lookup.sources.nvidia_rim}/v1/rim/{quote(lookup.name, safe='')}")
    return decode_base64(read_object(body)["rim"])


async def _ocsp(lookup: Lookup) -> bytes:
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return (await lookup.ask(Question(lookup.sources.nvidia_ocsp, bytes.fromhex(lookup.name), headers))).body


async def _nras(lookup: Lookup) -> bytes:
    endpoint = {"gpu": "gpu", "switch": "switch"}[lookup.name.partition("/")[0]]
    if lookup.question is None:
        raise FetchError("nothing to ask about")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    url = f"{lookup.sources.nvidia_nras}/v4/attest/{endpoint}"
    return (await lookup.ask(Question(url, lookup.question, headers))).body


async def _nras_keys(lookup: Lookup) -> bytes:
    return await lookup.get(f"{lookup.sources.nvidia_nras}/.well-known/jwks.json")


def _ocsp_end(der: bytes) -> datetime:
    answers = ocsp.load_der_ocsp_response(der).responses
    return min(answer.next_update_utc or answer.this_update_utc for answer in answers)


def _keys_end(jwks: bytes) -> datetime:
    _ = read_object(jwks)["keys"]
    return datetime.max.replace(tzinfo=UTC)


SOURCES: Final[Mapping[CollateralKind, Source]] = {
    CollateralKind.GPU_RIM: Source(_rim, keep=DAY),
    CollateralKind.GPU_OCSP: Source(_ocsp, keep=DAY, end=_ocsp_end),
    CollateralKind.GPU_NRAS: Source(_nras, keep=DAY, is_asked_once=True),
    # Some are added every day, and a verdict may need the newest.
    CollateralKind.GPU_NRAS_KEYS: Source(_nras_keys, keep=timedelta(hours=1), end=_keys_end, is_unsigned=True),
}
