"""What can go wrong when one side asks who is at the other end.

::

    AttestationError
    ├── PolicyError           the policy itself cannot be used; every fault in one message
    ├── EvidenceError         the document, statement or evidence is malformed or not authentic
    ├── RefusedError          authentic or not, it is not what the policy asks for; carries every check
    ├── SourceFileError       a file that reference values are computed from is not what it should be
    └── FetchError            the attestation document or its collateral could not be had

A caller who cannot act differently on two of them catches their parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attestation.types import Check


class AttestationError(Exception):
    """Root of the package; never raised itself."""


class PolicyError(AttestationError):
    """The policy is empty, contradictory or unreadable."""


class EvidenceError(AttestationError):
    """Bytes that claim to be evidence cannot be read as such, or fail to authenticate."""


class RefusedError(AttestationError):
    """The peer was judged against the policy and refused.

    checks: every check that was made, in order, the failed ones among them.
    """

    def __init__(self, checks: tuple[Check, ...]) -> None:
        self.checks = checks
        super().__init__("; ".join(f"{check.name}: {check.detail}" for check in checks if check.failed))


class SourceFileError(AttestationError):
    """A file that reference values are computed from cannot be read as what it is given for."""


class FetchError(AttestationError):
    """Nothing to judge: the peer or a collateral service did not answer as agreed."""
