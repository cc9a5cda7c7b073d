"""How long does a client need to judge one attestation? Machine and GPU, with the collateral at hand.

The evidence is forged, in the vendors' formats and signed by a test PKI with the vendors' algorithms; its RSA keys have
2048 bits where AMD's have 4096. Every document is a new one, over a new nonce, as at every verification.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from attestation.document import AttestationDocument
from attestation.policy import Policy
from attestation.types import NONCE_BYTES, Nonce
from attestation.verification import needs, verify
from tests.attestation import machines
from tests.attestation.gpu.forge import Machine
from tests.attestation.samples import NOW

TIMES = 60


def main() -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}")
    print(f"\n{'verification':<24} {'median ms':>10} {'slowest ms':>11}")
    eight = Machine.build(8)
    _report("TDX", lambda nonce: machines.tdx_document(nonces=(nonce,)), machines.TDX_POLICY)
    _report("SNP, 1 GPU (aim 50)", lambda nonce: machines.snp_document(nonces=(nonce,)), machines.SNP_POLICY)
    _report(
        "SNP, 8 GPUs",
        lambda nonce: machines.snp_document(nonces=(nonce,), gpus=eight),
        replace(machines.SNP_POLICY, gpu=eight.policy),
    )


def _report(name: str, document: Callable[[Nonce], AttestationDocument], policy: Policy) -> None:
    nonces = [Nonce(os.urandom(NONCE_BYTES)) for _ in range(TIMES)]
    times_ms = [_timed(document(nonce), policy, nonce) for nonce in nonces]
    print(f"{name:<24} {statistics.median(times_ms):>10.1f} {max(times_ms):>11.1f}")


def _timed(document: AttestationDocument, policy: Policy, nonce: Nonce) -> float:
    begun = time.perf_counter()
    needs(document, policy, document.collateral, now=NOW)
    verify(document, policy, document.collateral, expected=nonce, now=NOW)
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    main()
