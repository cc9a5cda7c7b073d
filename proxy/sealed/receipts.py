"""Which request or session is a receipt for, by this side's own account? Kept beside it, for anybody to compare later.

A file for each request, `{its id}.{first digits of request_sha256}.json`, in a directory of the user's::

    {"version": 1, "request_sha256": "<64 hex>", "answer_sha256": "<64 hex>", "receipt": "<as it came>"}

and for each live session, with the first digits of up_sha256::

    {"version": 1, "frames_up": 321, "up_sha256": "<64 hex>", "frames_down": 318, "down_sha256": "<64 hex>",
     "frames_unheard": 0, "receipt": "<as it came>"}

Digests are of sealed bytes, as this proxy sent and received them; nothing of the content is written. frames_unheard:
how many more were sent than the engine had opened when it ended the session.

Receipts of a job's parts are kept with its result, and told as one such file::

    {"version": 1, "object": "receipts", "job": "<id>", "receipts": [
        {"part": 0, "start_ms": 0, "end_ms": 600000, "instance": "<of a statement>", "statement_sha256": "<64 hex>",
         "request_sha256": "<64 hex>", "answer_sha256": "<64 hex>", "receipt": "<as it came>"}, ...]}
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import structlog
from pydantic import Field, TypeAdapter

from attestation.errors import EvidenceError
from attestation.receipt import MAX_RECEIPT_BYTES, parse_live_receipt
from core.errors import StateError
from core.program import strictjson
from core.program.files import replace
from core.program.validation import STRICT, Label, Sha256Hex, VersionOne, validate

_log = structlog.get_logger(__name__)

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Ten hours in parts of ten seconds."""


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt, and what it must be for: SHA-256 of the sealed request and of the sealed answer before it."""

    __pydantic_config__ = STRICT

    version: VersionOne
    request_sha256: Sha256Hex
    answer_sha256: Sha256Hex
    receipt: Annotated[str, Field(max_length=MAX_RECEIPT_BYTES)]


@dataclass(frozen=True, slots=True)
class KeptLiveReceipt:
    """The same of a live session: SHA-256 of the messages up and down that it must be for, and how many they are."""

    __pydantic_config__ = STRICT

    version: VersionOne
    frames_up: Annotated[int, Field(ge=1)]
    up_sha256: Sha256Hex
    frames_down: Annotated[int, Field(ge=1)]
    down_sha256: Sha256Hex
    frames_unheard: Annotated[int, Field(ge=0)]
    receipt: Annotated[str, Field(max_length=MAX_RECEIPT_BYTES)]


@dataclass(frozen=True, slots=True)
class KeptPartReceipt:
    """The receipt of one part of a job. instance, statement_sha256: which engine, and what it had proved."""

    __pydantic_config__ = STRICT

    part: Annotated[int, Field(ge=0)]
    start_ms: Annotated[int, Field(ge=0)]
    end_ms: Annotated[int, Field(ge=0)] | None
    instance: Label
    statement_sha256: Sha256Hex
    request_sha256: Sha256Hex
    answer_sha256: Sha256Hex
    receipt: Annotated[str, Field(max_length=MAX_RECEIPT_BYTES)]


@dataclass(frozen=True, slots=True)
class KeptJobReceipts:
    """The receipts of all parts of a job."""

    __pydantic_config__ = STRICT

    version: VersionOne
    object: Literal["receipts"]
    job: Label
    receipts: tuple[KeptPartReceipt, ...]


Kept: TypeAlias = KeptReceipt | KeptLiveReceipt | KeptJobReceipts

_KEPT = TypeAdapter(KeptReceipt)
_KEPT_LIVE = TypeAdapter(KeptLiveReceipt)
_KEPT_JOB = TypeAdapter(KeptJobReceipts)


def parse_kept(data: bytes) -> Kept:
    """Read one of the three files of this module. Raises EvidenceError."""
    try:
        value = strictjson.loads(data, max_bytes=MAX_FILE_BYTES)
        names = value.keys() if isinstance(value, dict) else ()
        if "receipts" in names:
            return validate(_KEPT_JOB, value)
        return validate(_KEPT_LIVE, value) if "up_sha256" in names else validate(_KEPT, value)
    except ValueError as exc:
        raise EvidenceError(f"receipt: {exc}") from exc


@dataclass(slots=True)
class Witness:
    """What was sent and received of one exchange, as it goes on. receipt: once it has come.

    instance, statement_sha256: which engine it is with, and what that proved.
    """

    instance: str = ""
    statement_sha256: str = ""
    request: Any = field(default_factory=hashlib.sha256)
    answer: Any = field(default_factory=hashlib.sha256)
    receipt: str | None = None


class _Prefixes:
    """SHA-256 of the first n messages of a direction, for every n: which n a receipt covers, it says itself."""

    def __init__(self) -> None:
        self._running = hashlib.sha256()
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._digests) // 32

    def add(self, message: bytes) -> None:
        self._running.update(message)
        self._digests += self._running.digest()

    def sha256(self, count: int) -> str:
        """count: 1 to as many as there were."""
        return self._digests[32 * (count - 1) : 32 * count].hex()


class LiveWitness:
    """What was sent and received of one live session. It takes 32 bytes for each frame."""

    def __init__(self) -> None:
        self._up = _Prefixes()
        self._down = _Prefixes()
        self._told = 0
        self._receipt: str | None = None

    def sent(self, message: bytes) -> None:
        self._up.add(message)

    def received(self, message: bytes) -> None:
        """A message that has opened."""
        self._down.add(message)

    def told(self) -> None:
        """The last message that was received said something: a receipt covers no less."""
        self._told = len(self._down)

    def receipted(self, text: str) -> None:
        self._receipt = text

    def kept(self) -> KeptLiveReceipt | None:
        """The receipt beside what this side knows; None without one. Raises EvidenceError for what it cannot be for."""
        if self._receipt is None:
            return None
        claims = parse_live_receipt(self._receipt)[0]
        if claims.frames_up > len(self._up) or not self._told <= claims.frames_down < len(self._down):
            raise EvidenceError("receipt: of more than was said, or of less than was answered")
        return KeptLiveReceipt(
            version=1,
            frames_up=claims.frames_up,
            up_sha256=self._up.sha256(claims.frames_up),
            frames_down=claims.frames_down,
            down_sha256=self._down.sha256(claims.frames_down),
            frames_unheard=len(self._up) - claims.frames_up,
            receipt=self._receipt,
        )


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
        await self._put(request_id, kept.request_sha256, _KEPT.dump_json(kept))

    async def keep_live(self, request_id: str, witness: LiveWitness) -> None:
        """As `keep`, of a live session that is over."""
        try:
            kept = witness.kept()
        except EvidenceError as exc:
            _log.error("receipt_refused", reason=str(exc))
            return
        if kept is None:
            _log.warning("no_receipt")
            return
        await self._put(request_id, kept.up_sha256, _KEPT_LIVE.dump_json(kept))

    async def _put(self, request_id: str, digest: str, data: bytes) -> None:
        try:
            # An app may give an id twice.
            await asyncio.to_thread(self._write, f"{request_id}.{digest[:16]}.json", data)
        except (StateError, OSError) as exc:
            _log.error("receipt_not_kept", error=type(exc).__name__)

    def _write(self, name: str, data: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._directory / name, data)
