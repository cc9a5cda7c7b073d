"""Did the pinned workflow, or person, publish these bytes? A Sigstore bundle, verified without a network.

The bundle is of version 0.3 and holds either a signature over the policy, or a DSSE envelope around an in-toto
statement (v1) that names the policy's SHA-256 among its subjects, as GitHub's attest-build-provenance publishes it.
What the library verifies against the pinned trusted root: the certificate's chain and its transparency timestamp, the
log entry's inclusion proof, checkpoint and promise or an RFC 3161 timestamp, and the signature. What is verified here:
the identity and issuer in the certificate, and what the statement is about.

A trusted root is a file that the user fetched once (`trusted_root.json` of the instance); nothing renews it here. The
library reads the clock for one thing: a key of the root whose validity has not begun is left out.

The only module that loads `sigstore`, which only the extra of that name installs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import AllOf, Identity, OIDCIssuerV2

from attestation.errors import PolicyError
from attestation.release.trust import MAX_SIGSTORE_BUNDLE_BYTES, SigstoreTrust
from core.program import strictjson

BUNDLE_MEDIA_TYPES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
)
IN_TOTO_PAYLOAD = "application/vnd.in-toto+json"
IN_TOTO_STATEMENT = "https://in-toto.io/Statement/v1"
MAX_TOLD_CHARACTERS = 200


def verify_provenance(policy: bytes, bundle: bytes, trust: SigstoreTrust) -> None:
    """Verify that `bundle` is of the pinned identity and about `policy`. Raises PolicyError."""
    members = _members(bundle)
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(str(trust.trusted_root)))
    except Exception as exc:  # of many libraries, for a file that the user gave
        raise PolicyError(f"Sigstore trusted root, {trust.trusted_root}: {_told(exc)}") from exc
    whom = AllOf([OIDCIssuerV2(trust.issuer), Identity(identity=trust.identity)])
    statement = None
    try:
        if "dsseEnvelope" in members:
            statement = verifier.verify_dsse(Bundle.from_json(bundle), whom)
        else:
            verifier.verify_artifact(policy, Bundle.from_json(bundle), whom)
    except Exception as exc:  # whatever the libraries raise, the bundle is not verified
        raise PolicyError(f"Sigstore bundle: {_told(exc)}") from exc
    if statement is not None and (faults := "; ".join(_statement_faults(policy, *statement, trust.predicate_types))):
        raise PolicyError(f"Sigstore bundle: {faults}")


def _members(bundle: bytes) -> dict[str, Any]:
    try:
        members = strictjson.loads(bundle, max_bytes=MAX_SIGSTORE_BUNDLE_BYTES)
    except ValueError as exc:
        raise PolicyError(f"Sigstore bundle: {exc}") from exc
    if not isinstance(members, dict) or members.get("mediaType") not in BUNDLE_MEDIA_TYPES:
        raise PolicyError("Sigstore bundle: not one of version 0.3")
    return members


def _statement_faults(policy: bytes, media_type: str, payload: bytes, predicates: Collection[str]) -> Iterator[str]:
    """What is wrong with an authentic in-toto statement. Unknown members are ignored, as in-toto asks."""
    try:
        statement = strictjson.loads(payload, max_bytes=MAX_SIGSTORE_BUNDLE_BYTES)
    except ValueError as exc:
        yield f"its payload: {exc}"
        return
    if media_type != IN_TOTO_PAYLOAD or not isinstance(statement, dict) or statement.get("_type") != IN_TOTO_STATEMENT:
        yield "its payload is not an in-toto statement of version 1"
        return
    if statement.get("predicateType") not in predicates:
        yield f"its statement is not one of {', '.join(predicates)}"
    if hashlib.sha256(policy).hexdigest() not in _subjects(statement.get("subject")):
        yield "its statement is not about this policy"


def _subjects(subjects: object) -> Iterator[object]:
    """The SHA-256 digests that a statement is about."""
    for subject in subjects if isinstance(subjects, list) else []:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        yield digest.get("sha256") if isinstance(digest, dict) else None


def _told(exc: Exception) -> str:
    """What a library says, which may quote a bundle at length."""
    text = "".join(character if character.isprintable() else " " for character in str(exc)[:MAX_TOLD_CHARACTERS])
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
