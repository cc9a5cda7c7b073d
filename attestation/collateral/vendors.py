"""Which source has a piece of collateral, and when should it be asked again? Each kind by its row.

What comes is not believed here: appraising it is somebody else's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from attestation.collateral.source import Ask, Lookup, Source, Sources
from attestation.errors import EvidenceError, FetchError
from attestation.evidence import KINDS
from attestation.gpu import vendor as nvidia
from attestation.types import CollateralKey, CollateralKind

SOURCES: Final[Mapping[CollateralKind, Source]] = {
    **nvidia.SOURCES,
    **{kind: source for rules in KINDS.values() for kind, source in rules.collateral.items()},
}

UNSIGNED: Final = frozenset(kind for kind, source in SOURCES.items() if source.is_unsigned)
"""Believed only of its vendor, at the other end of TLS: neither of the engine nor of a file."""
ASKED_ONCE: Final = frozenset(kind for kind, source in SOURCES.items() if source.is_asked_once)
"""Answers about one nonce, which will not be asked about again."""


async def fetch_piece(key: CollateralKey, sources: Sources, ask: Ask, *, question: bytes | None = None) -> bytes:
    """The piece of that name, as its vendor publishes it now. Raises FetchError.

    question: what must be sent to get it, where its name does not hold that: for `gpu-nras`, the evidence.
    """
    try:
        return await SOURCES[key.kind].fetch(Lookup(key.name, sources, ask, question))
    except (ValueError, KeyError, TypeError, EvidenceError) as exc:  # a name, or an answer, not of the agreed form
        raise FetchError(f"not an answer as agreed ({type(exc).__name__})") from exc


def good_until(key: CollateralKey, data: bytes, fetched_at: datetime) -> datetime:
    """When a newer piece should be asked for. Raises EvidenceError when the piece cannot be read."""
    source = SOURCES[key.kind]
    try:
        end = source.end(data)
        return end if source.keep is None else min(fetched_at + source.keep, end)
    except (ValueError, KeyError, OverflowError) as exc:
        raise EvidenceError(f"{key.kind}: cannot be read ({type(exc).__name__})") from exc
