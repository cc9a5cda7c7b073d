"""What can go wrong when one side asks who is at the other end.

::

    AttestationError
    ├── PolicyError           the policy itself cannot be used; every fault in one message
    ├── EvidenceError         the document, statement or evidence is malformed or not authentic
    ├── RefusedError          authentic or not, it is not what the policy asks for; carries every check
    ├── FetchError            the attestation document or its collateral could not be had
    └── ChannelError          a sealed message is malformed, altered, cut, or answers another request
        └── KeyMismatchError  it was sealed to a key, or with a suite, that this gateway does not hold

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


class FetchError(AttestationError):
    """Nothing to judge: the peer or a collateral service did not answer as agreed."""


class ChannelError(AttestationError):
    """A message of the channel cannot be trusted. To the peer every such failure looks the same."""


class KeyMismatchError(ChannelError):
    """Unknown key id, key encapsulation or suite, or a first chunk that does not open (RFC 9458 section 5.3)."""
