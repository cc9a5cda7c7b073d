"""NVIDIA's own manifests get the verdict that is known of them. They are not part of the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from attestation.collateral.roots import VENDOR_ROOTS, fingerprint
from attestation.errors import EvidenceError
from attestation.gpu import rim
from tests.vectors import vector

DRIVER_545 = "nvidia/nvtrust_v1/Driver_RIM_test_no_gpu.swidtag"
VBIOS_96 = "nvidia/nvtrust_v1/1010_0200_882_96005E0001_test_no_gpu.swidtag"
DRIVER_550 = "nvidia/rim/sdk_NV_GPU_DRIVER_GH100_550.144.03.xml"
SWITCH = "nvidia/rim/sdk_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml"
VBIOS_PROD = "nvidia/rim/nvtrust_VBIOS_1010_0200_882_96005E0001_PROD.swidtag"
VBIOS_MISMATCH = "nvidia/rim/sdk_NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml"

DRIVER_BLOCKS = {8, *range(22, 42)}
VBIOS_BLOCKS = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13}


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _read(name: str, now: str) -> rim.Rim:
    return rim.read(vector(name), roots=VENDOR_ROOTS, now=_at(now))


GOOD: Mapping[str, tuple[str, tuple[str, str, str], set[int], str]] = {
    DRIVER_545: ("2025-06-22", ("545.00", "GH100", "GPU"), DRIVER_BLOCKS, "2025-06-26T06:10:12"),
    VBIOS_96: ("2025-06-22", ("96.00.5E.00.01", "GH100", "GPU"), VBIOS_BLOCKS, "2025-06-22T09:38:54"),
    VBIOS_PROD: ("2025-06-22", ("96.00.5E.00.01", "GH100", "GPU"), VBIOS_BLOCKS, "2025-06-22T09:30:33"),
    VBIOS_MISMATCH: ("2025-06-22", ("96.00.5E.00.01", "GH100", "GPU"), VBIOS_BLOCKS, "2025-12-12T23:58:03"),
    DRIVER_550: ("2026-06-01", ("550.144.03", "GH100", "GPU"), DRIVER_BLOCKS, "2026-12-30T16:56:50"),
    SWITCH: ("2026-06-01", ("96.10.55.00.01", "LS10", "SWITCH"), set(range(1, 32)), "2027-11-02T23:59:59"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_genuine_manifest_is_read(name: str) -> None:
    now, identity, blocks, until = GOOD[name]
    manifest = _read(name, now)
    assert (manifest.version, manifest.product, manifest.edition) == identity
    assert set(manifest.measurements) == blocks
    assert all(len(value) == 48 for allowed in manifest.measurements.values() for value in allowed)
    assert manifest.valid_until == _at(until)
    assert len(manifest.chain) == 4
    assert len(bytes.fromhex(manifest.id)) == 48


@pytest.mark.parametrize("name", GOOD)
def test_a_genuine_manifest_whose_signer_has_expired_is_refused(name: str) -> None:
    until = _at(GOOD[name][3])
    assert rim.read(vector(name), roots=VENDOR_ROOTS, now=until).valid_until == until
    with pytest.raises(EvidenceError, match="expired"):
        rim.read(vector(name), roots=VENDOR_ROOTS, now=until + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("name", "now", "reason"),
    [
        ("sdk_NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", "2026-06-01", "not what was signed"),
        ("sdk_incorrect_signature_driver_rim.xml", "2026-06-01", "does not verify"),
        ("sdk_incorrect_cert_chain_driver_rim.xml", "2026-06-01", "pinned root"),
        ("sdk_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml", "2026-05-20", "not valid before 2026-05-20 22:02:51"),
    ],
)
def test_a_manifest_that_is_not_genuine_is_refused(name: str, now: str, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        _read(f"nvidia/rim/{name}", now)


def test_two_genuine_manifests_of_one_version_may_allow_different_values() -> None:
    """So which of them is served matters, and only the comparison with a report tells."""
    one, other = _read(VBIOS_96, "2025-06-22"), _read(VBIOS_MISMATCH, "2025-06-22")
    assert (one.id, one.version, one.product) == (other.id, other.version, other.product)
    assert {block for block, allowed in one.measurements.items() if allowed != other.measurements[block]} == {
        2,
        3,
        4,
        10,
    }


def test_some_measurements_have_alternatives() -> None:
    counts = {len(allowed) for allowed in _read(DRIVER_550, "2026-06-01").measurements.values()}
    assert counts == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["sdk_rim_root.crt", "verifier_RIM_root.pem"])
def test_the_pinned_root_is_the_one_in_two_public_copies(name: str) -> None:
    root = x509.load_pem_x509_certificate(vector(f"nvidia/roots/{name}"))
    assert {fingerprint(root)} == VENDOR_ROOTS.gpu_rim
    assert _read(DRIVER_550, "2026-06-01").chain[-1] == root


def test_the_debug_root_is_another() -> None:
    debug = x509.load_pem_x509_certificate(vector("nvidia/roots/sdk_incorrect_rim_root.crt"))
    roots = replace(VENDOR_ROOTS, gpu_rim=frozenset({fingerprint(debug)}))
    with pytest.raises(EvidenceError, match="pinned root"):
        rim.read(vector(DRIVER_550), roots=roots, now=_at("2026-06-01"))
    with pytest.raises(EvidenceError):
        rim.read(
            vector("nvidia/rim/sdk_incorrect_cert_chain_driver_rim.xml"), roots=VENDOR_ROOTS, now=_at("2026-06-01")
        )


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_flipped_bit_of_a_genuine_manifest_is_refused() -> None:
    data = vector(DRIVER_550)
    for bit in range(0, 8 * len(data), 1951):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EvidenceError):
            rim.read(bytes(flipped), roots=VENDOR_ROOTS, now=_at("2026-06-01"))
