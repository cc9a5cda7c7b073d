"""What is a source of collateral? How a piece is asked for, without the network, and for how long it is good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from core.program import strictjson

MAX_PIECE_BYTES: Final = 1024 * 1024

DAY: Final = timedelta(days=1)
"""For how long most vendors are believed to have nothing newer: a policy may want a piece younger than its next update,
and a revocation should be heard of soon."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The vendors' services, each an origin and path without a final slash."""

    amd_kds: str = "https://kdsintf.amd.com"
    intel_pcs: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"
    nvidia_nras: str = "https://nras.attestation.nvidia.com"


@dataclass(frozen=True, slots=True)
class Question:
    """An HTTP request: a GET, or a POST of `body`."""

    url: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200. headers: names in lower case."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Ask = Callable[[Question], Awaitable[Reply]]
"""Raises FetchError."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A piece that is asked for by its name. question: what to send for it, where the name does not hold that."""

    name: str
    sources: Sources
    ask: Ask
    question: bytes | None = None

    async def get(self, url: str) -> bytes:
        """The body of the answer to a GET. Raises FetchError."""
        return (await self.ask(Question(url))).body


def _never(_: bytes) -> datetime:
    return datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a kind of collateral comes from.

    fetch: raises FetchError, and ValueError, KeyError, TypeError or EvidenceError for a name or an answer of another
        form than was agreed.
    keep: for how long the vendor is believed to have nothing newer, whatever a piece says; None for ever.
    end: what a piece says of its own end. Raises ValueError, KeyError, OverflowError or EvidenceError.
    is_unsigned: believed only of its vendor, at the other end of TLS: neither of the engine nor of a file.
    is_asked_once: an answer about one nonce, which will not be asked about again.
    """

    fetch: Callable[[Lookup], Awaitable[bytes]]
    keep: timedelta | None = None
    end: Callable[[bytes], datetime] = _never
    is_unsigned: bool = False
    is_asked_once: bool = False


def read_object(data: bytes) -> dict[str, Any]:
    """An answer that is a JSON object. Raises ValueError."""
    value = strictjson.loads(data, max_bytes=MAX_PIECE_BYTES)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of fault for the caller
    return value
