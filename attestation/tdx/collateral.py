"""What does Intel say of a platform? One piece of collateral: TCB info, QE identity, two CRLs and three chains.

It is the JSON of `dcap_qvl`'s QuoteCollateralV3; binary members are lower-case hexadecimal::

    {"root_ca_crl": "<DER>", "pck_crl": "<DER>", "pck_crl_issuer_chain": "<PEM>",
     "tcb_info": "<JSON as it was signed>", "tcb_info_signature": "<r || s>", "tcb_info_issuer_chain": "<PEM>",
     "qe_identity": "<JSON as it was signed>", "qe_identity_signature": "<r || s>", "qe_identity_issuer_chain": "<PEM>"}

`pck_certificate_chain`, which that library adds to what it fetches itself, may stand there too and is dropped: the
library would believe it in place of the chain in the quote.

Nothing that is read here is authentic yet: `attestation.tdx.chain` hands the same bytes to the library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import ConfigDict, Field, PlainValidator, StringConstraints, TypeAdapter

from attestation.errors import EvidenceError
from attestation.tdx.certificates import MAX_CHAIN_BYTES, Chain, crl_window, read_chain
from core.program import strictjson
from core.program.validation import STRICT, T, validate

MAX_COLLATERAL_BYTES: Final = 1024 * 1024
"""It takes about 20 kB; long lists of revoked certificates would make it more."""

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_ISSUER_CHAIN_LENGTH: Final = 2


def _decode_hex(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError("must be lower-case hexadecimal")
    return bytes.fromhex(value)


def _decode_signature(value: object) -> bytes:
    if len(signature := _decode_hex(value)) != 64:
        raise ValueError("must be 64 bytes")
    return signature


def _decode_instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a time")  # noqa: TRY004 - pydantic turns ValueError into a fault
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError("must be a time in UTC") from None


_Hex = Annotated[bytes, PlainValidator(_decode_hex)]
_Signature = Annotated[bytes, PlainValidator(_decode_signature)]
_Instant = Annotated[datetime, PlainValidator(_decode_instant)]
_Pem = Annotated[str, StringConstraints(max_length=MAX_CHAIN_BYTES)]


@dataclass(frozen=True, slots=True)
class Members:
    """The members as the library takes them."""

    __pydantic_config__ = STRICT

    pck_crl_issuer_chain: _Pem
    root_ca_crl: _Hex
    pck_crl: _Hex
    tcb_info_issuer_chain: _Pem
    tcb_info: str
    tcb_info_signature: _Signature
    qe_identity_issuer_chain: _Pem
    qe_identity: str
    qe_identity_signature: _Signature
    pck_certificate_chain: str | None = None


# Intel signs these and may add to them, so members that are not asked for are passed over.
_SIGNED_JSON = ConfigDict(strict=True, extra="ignore")


@dataclass(frozen=True, slots=True)
class _QeIdentity:
    __pydantic_config__ = _SIGNED_JSON

    issued: Annotated[_Instant, Field(alias="issueDate")]
    next_update: Annotated[_Instant, Field(alias="nextUpdate")]


@dataclass(frozen=True, slots=True)
class _TcbInfo(_QeIdentity):
    pce_id: Annotated[str, Field(alias="pceId", pattern=r"^[0-9A-Fa-f]{4}$")]


_MEMBERS = TypeAdapter(Members)
_QE_IDENTITY = TypeAdapter(_QeIdentity)
_TCB_INFO = TypeAdapter(_TcbInfo)


@dataclass(frozen=True, slots=True)
class TdxCollateral:
    """Collateral that can be read.

    crl_chain, tcb_chain, qe_chain: the issuer, then the root, of the PCK CRL, TCB info and QE identity.
    pce_id: of the platforms that the TCB info is for, 2 bytes.
    oldest: when the oldest of TCB info, QE identity and PCK CRL was issued. newest: when the last of all was.
    next_update: when the first of all is due to be replaced.
    """

    members: Members
    crl_chain: Chain
    tcb_chain: Chain
    qe_chain: Chain
    pce_id: bytes
    oldest: datetime
    newest: datetime
    next_update: datetime


def parse_collateral(data: bytes) -> TdxCollateral:
    """Read a piece of collateral. Raises EvidenceError."""
    members = _parse(_MEMBERS, data, "")
    tcb_info = _parse(_TCB_INFO, members.tcb_info.encode(), "tcb_info: ")
    qe_identity = _parse(_QE_IDENTITY, members.qe_identity.encode(), "qe_identity: ")
    root_crl_issued, root_crl_next = crl_window(members.root_ca_crl)
    pck_crl_issued, pck_crl_next = crl_window(members.pck_crl)
    recurring = (tcb_info.issued, qe_identity.issued, pck_crl_issued)
    return TdxCollateral(
        members,
        crl_chain=_issuer_chain(members.pck_crl_issuer_chain),
        tcb_chain=_issuer_chain(members.tcb_info_issuer_chain),
        qe_chain=_issuer_chain(members.qe_identity_issuer_chain),
        pce_id=bytes.fromhex(tcb_info.pce_id),
        oldest=min(recurring),
        newest=max(*recurring, root_crl_issued),
        next_update=min(tcb_info.next_update, qe_identity.next_update, root_crl_next, pck_crl_next),
    )


def _parse(adapter: TypeAdapter[T], data: bytes, place: str) -> T:
    try:
        return validate(adapter, strictjson.loads(data, max_bytes=MAX_COLLATERAL_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"{place}{exc}") from None


def _issuer_chain(pem: str) -> Chain:
    return read_chain(pem.encode(), length=_ISSUER_CHAIN_LENGTH)
