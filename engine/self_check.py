"""Would this engine be let in by its own policy? Asked before it serves, and answered by what every client is given.

The machine runs what its operator started, with whatever settings; a client's policy decides in the end. But an engine
that already knows that it would be refused (developer tools on, another image, a debugging guest) has no business with
GPUs or audio, and its operator should hear of it from the engine, with every reason.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import structlog

from attestation.attester import EvidenceDesk
from attestation.document import AttestationDocument, parse_document
from attestation.errors import FetchError
from attestation.policy import Policy
from attestation.types import NONCE_BYTES, CheckStatus, Nonce
from attestation.verify import AttestationResult, verify

_log = structlog.get_logger(__name__)

SELF_POLICY = "self_policy_sha256"
"""Among the statement's extensions: the digest of the policy that the engine was held to when it started."""


async def check_self(desk: EvidenceDesk, policy: Policy, *, now: float) -> AttestationResult:
    """Attest over a nonce of our own and judge the answer. now: Unix seconds.

    Raises RefusedError carrying every check, and as the desk and the parsers of documents and statements do.
    """
    nonce = Nonce(secrets.token_bytes(NONCE_BYTES))
    document = await desk.document(nonce, "the engine itself")
    if document is None:
        raise FetchError("too many others wait for evidence")
    result = _judge(parse_document(document.encode()), policy, nonce, datetime.fromtimestamp(now, UTC))
    skipped = [check.name for check in result.checks if check.status is CheckStatus.SKIP]
    _log.info("self_check_passed", policy=policy.digest, kind=result.kind.value, skipped=skipped)
    return result


def _judge(document: AttestationDocument, policy: Policy, nonce: Nonce, now: datetime) -> AttestationResult:
    return verify(document, policy, document.collateral, expected=nonce, now=now)
