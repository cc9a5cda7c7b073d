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
from tests.attestation.samples import NONCE, STRICT_POLICY, statement_with
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel

AMD = ForgedAmd(Product.GENOA)
INTEL = ForgedIntel()
GPUS = Machine.build()
SECURE = statement_with(insecure_options=())

SNP_POLICY = replace(
    STRICT_POLICY,
    insecure=None,
    snp=AMD.policy(),
    gpu=GPUS.policy,
    insecure_roots=InsecureRoots(
        snp=tuple(AMD.roots.snp), gpu_device=tuple(GPU_ROOTS.gpu_device), gpu_rim=tuple(GPU_ROOTS.gpu_rim)
    ),
)
"""Accepts the forged AMD machine with its GPU."""

TDX_POLICY = replace(
    STRICT_POLICY, insecure=None, tdx=INTEL.policy(), insecure_roots=InsecureRoots(tdx=tuple(INTEL.roots.tdx))
)
"""Accepts the forged Intel machine, which has no GPU."""


def with_vendor_roots(policy: Policy) -> Policy:
    """The same rules, for machines that a vendor made."""
    return replace(policy, insecure_roots=None)


def snp_document(
    statement: Statement = SECURE, nonces: tuple[Nonce, ...] = (NONCE,), gpus: Machine | None = GPUS
) -> AttestationDocument:
    """What an engine on the forged AMD machine answers; gpus: None for a machine without."""
    data = encode_statement(statement)
    devices = gpus.answer(gpu_nonce(nonces, data)) if gpus else DeviceEvidence(b"")
    report = AMD.report(report_data(nonces, data, devices))
    collateral = {**AMD.collateral(report), **(gpus.collateral() if gpus else {})}
    return AttestationDocument(nonces, data, Evidence(EvidenceKind.SNP, report), devices, collateral)


def tdx_document(statement: Statement = SECURE, nonces: tuple[Nonce, ...] = (NONCE,)) -> AttestationDocument:
    """What an engine on the forged Intel machine answers."""
    data = encode_statement(statement)
    quote = INTEL.quote(report_data(nonces, data, DeviceEvidence(b"")))
    evidence = Evidence(EvidenceKind.TDX, quote)
    return AttestationDocument(nonces, data, evidence, DeviceEvidence(b""), INTEL.collateral())
