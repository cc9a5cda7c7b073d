"""Which request is a receipt for, by this side's own account? Kept beside it, so that anybody can compare later.

A file for each request, `{its id}.{first digits of request_sha256}.json`, in a directory of the user's::

    {"version": 1, "request_sha256": "<64 hex>", "answer_sha256": "<64 hex>", "receipt": "<as it came>"}

Both digests are of sealed bytes, as this proxy sent and received them; nothing of a request's content is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import Field, TypeAdapter

from attestation.errors import EvidenceError
from attestation.receipt import MAX_RECEIPT_BYTES
from core.errors import StateError
from core.program import strictjson
from core.program.files import replace
from core.program.validation import STRICT, Sha256Hex, VersionOne, validate

_log = structlog.get_logger(__name__)

MAX_FILE_BYTES: Final = MAX_RECEIPT_BYTES + 1_024


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt, and what it must be for: SHA-256 of the sealed request and of the sealed answer before it."""

    __pydantic_config__ = STRICT

    version: VersionOne
    request_sha256: Sha256Hex
    answer_sha256: Sha256Hex
    receipt: Annotated[str, Field(max_length=MAX_RECEIPT_BYTES)]


_KEPT = TypeAdapter(KeptReceipt)


def parse_kept(data: bytes) -> KeptReceipt:
    """Read a file of this module. Raises EvidenceError."""
    try:
        return validate(_KEPT, strictjson.loads(data, max_bytes=MAX_FILE_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"receipt: {exc}") from exc


@dataclass(slots=True)
class Witness:
    """What was sent and received of one exchange, as it goes on. receipt: once it has come."""

    request: Any = field(default_factory=hashlib.sha256)
    answer: Any = field(default_factory=hashlib.sha256)
    receipt: str | None = None


class Receipts:
    """A directory of receipts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def keep(self, request_id: str, witness: Witness) -> None:
        """Write down the receipt of a request that was answered. What cannot be written is told and stops nothing."""
        if witness.receipt is None:
            _log.warning("no_receipt")  # without the id, which the app may have chosen
            return
        kept = KeptReceipt(1, witness.request.hexdigest(), witness.answer.hexdigest(), witness.receipt)
        try:
            await asyncio.to_thread(self._write, request_id, kept)
        except (StateError, OSError) as exc:
            _log.error("receipt_not_kept", error=type(exc).__name__)

    def _write(self, request_id: str, kept: KeptReceipt) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # An app may give an id twice.
        replace(self._directory / f"{request_id}.{kept.request_sha256[:16]}.json", _KEPT.dump_json(kept))
