"""Would this engine be let in by its own policy? Asked before it serves, and answered by what every client is given.

The machine runs what its operator started, with whatever settings; a client's policy decides in the end. But an engine
that already knows that it would be refused (developer tools on, another image, a debugging guest) has no business with
GPUs or audio, and its operator should hear of it from the engine, with every reason.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import structlog

from attestation.document import parse_document
from attestation.errors import FetchError
from attestation.guest.attester import EvidenceDesk
from attestation.types import NONCE_BYTES, CheckStatus, Nonce
from attestation.verification import AttestationResult, questions, verify
from engine.identity.endorsements import Endorsements

_log = structlog.get_logger(__name__)

SELF_POLICY = "self_policy_sha256"
"""Among the statement's extensions: the digest of the policy that the engine was held to when it started."""


async def check_self(desk: EvidenceDesk, endorsements: Endorsements) -> AttestationResult:
    """Attest over a nonce of our own and judge the answer, once what vouches for it was obtained.

    endorsements: those that the desk gives to its documents; their policy is the one to be held to.
    Raises RefusedError carrying every check, and as the desk and the parsers of documents and statements do.
    """
    nonce = Nonce(secrets.token_bytes(NONCE_BYTES))
    document = await desk.document(nonce, "the engine itself")
    if document is None:
        raise FetchError("too many others wait for evidence")
    policy = endorsements.policy
    collateral = await endorsements.obtain(document, questions(document, policy))
    document = replace(document, collateral=endorsements.at_hand(document))
    # Through the form in which clients get it. The time is that after waiting for vendors, who sign lists of today.
    result = verify(parse_document(document.encode()), policy, collateral, expected=nonce, now=endorsements.clock())
    skipped = [check.name for check in result.checks if check.status is CheckStatus.SKIP]
    _log.info("self_check_passed", policy=policy.digest, kind=result.kind.value, skipped=skipped)
    return result
