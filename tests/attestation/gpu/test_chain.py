"""A device's chain counts only when NVIDIA vouches for every part of it, and a report only when its leaf signed it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu.abi import parse_gpu
from attestation.gpu.chain import read_chain, verify_chain, verify_signature
from attestation.gpu.evidence import Architecture
from attestation.types import Nonce
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import FWID, NOW, NVIDIA, ROOTS, Chip, pem
from tests.attestation.years import LAST, in_year_zero
from tests.pki import END, ISSUES, P384, SIGNS, START, Party, issue

CHIP = Chip.make()
NONCE = Nonce(bytes(32))


def _verify(certificates: bytes) -> None:
    verify_chain(read_chain(certificates), ROOTS, NOW)


@pytest.mark.parametrize(
    ("word", "chip", "architecture"),
    [
        ("GH100", "GH100", Architecture.HOPPER),
        ("GB100", "GB100", Architecture.BLACKWELL),
        ("LS_10", "LS10", Architecture.LS10),
    ],
)
def test_a_device_of_each_kind_is_authentic(word: str, chip: str, architecture: Architecture) -> None:
    device = Chip.make(word)
    chain = read_chain(device.certificate)
    verify_chain(chain, ROOTS, NOW)
    assert (chain.chip, chain.architecture) == (chip, architecture)
    assert chain.fwid == FWID
    assert chain.pdi == device.pdi
    assert chain.chip_key == device.hardware_id
    assert chain.valid_until == END


def test_the_key_of_the_chip_stays_when_its_firmware_changes() -> None:
    before, after = read_chain(CHIP.certificate), read_chain(CHIP.boot(fwid=bytes(48)).certificate)
    assert before.chip_key == after.chip_key
    assert before.leaf_key != after.leaf_key


def _with(depth: int, party: Party) -> bytes:
    """The chain with another certificate in one place."""
    parties = list(CHIP.parties)
    parties[depth] = party
    return pem(parties)


def _recertified(depth: int, **changes: Any) -> bytes:
    """The chain with one certificate issued anew for the same name and key."""
    parties = list(CHIP.parties)
    old, issuer = parties[depth], parties[depth + 1]
    names = {attribute.oid.dotted_string: attribute.value for attribute in old.certificate.subject}
    defaults: dict[str, Any] = {
        "key": old.key,
        "serial_number": names.get("2.5.4.5"),
        "ca": None if depth == 0 else True,
    }
    name = changes.pop("name", names["2.5.4.3"])
    return _with(depth, issue(str(name), issuer, **{**defaults, **changes}))


CRITICAL = ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\0"), True),)
P256 = ec.generate_private_key(ec.SECP256R1())
STRANGER = forge.device_authority()

FALSE_CHAINS = {
    "another root": (Chip.make(authority=STRANGER).certificate, "does not end in a pinned root"),
    "another chip's boot ROM": (_with(1, Chip.make(number=7).brom), "names another issuer"),
    "another key of that boot ROM's name": (_recertified(1, key=ec.generate_private_key(P384)), "not signed by"),
    "another provisioner": (_with(2, STRANGER.provisioners["GH100"]), "not signed by the next"),
    "another identity": (_with(3, STRANGER.identity), "not signed by the next"),
    "an expired leaf": (_recertified(0, end=NOW - timedelta(seconds=1)), "certificate 0 is not valid now"),
    "an expired boot ROM": (_recertified(1, end=NOW - timedelta(seconds=1)), "certificate 1 is not valid now"),
    "a provisioner of the future": (_recertified(2, start=NOW + timedelta(seconds=1)), "certificate 2 is not valid"),
    "a leaf that may issue": (_recertified(0, ca=True, uses=(ISSUES, SIGNS)), "certificate 0 is not for signing"),
    "a leaf whose key may issue": (_recertified(0, uses=(ISSUES, SIGNS)), "certificate 0 is not for signing"),
    "a leaf that may not sign": (_recertified(0, uses=()), "certificate 0 is not for signing"),
    "a boot ROM that is no CA": (_recertified(1, ca=False, uses=(ISSUES, SIGNS)), "certificate 1 may not issue"),
    "a boot ROM that may not issue": (_recertified(1, uses=()), "certificate 1 may not issue"),
    "a provisioner with room for the leaf only": (_recertified(2, path_length=0), "certificate 2 allows fewer"),
    "a leaf with a critical extension": (_recertified(0, extensions=CRITICAL), "certificate 0 has a critical"),
    "a boot ROM with a critical extension": (_recertified(1, extensions=CRITICAL), "certificate 1 has a critical"),
    "a leaf signed with SHA-256": (
        _recertified(0, digest=SHA256()),
        "certificate 0 is not signed by ECDSA with SHA-384",
    ),
    "a boot ROM of another kind of chip": (_recertified(1, name="GB100 A01 GSP BROM"), "names another chip"),
    "a provisioner of another kind": (_recertified(2, name="Test GB100 Provisioner ICA 1"), "names another chip"),
    "a leaf of another kind of chip": (_recertified(0, name="GB100 A01 GSP FMC LF"), "names another chip"),
    "a leaf without key usage": (_recertified(0, uses=None), "cannot be used .ExtensionNotFound."),
    "a boot ROM without constraints": (_recertified(1, ca=None), "cannot be used .ExtensionNotFound."),
}


@pytest.mark.parametrize(("certificates", "reason"), FALSE_CHAINS.values(), ids=FALSE_CHAINS)
def test_a_false_chain_is_refused(certificates: bytes, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        _verify(certificates)


def test_a_key_on_another_curve_is_refused() -> None:
    brom = issue("GH100 A01 GSP BROM", NVIDIA.provisioners["GH100"], key=P256)
    leaf = issue("GH100 A01 GSP FMC LF", brom, ca=None)
    with pytest.raises(EvidenceError, match="not of P-384"):
        _verify(pem((leaf, brom, *CHIP.parties[2:])))


def test_every_fault_of_a_chain_is_told() -> None:
    authority = replace(STRANGER, identity=issue("Test GH100 Identity", STRANGER.root, end=NOW - timedelta(days=1)))
    with pytest.raises(EvidenceError, match=r"pinned root.*certificate 3 is not valid now"):
        _verify(pem((*CHIP.parties[:3], authority.identity, authority.root)))


@pytest.mark.parametrize("when", [START - timedelta(seconds=1), END + timedelta(seconds=1)])
def test_the_clock_is_the_one_passed_in(when: Any) -> None:
    with pytest.raises(EvidenceError, match="is not valid now"):
        verify_chain(read_chain(CHIP.certificate), ROOTS, when)


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cannot be read"),
    "no certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    "four certificates": (pem(CHIP.parties[:4]), "has 4 certificates, not 5"),
    "six certificates": (pem((CHIP.leaf, *CHIP.parties)), "has 6 certificates, not 5"),
    "root first": (pem(CHIP.parties[::-1]), "leaf is not that of a GPU's or a switch's firmware"),
    "a boot ROM as leaf": (pem((CHIP.brom, *CHIP.parties[1:])), "leaf is not that"),
    "an unknown chip": (CHIP.boot(name="GA100 A01 GSP FMC LF").certificate, "a chip GA100, which we do not know"),
    "another switch": (CHIP.boot(name="LS_20 A01 FSP FMC LF").certificate, "a chip LS_20"),
}


@pytest.mark.parametrize(("certificates", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_another_form_is_refused(certificates: bytes, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        read_chain(certificates)


def _certifying(*values: tuple[x509.ObjectIdentifier, bytes]) -> bytes:
    extensions = [(x509.UnrecognizedExtension(oid, value), False) for oid, value in values]
    return CHIP.boot(extensions=extensions).certificate


_GOOD_FWID = forge.fwid_element(FWID)
_SHA256_OID = bytes.fromhex("0609608648016503040201")
_ID, _INFO = forge.COMPOSITE_DEVICE_ID, forge.DICE_TCB_INFO

UNKNOWN_FIRMWARE: dict[str, tuple[Sequence[tuple[x509.ObjectIdentifier, bytes]], str]] = {
    "no structure": ([(_ID, b"\x04\x01\0")], "cannot be read"),
    "a structure cut short": ([(_ID, forge.composite_device_id(_GOOD_FWID, CHIP.brom.key)[:-1])], "cannot be read"),
    "bytes after it": ([(_ID, forge.composite_device_id(_GOOD_FWID, CHIP.brom.key) + b"\0")], "cannot be read"),
    "another digest": (
        [(_ID, forge.composite_device_id(forge.fwid_element(FWID, _SHA256_OID), CHIP.brom.key))],
        "form that we do not know",
    ),
    "a digest of another length": (
        [(_ID, forge.composite_device_id(forge.fwid_element(FWID[:32]), CHIP.brom.key))],
        "form that we do not know",
    ),
    "both structures": (
        [(_ID, forge.composite_device_id(_GOOD_FWID, CHIP.brom.key)), (_INFO, forge.dice_tcb_info(_GOOD_FWID))],
        "form that we do not know",
    ),
    "an empty list": ([(_INFO, forge.dice_tcb_info())], "certifies no firmware digest"),
}


@pytest.mark.parametrize(("values", "reason"), UNKNOWN_FIRMWARE.values(), ids=UNKNOWN_FIRMWARE)
def test_firmware_certified_in_another_form_is_refused(
    values: Sequence[tuple[x509.ObjectIdentifier, bytes]], reason: str
) -> None:
    with pytest.raises(EvidenceError, match=reason):
        read_chain(_certifying(*values))


def test_of_several_firmware_digests_the_first_counts() -> None:
    certificates = _certifying((_INFO, forge.dice_tcb_info(_GOOD_FWID, forge.fwid_element(bytes(48)))))
    assert read_chain(certificates).fwid == FWID


def test_a_leaf_may_certify_no_firmware() -> None:
    assert read_chain(CHIP.boot(fwid=None).certificate).fwid is None


@pytest.mark.parametrize("serial", [None, "", "41", "41" + "g" * 16, "41" + "ab" * 8, "41" + "AB" * 9])
def test_a_boot_rom_certificate_may_lack_a_number_for_the_fabric(serial: str | None) -> None:
    brom = issue("GH100 A01 GSP BROM", NVIDIA.provisioners["GH100"], serial_number=serial or None)
    assert read_chain(pem((CHIP.leaf, brom, *CHIP.parties[2:]))).pdi is None


def test_the_signature_of_a_report_counts() -> None:
    report = parse_gpu(forge.report(CHIP, NONCE, forge.gpu_fields()))
    verify_signature(read_chain(CHIP.certificate), report.spdm)


def test_the_signature_of_another_key_of_the_same_chip_does_not_count() -> None:
    report = parse_gpu(forge.report(CHIP.boot(), NONCE, forge.gpu_fields()))
    with pytest.raises(EvidenceError, match="does not verify with the device's key"):
        verify_signature(read_chain(CHIP.certificate), report.spdm)


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(95) + b"\x01"])
def test_a_signature_that_is_none_does_not_count(signature: bytes) -> None:
    report = parse_gpu(forge.report(CHIP, NONCE, forge.gpu_fields()))
    with pytest.raises(EvidenceError, match="does not verify"):
        verify_signature(read_chain(CHIP.certificate), replace(report.spdm, signature=signature))


def test_every_part_of_a_report_is_signed() -> None:
    data = forge.report(CHIP, NONCE, forge.gpu_fields())
    chain = read_chain(CHIP.certificate)
    for at in range(0, len(data), 13):
        flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        with pytest.raises(EvidenceError):
            verify_signature(chain, parse_gpu(flipped).spdm)


def _armoured(certificate: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(certificate) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("depth", range(5))
def test_every_part_of_a_chain_is_signed(depth: int) -> None:
    chain = [party.certificate.public_bytes(Encoding.DER) for party in CHIP.parties]
    for at in range(0, len(chain[depth]), 7):
        flipped = list(chain)
        flipped[depth] = chain[depth][:at] + bytes([chain[depth][at] ^ 1 << at % 8]) + chain[depth][at + 1 :]
        with pytest.raises(EvidenceError):
            _verify(b"".join(map(_armoured, flipped)))


@given(st.binary(max_size=100), st.integers(0, 4))
@settings(max_examples=100)
def test_whatever_comes_is_refused(noise: bytes, depth: int) -> None:
    chain = [party.certificate.public_bytes(Encoding.DER) for party in CHIP.parties]
    at = len(noise) * 5
    chain[depth] = chain[depth][:at] + noise + chain[depth][at + len(noise) + 1 :]
    with pytest.raises(EvidenceError):
        _verify(b"".join(map(_armoured, chain)))


def test_a_certificate_of_the_year_zero_cannot_be_read() -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        read_chain(in_year_zero(Chip.make(end=LAST).certificate))
