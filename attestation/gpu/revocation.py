"""Has any certificate on which device evidence rests been revoked? The answers of `ocsp.py`, in one line for many.

Asked about are, of a device, the certificates that NVIDIA issued: the chip's and those above it. The leaf is made on
the chip, and no responder knows it. Of a manifest, all of its signer's chain. Roots are pinned and not asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attestation.errors import EvidenceError
from attestation.gpu import ocsp
from attestation.gpu.chain import Link, common_name, links, verify_chain
from attestation.gpu.device import AnyDevice, Basis, each
from attestation.gpu.ocsp import OcspPolicy, OcspVerdict
from attestation.gpu.reference import references
from attestation.types import CheckStatus, CollateralKey, skipped


def chip_links(device: AnyDevice, basis: Basis) -> Sequence[Link]:
    """Of a device's chain. Raises EvidenceError when that is not authentic."""
    verify_chain(device.chain, basis.roots, basis.now)
    return links(device.chain.certificates[1:])


def signer_links(device: AnyDevice, basis: Basis) -> Sequence[Link]:
    """Of the manifests for a device. Raises EvidenceError when one is missing or not authentic."""
    return [link for found in references(device, basis) for link in links(found.chain)]


def needs(devices: Sequence[AnyDevice], basis: Basis) -> Iterator[CollateralKey]:
    """What will be looked up, of what is authentic."""
    for device in devices:
        for asked in (chip_links, signer_links):
            try:
                yield from (ocsp.key(*link) for link in asked(device, basis))
            except EvidenceError:
                continue


def revocation(
    name: str,
    devices: Sequence[AnyDevice],
    of_device: Callable[[AnyDevice, Basis], Sequence[Link]],
    basis: Basis,
    policy: OcspPolicy,
) -> OcspVerdict:
    """Whether every certificate of the devices is still good. of_device: gives them, `chip_links` or `signer_links`."""
    verdicts: dict[Link, OcspVerdict] = {}

    def check(device: AnyDevice) -> None:
        try:
            asked = of_device(device, basis)
        except EvidenceError:
            raise EvidenceError("there is no authentic chain to ask about") from None
        for link in asked:
            if link not in verdicts:
                verdicts[link] = ocsp.judge(common_name(link[0]), *link, basis.collateral, policy, now=basis.now)
            if (found := verdicts[link].check).failed:
                raise EvidenceError(f"{found.name}: {found.detail}")

    line = each(name, devices, check, "nothing is revoked")
    unsaid = [verdict.check for verdict in verdicts.values() if verdict.check.status is CheckStatus.SKIP]
    if unsaid and not line.failed:
        line = skipped(name, "; ".join(sorted({f"{said.name}: {said.detail}" for said in unsaid})))
    until = (verdict.valid_until for verdict in verdicts.values() if verdict.valid_until is not None)
    return OcspVerdict(line, min(until, default=None))
