"""Who is at the other end? The library of relying parties; `docs/python-api.md` shows how it is used.

Importing this loads nothing: each name is looked up where it is defined when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from attestation.bundle import Bundle as Bundle
    from attestation.bundle import parse_bundle as parse_bundle
    from attestation.bundle import parse_saved as parse_saved
    from attestation.document import AttestationDocument as AttestationDocument
    from attestation.document import parse_document as parse_document
    from attestation.errors import AttestationError as AttestationError
    from attestation.errors import EvidenceError as EvidenceError
    from attestation.errors import FetchError as FetchError
    from attestation.errors import PolicyError as PolicyError
    from attestation.errors import RefusedError as RefusedError
    from attestation.fetch import fetch_document as fetch_document
    from attestation.policy import Policy as Policy
    from attestation.policy import parse_policy as parse_policy
    from attestation.policy import read_policy as read_policy
    from attestation.recognition import recognise as recognise
    from attestation.release.load import load_policy as load_policy
    from attestation.release.signature import parse_signer as parse_signer
    from attestation.release.trust import PolicyTrust as PolicyTrust
    from attestation.statement import Statement as Statement
    from attestation.statement import parse_statement as parse_statement
    from attestation.types import Check as Check
    from attestation.types import CheckStatus as CheckStatus
    from attestation.types import Collateral as Collateral
    from attestation.types import CollateralKey as CollateralKey
    from attestation.types import Evidence as Evidence
    from attestation.types import EvidenceKind as EvidenceKind
    from attestation.types import Nonce as Nonce
    from attestation.types import parse_nonce as parse_nonce
    from attestation.verification import AttestationResult as AttestationResult
    from attestation.verification import needs as needs
    from attestation.verification import questions as questions
    from attestation.verification import verify as verify
else:
    _DEFINED: Final[Mapping[str, tuple[str, ...]]] = {
        "bundle": ("Bundle", "parse_bundle", "parse_saved"),
        "document": ("AttestationDocument", "parse_document"),
        "errors": ("AttestationError", "EvidenceError", "FetchError", "PolicyError", "RefusedError"),
        "fetch": ("fetch_document",),
        "policy": ("Policy", "parse_policy", "read_policy"),
        "recognition": ("recognise",),
        "release.load": ("load_policy",),
        "release.signature": ("parse_signer",),
        "release.trust": ("PolicyTrust",),
        "statement": ("Statement", "parse_statement"),
        "types": (
            "Check",
            "CheckStatus",
            "Collateral",
            "CollateralKey",
            "Evidence",
            "EvidenceKind",
            "Nonce",
            "parse_nonce",
        ),
        "verification": ("AttestationResult", "needs", "questions", "verify"),
    }
    _MODULES: Final = {name: f"{__name__}.{module}" for module, names in _DEFINED.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})
