"""Is a TDX quote authentic, and what is its platform's TCB worth? The door to `dcap_qvl`.

The library verifies, offline and at a given time: the chains of PCK, TCB info and QE identity to a root that is handed
to it, with both CRLs; the signatures of TCB info, QE identity, QE report and quote, and that the QE report names the
attestation key; the QE report against the QE identity; and it finds the TCB levels of platform, TDX module and quoting
enclave. It refuses debug, profiled and migratable domains, those bound to a service TD, and anything revoked; every
other TCB status it returns, for the policy to judge.

Before it, here:

1. the chain in the quote is PCK, PCK CA and root, by name; the root is one whose fingerprint is believed, and is then
   the only one that the library is given, never the one compiled into it
2. the collateral's chains are those of the same PCK CA and of Intel's TCB signing, each to that very root, so that no
   other certificate below it can speak for them

and after it, what it leaves out:

3. the PCE id in the TCB info is that of the PCK
4. the second half of the QE report's data is zero

Nothing of its network side is used. It is compiled code that reads what an attacker wrote: a panic in it is turned
into EvidenceError like every other failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, NewType

import dcap_qvl
from pydantic import AwareDatetime, ConfigDict, Field, PlainValidator, TypeAdapter

from attestation.collateral.roots import fingerprint
from attestation.errors import EvidenceError
from attestation.tdx.abi import Quote
from attestation.tdx.certificates import (
    PCK,
    PLATFORM_CA,
    PROCESSOR_CA,
    ROOT_CA,
    TCB_SIGNING,
    Chain,
    common_name,
    expect_issued,
    expect_names,
    read_chain,
    to_der,
)
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.policy import TcbStatus
from attestation.types import CollateralKey, CollateralKind
from core.program.validation import Label

MAX_DETAIL_CHARACTERS: Final = 300


class PckCa(StrEnum):
    """Who issued a platform's certificate: the CA of machines with several processors, or of those with one."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


_CA_NAMES: Final = {PckCa.PLATFORM: PLATFORM_CA, PckCa.PROCESSOR: PROCESSOR_CA}

TrustedRoot = NewType("TrustedRoot", bytes)
"""A DER root certificate whose fingerprint is believed."""


@dataclass(frozen=True, slots=True)
class PckChain:
    """The certificates of a quote: PCK, PCK CA, root; not authentic yet.

    fmspc: family, model, stepping, platform and SKU of the processor. ppid, platform_instance_id: of this machine, the
        second None where a platform has none. All hexadecimal.
    """

    certificates: Chain
    ca: PckCa
    fmspc: str
    ppid: str
    platform_instance_id: str | None

    @property
    def collateral_key(self) -> CollateralKey:
        """What the platform's collateral is looked up by."""
        return CollateralKey(CollateralKind.TDX, f"{self.fmspc}/{self.ca}")


def read_pck_chain(quote: Quote) -> PckChain:
    """The chain that a quote carries. Raises EvidenceError."""
    certificates = read_chain(quote.pck_chain, length=3)
    ca = next((ca for ca, name in _CA_NAMES.items() if name == common_name(certificates[1])), None)
    if ca is None:
        raise EvidenceError("the PCK certificate was issued by no CA that issues them")
    expect_names(certificates, PCK, _CA_NAMES[ca], ROOT_CA)
    with _library("the PCK certificate"):
        extension = dcap_qvl.parse_pck_extension_from_pem(quote.pck_chain)  # of the first, which is the PCK
    instance = extension.platform_instance_id
    return PckChain(
        certificates, ca, extension.fmspc.hex(), extension.ppid.hex(), None if instance is None else instance.hex()
    )


def trusted_root(chain: PckChain, believed: frozenset[str]) -> TrustedRoot:
    """The chain's root. Raises EvidenceError when its fingerprint is none of `believed`."""
    root = chain.certificates[-1]
    if fingerprint(root) not in believed:
        raise EvidenceError(f"the chain ends in a root that is not believed: {fingerprint(root)}")
    return TrustedRoot(to_der(root))


class Flag(StrEnum):
    """What a PCK certificate says of its platform; those for a single processor leave it undefined."""

    TRUE = "True"
    FALSE = "False"
    UNDEFINED = "Undefined"


def _octets(value: object) -> bytes:
    if not isinstance(value, list):
        raise ValueError("must be a list of bytes")  # noqa: TRY004 - pydantic turns ValueError into a fault
    return bytes(value)


_Octets = Annotated[bytes, PlainValidator(_octets)]
_CLAIMS: Final = ConfigDict(extra="ignore")  # the library's own words, of which not all are needed


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """The level of TCB info or QE identity that applies. date: when Intel fixed it."""

    __pydantic_config__ = _CLAIMS

    status: Annotated[TcbStatus, Field(alias="tcbStatus")]
    date: Annotated[AwareDatetime, Field(alias="tcbDate")]
    advisories: Annotated[tuple[Label, ...], Field(alias="advisoryIDs")]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Over all levels. eval_data_number: the lower one of TCB info and QE identity."""

    __pydantic_config__ = _CLAIMS

    status: TcbStatus
    advisory_ids: tuple[Label, ...]
    eval_data_number: int


@dataclass(frozen=True, slots=True)
class Pck:
    """What the PCK certificate says of its platform. sgx_type: 2 with cryptographic integrity of memory."""

    __pydantic_config__ = _CLAIMS

    fmspc: _Octets
    ppid: _Octets
    pce_id: _Octets
    sgx_type: int
    dynamic_platform: Flag
    cached_keys: Flag
    smt_enabled: Flag
    platform_instance_id: _Octets | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """tcb_level: of the TCB that the domain was launched with. current_tcb_level: of the present one, in TD 1.5."""

    __pydantic_config__ = _CLAIMS

    tcb_level: TcbLevel
    pck: Pck
    current_tcb_level: TcbLevel | None = None


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    __pydantic_config__ = _CLAIMS

    tcb_level: TcbLevel


@dataclass(frozen=True, slots=True)
class TcbClaims:
    """What the library found of an authentic quote, by the library's names."""

    __pydantic_config__ = _CLAIMS

    tcb: Verdict
    platform: Platform
    qe: QuotingEnclave


_TCB_CLAIMS = TypeAdapter(TcbClaims)


def verify(quote: Quote, chain: PckChain, collateral: TdxCollateral, *, root: TrustedRoot, at_s: int) -> TcbClaims:
    """Authenticate `quote`, with everything in force at Unix time `at_s`. Raises EvidenceError."""
    _check_collateral_chains(chain, collateral)
    claims = _verify_by_library(quote, collateral, root, max(0, at_s))  # which takes no time before 1970
    if claims.platform.pck.pce_id != collateral.pce_id:
        raise EvidenceError("the TCB info is for platforms of another PCE")
    if any(quote.qe_report_data[32:]):
        raise EvidenceError("the quoting enclave's report says more than which key is its own")
    return claims


def _check_collateral_chains(chain: PckChain, collateral: TdxCollateral) -> None:
    _, ca, root = chain.certificates
    for issuers, leaf in (
        (collateral.crl_chain, common_name(ca)),
        (collateral.tcb_chain, TCB_SIGNING),
        (collateral.qe_chain, TCB_SIGNING),
    ):
        expect_names(issuers, leaf, ROOT_CA)
        if issuers[-1] != root:
            raise EvidenceError("collateral and quote have different roots")
    # The library finds the CRL's issuer in the quote, and never looks at the chain beside the CRL.
    expect_issued(collateral.crl_chain)
    if collateral.crl_chain[0].public_key() != ca.public_key():
        raise EvidenceError("the PCK CRL is by another key than the quote's PCK CA")


def _verify_by_library(quote: Quote, collateral: TdxCollateral, root: TrustedRoot, at_s: int) -> TcbClaims:
    members = collateral.members
    with _library("verification"):
        theirs = dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=members.pck_crl_issuer_chain,
            root_ca_crl=members.root_ca_crl,
            pck_crl=members.pck_crl,
            tcb_info_issuer_chain=members.tcb_info_issuer_chain,
            tcb_info=members.tcb_info,
            tcb_info_signature=members.tcb_info_signature,
            qe_identity_issuer_chain=members.qe_identity_issuer_chain,
            qe_identity=members.qe_identity,
            qe_identity_signature=members.qe_identity_signature,
        )
        dcap_qvl.verify_with_root_ca(quote.unpadded, theirs, root, at_s)  # the one that says why it refuses
        policy = dcap_qvl.QuotePolicy.claims_only(at_s)  # what is authentic is judged by ours
        verified = dcap_qvl.QuoteVerifier(root).verify_with_policy(quote.unpadded, theirs, at_s, policy)
        return _TCB_CLAIMS.validate_json(verified.to_json())


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Whatever the library makes of bad evidence becomes EvidenceError."""
    try:
        yield
    except ValueError as exc:
        raise EvidenceError(f"{what}: {_printable(str(exc))}") from None
    except BaseException as exc:
        # What a panic raises cannot be imported, and is no Exception.
        if type(exc).__name__ != "PanicException":
            raise
        raise EvidenceError(f"{what}: the library gave up on it") from None


def _printable(message: str) -> str:
    """The library's own words run over lines, and quote what it could not read."""
    text = " ".join(message.removeprefix("Verification failed: ").split())[:MAX_DETAIL_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in text)
