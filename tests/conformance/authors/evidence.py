"""Which machines are accepted, and which are refused by which checks? `evidence.json`.

The evidence itself is that of `sottovoce-attest selftest`, in the form that `attestation.selftest` draws: made by the
tests' own authorities, whose keys nobody kept. Here are the verdicts on it, and cases that take no key to make.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from attestation.selftest import DATA_FILE, shipped_suite

ABOUT: Final = "Evidence, policies and times, and what comes of them. See README.md."
SUITE: Final = f"attestation/{DATA_FILE}"
SNP: Final = "SEV-SNP"
GPUS: Final = "SEV-SNP with two GPUs"
TDX: Final = "TDX"

Case = dict[str, Any]


def _of(sample: str, says: str, *refused_by: str, **more: Any) -> Case:
    return {"says": says, "of": sample, "refused_by": list(refused_by), **more}


def _flip(sample: str, blob: str, byte: int, says: str, *refused_by: str) -> Case:
    return _of(sample, f"a bit of {says} is flipped", *refused_by, flips={blob: [8 * byte]})


def _at_other_times() -> Iterator[Case]:
    outside = {
        SNP: ("snp validity", "snp revocation", "lifetime"),
        GPUS: ("snp validity", "snp revocation", "gpu revocation", "rim revocation", "lifetime"),
    }
    for sample in (SNP, TDX, GPUS):
        yield _of(sample, "judged a second before its statement ends", judged_at="2026-06-01T12:59:59Z")
        yield _of(sample, "judged when its statement ends", "lifetime", judged_at="2026-06-01T13:00:00Z")
    for sample, refused_by in outside.items():
        yield _of(sample, "judged a year before", *refused_by, judged_at="2025-06-01T12:00:00Z")
        yield _of(sample, "judged ten years later", *refused_by, judged_at="2036-06-01T12:00:00Z")
    early = ("tdx collateral validity", "tdx authenticity", "lifetime")
    yield _of(TDX, "judged a year before", *early, judged_at="2025-06-01T12:00:00Z")
    late = ("tdx collateral validity", "tdx certificates", "lifetime")
    yield _of(TDX, "judged ten years later", *late, judged_at="2036-06-01T12:00:00Z")


def _elsewhere() -> Iterator[Case]:
    nonce = bytes(range(32)).hex()
    yield _of(SNP, "our nonce stands there twice", "binding", nonces=[nonce, nonce])
    yield _of(TDX, "our nonce stands there twice", "binding", nonces=[nonce, nonce])
    yield _of(GPUS, "our nonce stands there twice", "binding", "gpu nonce", nonces=[nonce, nonce])
    yield _of(SNP, "the policy is for Intel's machines", "evidence kind", policy="tdx")
    yield _of(TDX, "the policy is for AMD's machines", "evidence kind", policy="snp")


def _changed_reports() -> Iterator[Case]:
    for byte, says, *refused_by in (
        (0x00, "the version", "snp report", "binding"),
        (0x08, "the guest policy", "snp signature"),
        (0x30, "the privilege level", "snp signature", "snp vmpl"),
        (0x34, "the algorithm", "snp report", "binding"),
        (0x38, "the current TCB", "snp signature", "snp provisional"),
        (0x40, "the platform", "snp signature"),
        (0x50, "the report data", "snp signature", "binding"),
        (0xC0, "the host data", "snp signature"),
        (0xE0, "the digest of the ID key", "snp signature"),
        (0x1E0, "the committed TCB", "snp signature", "snp tcb order", "snp provisional"),
        (0x2E8, "the signature's second half", "snp signature"),
        (0x494, "the reserved bytes behind the signature", "snp report", "binding"),
    ):
        yield _flip(SNP, "snp report", byte, says, *refused_by)
    for byte, says, *refused_by in (
        (0, "the version", "tdx quote", "binding"),
        (2, "the kind of its key", "tdx quote", "binding"),
        (12, "the vendor of its enclave", "tdx quote", "binding"),
        (48, "the TCB", "tdx authenticity"),
        (64, "MRSEAM", "tdx authenticity", "tdx mr_seam"),
        (168, "the attributes", "tdx authenticity", "tdx td_attributes"),
        (184, "MRTD", "tdx authenticity", "tdx hardware"),
        (232, "MRCONFIGID", "tdx authenticity", "tdx mr_config_id"),
        (376, "RTMR0", "tdx authenticity", "tdx hardware"),
        (568, "the report data", "tdx authenticity", "binding"),
        (632, "the length of its signature", "tdx quote", "binding"),
    ):
        yield _flip(TDX, "tdx quote", byte, says, *refused_by)


def _collateral() -> Iterator[Case]:
    manifests = ("gpu reference values", "gpu measurements", "rim revocation")
    for blob, *refused_by in (
        ("snp vcek", "snp vek"),
        ("snp chain", "snp certificates"),
        ("snp crl", "snp revocation"),
        ("driver manifest", *manifests),
        ("vbios manifest", *manifests),
        ("ocsp of GPU 0", "gpu revocation"),
        ("ocsp of Test GH100 Identity", "gpu revocation"),
        ("ocsp of Test RIM L4 Signer", "rim revocation"),
        ("ocsp of Test Reference Value GH100 CA", "rim revocation"),
    ):
        yield _of(GPUS, f"{blob} is withheld", *refused_by, withholds=[blob])
        yield _flip(GPUS, blob, 0, f"{blob}, at its beginning,", *refused_by)
    yield _flip(TDX, "tdx collateral", 0, "tdx collateral, at its beginning,", "tdx collateral")


def figures() -> dict[str, Any]:
    """What stands in the file."""
    suite = shipped_suite()
    shipped = [
        *(_of(sample.name, "as it is") for sample in suite.samples),
        *(
            {"says": case.name, "of": case.of, "refused_by": list(case.refused_by), "case": case.name}
            for case in suite.cases
        ),
    ]
    made = [*_at_other_times(), *_elsewhere(), *_changed_reports(), *_collateral()]
    return {
        "format": 1,
        "about": ABOUT,
        "suite": SUITE,
        "suite_sha256": sha256(resources.files("attestation").joinpath(DATA_FILE).read_bytes()).hexdigest(),
        "vectors": [_finished(number, each) for number, each in enumerate([*shipped, *made], 1)],
    }


def _finished(number: int, case: Case) -> Case:
    refused_by = case.pop("refused_by")
    expect = {"verdict": "refused", "code": refused_by} if refused_by else {"verdict": "accepted"}
    return {"id": f"evidence/{number:03}", **case, "expect": expect}
