"""What collateral is at hand, and where else can we get it? First what the engine sent, then a cache, then the vendor.

Everything here is signed by somebody else and judged later, so a file that was changed, or a service that lies, can
make a verification fail and never make it pass. A piece that names its next update is asked for again after it; until
a newer one is had the old one is handed on, for how stale is too stale is the policy's question. A vendor that does
not answer is left alone for a while, longer each time (AMD's service limits how often it may be asked).

A cached piece is a file of its own::

    {"version": 1, "kind": "...", "name": "...", "fetched_at": <Unix seconds>, "data": "<base64>"}
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import aiohttp
import structlog
from pydantic import Field, TypeAdapter

from attestation import strictjson
from attestation.errors import EvidenceError, FetchError
from attestation.http import environment_proxy, read_bounded
from attestation.sources import MAX_PIECE_BYTES, Ask, Question, Reply, Sources, fetch_piece, good_until
from attestation.statement import MAX_NOT_AFTER
from attestation.types import Collateral, CollateralKey, CollateralKind
from attestation.validation import STRICT, Base64, Label, VersionOne, validate

_log = structlog.get_logger(__name__)

PIECE_TIMEOUT_S = 15.0
MAX_ROUNDS = 4
"""A piece may tell which others are needed: a reference manifest its signers, whose revocation is then asked about."""
MAX_NEEDS = 256

NEVER_SENT = frozenset({CollateralKind.GPU_NRAS_KEYS})
"""What nobody signed is believed only of its vendor, at the other end of TLS."""

BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(hours=1)

Needs = Callable[[Collateral], tuple[CollateralKey, ...]]
"""What a verification will look up, given what is at hand already."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of collateral, and when it was had."""

    data: bytes
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class Obtained:
    """What could be had of what is needed.

    oldest_at: when the oldest piece was had; None without any.
    """

    collateral: Collateral
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class _PieceFile:
    __pydantic_config__ = STRICT
    version: VersionOne
    kind: CollateralKind
    name: Label
    fetched_at: Annotated[int, Field(ge=0, le=MAX_NOT_AFTER)]
    data: Base64


_PIECE_FILE = TypeAdapter(_PieceFile)


class Cache:
    """Pieces in memory and, with a directory, in files that outlive the program."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._pieces: dict[CollateralKey, Piece] = {}

    def get(self, key: CollateralKey) -> Piece | None:
        if key not in self._pieces and (piece := self._read(key)):
            self._pieces[key] = piece
        return self._pieces.get(key)

    def put(self, key: CollateralKey, piece: Piece) -> None:
        """Keep a piece. That no file can be written is logged, not raised: it only costs asking again."""
        self._pieces[key] = piece
        if self._directory is not None:
            try:
                self._write(self._path(self._directory, key), key, piece)
            except OSError as exc:
                _log.warning("collateral_not_cached", error=type(exc).__name__)

    @staticmethod
    def _path(directory: Path, key: CollateralKey) -> Path:
        return directory / f"{key.kind}-{hashlib.sha256(key.name.encode()).hexdigest()}.json"

    def _read(self, key: CollateralKey) -> Piece | None:
        if self._directory is None:
            return None
        try:
            with self._path(self._directory, key).open("rb") as file:
                text = file.read(2 * MAX_PIECE_BYTES + 1)
            members = validate(_PIECE_FILE, strictjson.loads(text, max_bytes=2 * MAX_PIECE_BYTES))
        except (OSError, ValueError):
            return None  # the same as none: it is asked for, and written anew
        if (members.kind, members.name) != (key.kind, key.name):
            return None
        return Piece(members.data, datetime.fromtimestamp(members.fetched_at, UTC))

    @staticmethod
    def _write(path: Path, key: CollateralKey, piece: Piece) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _PIECE_FILE.dump_json(_PieceFile(1, key.kind, key.name, int(piece.fetched_at.timestamp()), piece.data))
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)  # whole or not at all, whoever reads or writes beside us


@dataclass(slots=True)
class _Failures:
    count: int
    until: datetime


@dataclass(slots=True)
class CollateralStore:
    """Whatever can be had. ask: None asks nobody, and what is neither sent nor cached is missing."""

    cache: Cache
    ask: Ask | None
    clock: Callable[[], datetime]
    sources: Sources = field(default_factory=Sources)
    _failures: dict[CollateralKey, _Failures] = field(default_factory=dict)
    _fetching: dict[CollateralKey, asyncio.Lock] = field(default_factory=dict)

    async def obtain(self, needs: Needs, sent: Collateral) -> Obtained:
        """What `needs` asks for, as far as it can be had; never raises for what cannot.

        sent: what the engine delivered; used as long as it is fresh, or nothing fresher can be had.
        """
        found: dict[CollateralKey, Piece] = {}
        for _ in range(MAX_ROUNDS):
            at_hand = {key: piece.data for key, piece in found.items()}
            wanted = needs(at_hand)[:MAX_NEEDS]
            missing = [key for key in wanted if key not in found]
            pieces = await asyncio.gather(*(self._piece(key, sent.get(key)) for key in missing))
            new = {key: piece for key, piece in zip(missing, pieces, strict=True) if piece is not None}
            found.update(new)
            if not new:
                break
        collateral = {key: piece.data for key, piece in found.items()}
        return Obtained(collateral, min((piece.fetched_at for piece in found.values()), default=None))

    async def _piece(self, key: CollateralKey, sent: bytes | None) -> Piece | None:
        """The first fresh one; without any, the one that was fresh for longest."""
        now = self.clock()
        candidates = [Piece(sent, now)] if sent is not None and key.kind not in NEVER_SENT else []
        async with self._fetching.setdefault(key, asyncio.Lock()):
            if (cached := await asyncio.to_thread(self.cache.get, key)) is not None:
                candidates.append(cached)
            for piece in candidates:
                if now < _good_until(key, piece):
                    return piece
            if (fetched := await self._fetch(key, now)) is not None:
                return fetched
        return max(candidates, key=lambda piece: _good_until(key, piece), default=None)

    async def _fetch(self, key: CollateralKey, now: datetime) -> Piece | None:
        failures = self._failures.get(key)
        if self.ask is None or (failures and now < failures.until):
            return None
        try:
            async with asyncio.timeout(PIECE_TIMEOUT_S):
                piece = Piece(await fetch_piece(key, self.sources, self.ask), now)
            good_until(key, piece.data, now)  # what cannot be read is not kept
        except (FetchError, EvidenceError, TimeoutError) as exc:
            self._failed(key, now, failures.count if failures else 0)
            _log.warning("collateral_not_fetched", kind=key.kind.value, error=type(exc).__name__)
            return None
        self._failures.pop(key, None)
        await asyncio.to_thread(self.cache.put, key, piece)
        return piece

    def _failed(self, key: CollateralKey, now: datetime, before: int) -> None:
        pause = min(MAX_BACKOFF, BACKOFF * 2 ** min(before, 10))
        self._failures[key] = _Failures(before + 1, now + pause)


def _good_until(key: CollateralKey, piece: Piece) -> datetime:
    """As `good_until`; what cannot be read was never good."""
    try:
        return good_until(key, piece.data, piece.fetched_at)
    except EvidenceError:
        return datetime.min.replace(tzinfo=UTC)


def ask_over(session: aiohttp.ClientSession) -> Ask:
    """Ask the vendors over HTTP, through the proxy that the environment names."""

    async def ask(question: Question) -> Reply:
        try:
            async with session.request(
                "GET" if question.body is None else "POST",
                question.url,
                data=question.body,
                headers=dict(question.headers),
                allow_redirects=False,
                proxy=environment_proxy(question.url),
            ) as response:
                if response.status != 200:
                    raise FetchError(f"answered {response.status}")
                body = await read_bounded(response.content, MAX_PIECE_BYTES)
                return Reply(body, {name.lower(): value for name, value in response.headers.items()})
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise FetchError(type(exc).__name__) from exc

    return ask
