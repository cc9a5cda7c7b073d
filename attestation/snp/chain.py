"""Is a report authentic? From AMD's root key down to the key that signed it, and to the chip or the cloud behind it.

::

    ARK  by its fingerprint, and of the product ──> list of what it revoked
     └─> ASK  ──> VCEK ──> report      a chip's own key
     └─> ASVK ──> VLEK ──> report      a key that AMD lent to a cloud

The lines, each by itself: the VEK certificate can be read; it signed the report; it was issued for the firmware that
the report names; for the chip that the report names, or for a cloud that the policy names; for the product; the chain
can be read; its root is believed; it leads to the VEK; all is valid now; nothing of it is revoked.

Left out: revocation of a VEK itself (all have the serial number 0, so no list can name one); path lengths and key
identifiers (the chain has one shape, and a VEK has no identifiers). A revocation list is of one ARK, and AMD gives out
one for VCEKs and one for VLEKs: by RFC 5280 each must name whatever that ARK revoked, and that is relied upon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.collateral.roots import Roots
from attestation.errors import EvidenceError
from attestation.snp.abi import Product, SnpReport
from attestation.snp.certificate import (
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    Certificate,
    RevocationList,
    SignedBytes,
    is_authority,
    verify_issued,
)
from attestation.snp.collateral import Chain, Endorsements, Piece
from attestation.snp.policy import SnpPolicy
from attestation.snp.vek import Vek
from attestation.types import Check, failed, judged, passed, skipped

VEK_CHECKS: Final = ("snp vek", "snp signature", "snp vek tcb", "snp vek identity", "snp product")
CHAIN_CHECKS: Final = ("snp certificates", "snp root", "snp chain", "snp validity", "snp revocation")


def verdict(name: str, faults: Iterable[str], if_ok: str) -> Check:
    """A check that fails when there is any fault, and tells all of them."""
    told = tuple(faults)
    return judged(name, not told, if_ok, "; ".join(told))


def check_authenticity(
    report: SnpReport, endorsements: Endorsements, policy: SnpPolicy, *, roots: Roots, now: datetime
) -> Iterator[Check]:
    """One line for each of `VEK_CHECKS` and `CHAIN_CHECKS`, in order."""
    vek, chain = endorsements.vek.value, endorsements.chain.value
    if vek is None:
        yield failed(VEK_CHECKS[0], endorsements.vek.fault)
        yield from (skipped(name, "there is no VEK certificate to judge by") for name in VEK_CHECKS[1:])
    else:
        yield from _vek_checks(report, vek, policy)
    if chain is None:
        yield failed(CHAIN_CHECKS[0], endorsements.chain.fault)
        yield from (skipped(name, "there is no chain of certificates to judge") for name in CHAIN_CHECKS[1:])
    else:
        yield from _chain_checks(chain, endorsements, policy, roots, now)


def _vek_checks(report: SnpReport, vek: Vek, policy: SnpPolicy) -> Iterator[Check]:
    yield passed("snp vek", f"{vek.key} of {vek.product}, issued {vek.certificate.not_before.date()}")
    yield verdict("snp signature", _signature_faults(report, vek), f"the report is signed by the {vek.key}")
    yield judged(
        "snp vek tcb",
        vek.tcb == report.reported_tcb,
        "the key was derived for the firmware that the report names",
        f"the key is for {vek.tcb}; the report names {report.reported_tcb}",
    )
    whose = "the key is that of the chip in the report" if vek.csp_id is None else f"the key was lent to {vek.csp_id}"
    yield verdict("snp vek identity", _identity_faults(report, vek, policy), whose)
    yield verdict("snp product", _product_faults(report, vek, policy), f"{vek.product}, which the policy accepts")


def _signature_faults(report: SnpReport, vek: Vek) -> Iterator[str]:
    try:
        vek.public_key.verify(encode_dss_signature(report.r, report.s), report.signed, ECDSA(SHA384()))
    except InvalidSignature:
        yield "the report is not signed by the key of the VEK certificate"


def _identity_faults(report: SnpReport, vek: Vek, policy: SnpPolicy) -> Iterator[str]:
    if vek.key is not report.signing_key:
        yield f"the report says that a {report.signing_key} signed it; the certificate is that of a {vek.key}"
    elif vek.csp_id is not None and vek.csp_id not in (policy.csp_ids or ()):
        yield f"the key was lent to {vek.csp_id}, which the policy does not name"
    elif vek.hardware_id is not None and not _is_chip(report.chip_id, vek.hardware_id, vek.product):
        yield "the key is that of another chip than the one in the report"


def _is_chip(chip_id: bytes, hardware_id: bytes, product: Product) -> bool:
    return len(hardware_id) == product.hardware_id_bytes and chip_id == hardware_id.ljust(64, b"\x00")


def _product_faults(report: SnpReport, vek: Vek, policy: SnpPolicy) -> Iterator[str]:
    if report.product not in (None, vek.product):
        yield f"the report is of a {report.product}, the key of a {vek.product}"
    if policy.product(vek.product) is None:
        yield f"{vek.product}; the policy accepts {', '.join(product.name for product in policy.products)}"


def _chain_checks(
    chain: Chain, endorsements: Endorsements, policy: SnpPolicy, roots: Roots, now: datetime
) -> Iterator[Check]:
    vek, product = endorsements.vek.value, endorsements.product
    yield passed("snp certificates", "the two certificates above the VEK")
    yield verdict("snp root", _root_faults(chain.ark, product, roots), f"a root that is believed, of {product}")
    if vek is None:
        yield from (skipped(name, "there is no VEK certificate to lead to") for name in ("snp chain", "snp validity"))
    else:
        yield verdict("snp chain", _chain_faults(chain, vek), "each certificate is issued by the one above it")
        yield verdict("snp validity", _validity_faults(chain, vek, now), "all certificates are valid now")
    yield _revocation(chain, endorsements.crl, policy, now)


def _root_faults(ark: Certificate, product: Product | None, roots: Roots) -> Iterator[str]:
    digest = hashlib.sha256(ark.der).hexdigest()
    if digest not in roots.snp:
        yield f"the root {digest} is none that is believed"
    if ark.subject_cn != f"ARK-{product}" or ark.issuer != ark.subject:
        yield f"the root is not ARK-{product}"
    if not is_authority(ark, may_sign_crls=True):
        yield "the root may not sign certificates and revocation lists"


def _chain_faults(chain: Chain, vek: Vek) -> Iterator[str]:
    if (chain.ask.critical | chain.ark.critical) - {BASIC_CONSTRAINTS, KEY_USAGE}:
        yield "a certificate of the chain has a critical extension that is not known"
    if not is_authority(chain.ask, may_sign_crls=False):
        yield "the ASK may not sign certificates"
    yield from _issuance_faults("ASK", chain.ask, chain.ark)
    # This is also the check of the ASK's name: only an issuer with the name of an ASK or ASVK makes a VEK.
    yield from _issuance_faults("VEK", vek.certificate, chain.ask)


def _issuance_faults(name: str, certificate: Certificate, issuer: Certificate) -> Iterator[str]:
    if certificate.issuer != issuer.subject:
        yield f"the {name} certificate names another issuer than the one above it"
    yield from _signed_by(f"the {name} certificate", certificate.signed, issuer)


def _signed_by(name: str, signed: SignedBytes, issuer: Certificate) -> Iterator[str]:
    try:
        verify_issued(signed, issuer)
    except EvidenceError as exc:
        yield f"{name}: {exc}"


def _validity_faults(chain: Chain, vek: Vek, now: datetime) -> Iterator[str]:
    for name, certificate in (("ARK", chain.ark), ("ASK", chain.ask), ("VEK", vek.certificate)):
        begin, end = certificate.not_before, certificate.not_after
        if not begin <= now <= end:
            yield f"the {name} certificate is valid from {begin.date()} to {end.date()}"


def _revocation(chain: Chain, piece: Piece[RevocationList], policy: SnpPolicy, now: datetime) -> Check:
    name, crl = "snp revocation", piece.value
    if crl is None:
        # A list that cannot be read is as good as one that is withheld: whoever can do the one can do the other.
        tell = skipped if policy.allow_missing_crl else failed
        return tell(name, f"revocation list: {piece.fault}")
    if faults := tuple(_crl_faults(crl, chain, now)):
        return failed(name, "; ".join(faults))
    if now > crl_valid_until(crl, policy):
        tell = skipped if policy.allow_missing_crl else failed
        return tell(
            name, f"the revocation list is stale: of {crl.this_update.date()}, next update {crl.next_update.date()}"
        )
    return passed(name, f"not on the list of {crl.this_update.date()}, which names {len(crl.serials)} serial numbers")


def _crl_faults(crl: RevocationList, chain: Chain, now: datetime) -> Iterator[str]:
    if crl.issuer != chain.ark.subject:
        yield "the revocation list names another issuer than the root"
    yield from _signed_by("the revocation list", crl.signed, chain.ark)
    if now < crl.this_update:
        yield f"the revocation list is of {crl.this_update.date()}, which is to come"
    if crl.serials & {chain.ask.serial, chain.ark.serial}:
        yield "the ASK or its root is revoked"


def crl_valid_until(crl: RevocationList, policy: SnpPolicy) -> datetime:
    """Until when the policy accepts a list."""
    ends = [_later(crl.next_update, policy.allow_stale_crl_s)]
    if policy.max_crl_age_s is not None:
        ends.append(_later(crl.this_update, policy.max_crl_age_s))
    return min(ends)


def _later(time: datetime, seconds: int) -> datetime:
    # The time may be anybody's: a list is dated before it is believed.
    return time + min(timedelta(seconds=seconds), datetime.max.replace(tzinfo=UTC) - time)


def valid_until(endorsements: Endorsements, policy: SnpPolicy) -> datetime | None:
    """When the first certificate expires, or the revocation list that the policy insists on; None without any."""
    vek, chain, crl = endorsements.vek.value, endorsements.chain.value, endorsements.crl.value
    ends = [vek.certificate.not_after] if vek else []
    ends += [chain.ask.not_after, chain.ark.not_after] if chain else []
    ends += [crl_valid_until(crl, policy)] if crl and not policy.allow_missing_crl else []
    return min(ends, default=None)
