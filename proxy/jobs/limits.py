"""Is a recording within what the plan of its account allows, and as long as its submission wants it?

Bytes are counted while they arrive, and a length as soon as it is known: nothing is decoded, sent or paid beyond that.
"""

from __future__ import annotations

from proxy.jobs.errors import FailedError
from proxy.jobs.model import Failure, FailureKind


def check_size(size_bytes: int | None, limit_bytes: int | None) -> None:
    """Raises FailedError(MEDIA_TOO_LARGE)."""
    if size_bytes is not None and limit_bytes is not None and size_bytes > limit_bytes:
        raise FailedError(Failure(FailureKind.MEDIA_TOO_LARGE, {"limit_bytes": limit_bytes}))


def check_length(audio_ms: int | None, limit_ms: int | None) -> None:
    """Raises FailedError(MEDIA_TOO_LONG)."""
    if audio_ms is not None and limit_ms is not None and audio_ms > limit_ms:
        raise FailedError(Failure(FailureKind.MEDIA_TOO_LONG, {"limit_ms": limit_ms}))


def check_shortest(audio_ms: int | None, min_ms: int) -> None:
    """Raises FailedError(MEDIA_TOO_SHORT)."""
    if audio_ms is not None and audio_ms < min_ms:
        raise FailedError(Failure(FailureKind.MEDIA_TOO_SHORT, {"audio_ms": audio_ms}))


def least(*limits: int | None) -> int | None:
    """The limit that counts, of several; None where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)
