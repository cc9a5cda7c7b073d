"""One revoked certificate fails the line, and one of which nothing is known keeps it from passing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from cryptography.x509.ocsp import OCSPCertStatus

from attestation.gpu import ocsp
from attestation.gpu.device import AnyDevice, Basis, read_gpus
from attestation.gpu.evidence import Devices
from attestation.gpu.ocsp import OcspPolicy, OcspVerdict
from attestation.gpu.revocation import chip_links, needs, revocation, signer_links
from attestation.types import CheckStatus, CollateralKey, Nonce
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import MANIFESTS, NOW, ROOTS, Chip, Machine
from tests.attestation.gpu.forge_rim import AUTHORITY, ocsp_answer
from tests.pki import Party

NONCE = Nonce(bytes(32))
MACHINE = Machine.build(gpus=2)
GPUS: tuple[AnyDevice, ...] = read_gpus(Devices(tuple(MACHINE.answers(NONCE)[0])))
COLLATERAL = MACHINE.collateral()
LEAF, BROM, PROVISIONER, IDENTITY, ROOT = MACHINE.gpus[0].parties
SIGNER, LEVEL3, FAMILY, RIM_ROOT = AUTHORITY.parties


def _basis(collateral: Mapping[CollateralKey, bytes]) -> Basis:
    return Basis(collateral, NONCE, ROOTS, NOW)


def _chips(collateral: Mapping[CollateralKey, bytes], policy: OcspPolicy | None = None) -> OcspVerdict:
    return revocation("gpu revocation", GPUS, chip_links, _basis(collateral), policy or OcspPolicy())


def _signers(collateral: Mapping[CollateralKey, bytes]) -> OcspVerdict:
    return revocation("rim revocation", GPUS, signer_links, _basis(collateral), OcspPolicy())


def _key(party: Party, issuer: Party) -> CollateralKey:
    return ocsp.key(party.certificate, issuer.certificate)


def _revoked(party: Party, issuer: Party) -> dict[CollateralKey, bytes]:
    return {_key(party, issuer): ocsp_answer(party.certificate, issuer, status=OCSPCertStatus.REVOKED)}


def test_what_nobody_revoked_passes_until_the_first_answer_ends() -> None:
    early = ocsp_answer(BROM.certificate, PROVISIONER, next_update=NOW + timedelta(hours=1))
    verdict = _chips({**COLLATERAL, _key(BROM, PROVISIONER): early})
    assert verdict.check.status is CheckStatus.PASS
    assert verdict.check.detail == "nothing is revoked, 2 of 2"
    assert verdict.valid_until == NOW + timedelta(hours=1)
    assert _signers(COLLATERAL).check.status is CheckStatus.PASS


@pytest.mark.parametrize(
    ("party", "issuer", "told"),
    [
        (BROM, PROVISIONER, "GPU 0: GH100 A01 GSP BROM: revoked"),
        (PROVISIONER, IDENTITY, "all 2: Test GH100 Provisioner ICA 1: revoked"),
        (IDENTITY, ROOT, "all 2: Test GH100 Identity: revoked"),
    ],
)
def test_a_revoked_certificate_of_a_chip_fails(party: Party, issuer: Party, told: str) -> None:
    check = _chips({**COLLATERAL, **_revoked(party, issuer)}).check
    assert check.failed
    assert told in check.detail


@pytest.mark.parametrize(("party", "issuer"), [(SIGNER, LEVEL3), (LEVEL3, FAMILY), (FAMILY, RIM_ROOT)])
def test_a_revoked_certificate_of_a_signer_fails(party: Party, issuer: Party) -> None:
    check = _signers({**COLLATERAL, **_revoked(party, issuer)}).check
    assert check.failed
    assert check.detail.startswith("all 2: ")
    assert check.detail.endswith("revoked: no reason given")


def test_an_answer_that_is_missing_fails_unless_the_policy_allows_it() -> None:
    without = {key: data for key, data in COLLATERAL.items() if key != _key(BROM, PROVISIONER)}
    assert _chips(without).check.failed
    check = _chips(without, OcspPolicy(allow_missing=True)).check
    assert check.status is CheckStatus.SKIP
    assert check.detail == "GH100 A01 GSP BROM: no OCSP answer is at hand; the policy allows that"


def test_a_missing_answer_does_not_hide_a_revocation() -> None:
    collateral = _revoked(IDENTITY, ROOT)
    assert _chips(collateral, OcspPolicy(allow_missing=True)).check.failed


def test_nothing_is_asked_about_a_chain_that_is_not_authentic() -> None:
    stranger = Chip.make(authority=forge.device_authority())
    devices = read_gpus(Devices((forge.answer(stranger, NONCE, forge.gpu_fields()),)))
    basis = _basis(COLLATERAL | forge.not_revoked(stranger.parties[1:]))
    check = revocation("gpu revocation", devices, chip_links, basis, OcspPolicy(allow_missing=True)).check
    assert (check.status, check.detail) == (CheckStatus.FAIL, "GPU 0: there is no authentic chain to ask about")


def test_signers_cannot_be_asked_about_without_their_manifests() -> None:
    check = revocation("rim revocation", GPUS, signer_links, _basis({}), OcspPolicy(allow_missing=True)).check
    assert check.failed


def test_signers_are_needed_once_their_manifests_are_at_hand() -> None:
    chips = {_key(party, issuer) for party, issuer in [(PROVISIONER, IDENTITY), (IDENTITY, ROOT)]}
    chips |= {_key(chip.brom, PROVISIONER) for chip in MACHINE.gpus}
    signers = {_key(SIGNER, LEVEL3), _key(LEVEL3, FAMILY), _key(FAMILY, RIM_ROOT)}
    assert set(needs(GPUS, _basis({}))) == chips
    assert set(needs(GPUS, _basis(MANIFESTS))) == chips | signers
