"""Whole attestation documents of machines that never were, and policies that accept them."""

from __future__ import annotations

from dataclasses import replace

from attestation.document import AttestationDocument
from attestation.policy import InsecureRoots, Policy
from attestation.snp.abi import Product
from attestation.statement import Statement, encode_statement, gpu_nonce, report_data
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, Nonce
from tests.attestation.gpu.forge import ROOTS as GPU_ROOTS
from tests.attestation.gpu.forge import Machine
from tests.attestation.samples import MEASURED, NONCE, STRICT_POLICY, statement_with
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel

AMD = ForgedAmd(Product.GENOA)
INTEL = ForgedIntel()
GPUS = Machine.build()
SECURE = statement_with(**MEASURED)


def snp_policy(amd: ForgedAmd = AMD, gpus: Machine | None = GPUS) -> Policy:
    """Accepts a forged AMD machine, with its GPUs or with none."""
    of_gpus = {"gpu_device": tuple(GPU_ROOTS.gpu_device), "gpu_rim": tuple(GPU_ROOTS.gpu_rim)} if gpus else {}
    return replace(
        STRICT_POLICY,
        machine={EvidenceKind.SNP: amd.policy()},
        gpu=gpus.policy if gpus else None,
        insecure_roots=InsecureRoots(snp=tuple(amd.roots.snp), **of_gpus),
    )


def tdx_policy(intel: ForgedIntel = INTEL) -> Policy:
    """Accepts a forged Intel machine, which has no GPU."""
    roots = InsecureRoots(tdx=tuple(intel.roots.tdx))
    return replace(STRICT_POLICY, machine={EvidenceKind.TDX: intel.policy()}, insecure_roots=roots)


SNP_POLICY, TDX_POLICY = snp_policy(), tdx_policy()


def with_vendor_roots(policy: Policy) -> Policy:
    """The same rules, for machines that a vendor made."""
    return replace(policy, insecure_roots=None)


def snp_document(
    statement: Statement = SECURE,
    nonces: tuple[Nonce, ...] = (NONCE,),
    gpus: Machine | None = GPUS,
    amd: ForgedAmd = AMD,
) -> AttestationDocument:
    """What an engine on a forged AMD machine answers; gpus: None for a machine without."""
    data = encode_statement(statement)
    devices = gpus.answer(gpu_nonce(nonces, data)) if gpus else DeviceEvidence(b"")
    report = amd.report(report_data(nonces, data, devices))
    collateral = {**amd.collateral(report), **(gpus.collateral() if gpus else {})}
    return AttestationDocument(nonces, data, Evidence(EvidenceKind.SNP, report), devices, collateral)


def tdx_document(
    statement: Statement = SECURE, nonces: tuple[Nonce, ...] = (NONCE,), intel: ForgedIntel = INTEL
) -> AttestationDocument:
    """What an engine on a forged Intel machine answers."""
    data = encode_statement(statement)
    quote = intel.quote(report_data(nonces, data, DeviceEvidence(b"")))
    evidence = Evidence(EvidenceKind.TDX, quote)
    return AttestationDocument(nonces, data, evidence, DeviceEvidence(b""), intel.collateral())


def alone(document: AttestationDocument) -> AttestationDocument:
    """The same, with no collateral along."""
    return replace(document, collateral={})
