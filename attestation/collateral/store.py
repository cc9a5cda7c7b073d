"""What collateral is at hand, and where else can we get it? First a cache, then what the engine sent, then the vendor.

Nearly everything here is signed by somebody else and judged later, so a file that was changed, or a service that lies,
can make a verification fail and never make it pass. What nobody signs, NRAS's keys, is had from its vendor only, and
forgotten when the program ends. Only an old piece that is still in date can be passed off as the newest: what a vendor
gave us goes first, and a policy bounds the age of the rest.

A piece is asked for again after its next update, and most kinds after a day; until a newer one is had the old one is
handed on, for how stale is too stale is the policy's question. What cannot be had is not asked for again for a while,
longer each time (AMD's service limits how often it may be asked).

A cached piece is a file of its own, whose digest finds what a disk, not what a foe, did to it::

    {"version": 1, "kind": "...", "name": "...", "fetched_at": <Unix seconds>, "data": "<base64>", "sha256": "<64 hex>"}
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from weakref import WeakValueDictionary

import aiohttp
import structlog
from pydantic import TypeAdapter

from attestation.collateral.source import MAX_PIECE_BYTES, Ask, Question, Reply, Sources
from attestation.collateral.vendors import ASKED_ONCE, UNSIGNED, fetch_piece, good_until
from attestation.errors import EvidenceError, FetchError
from attestation.types import Collateral, CollateralKey, CollateralKind
from core.errors import OversizeError
from core.program import files as state
from core.program import strictjson
from core.program.http.client import proxy_for, read_bounded
from core.program.validation import STRICT, Base64, Label, Sha256Hex, UnixSeconds, VersionOne, validate

_log = structlog.get_logger(__name__)

T = TypeVar("T")

PIECE_TIMEOUT_S = 15.0
ASKING_AT_ONCE = 8
MAX_ROUNDS = 4
"""A piece may tell which others are needed: a reference manifest its signers, whose revocation is then asked about."""
MAX_NEEDS = 256
MAX_FILE_BYTES = 2 * MAX_PIECE_BYTES
MAX_REMEMBERED = 512
"""Pieces in memory, and failures: evidence that nobody has judged yet says what is asked for."""

BACKOFF = timedelta(seconds=30)
MAX_BACKOFF = timedelta(hours=1)

Needs = Callable[[Collateral], tuple[CollateralKey, ...]]
"""What a verification will look up, given what is at hand already; called in a thread."""

Questions = Mapping[CollateralKey, bytes]
"""What must be sent to get a piece whose name does not hold its question."""


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
    fetched_at: UnixSeconds
    data: Base64
    sha256: Sha256Hex


_PIECE_FILE = TypeAdapter(_PieceFile)


def _remember(memory: dict[CollateralKey, T], key: CollateralKey, value: T) -> None:
    """Keep a value, and drop those that were kept longest ago where there are too many."""
    memory.pop(key, None)
    memory[key] = value
    while len(memory) > MAX_REMEMBERED:
        memory.pop(next(iter(memory)))


class Cache:
    """Pieces in memory and, with a directory, in files that outlive the program."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._pieces: dict[CollateralKey, Piece] = {}

    def get(self, key: CollateralKey) -> Piece | None:
        if key not in self._pieces and (piece := self._read(key)):
            _remember(self._pieces, key, piece)
        return self._pieces.get(key)

    def put(self, key: CollateralKey, piece: Piece) -> None:
        """Keep a piece. That no file can be written is logged, not raised: it only costs asking again."""
        if key.kind in ASKED_ONCE:
            return
        _remember(self._pieces, key, piece)
        if (path := self._path(key)) is not None:
            try:
                _write(path, key, piece)
            except OSError as exc:
                _log.warning("collateral_not_cached", error=type(exc).__name__)

    def _path(self, key: CollateralKey) -> Path | None:
        if self._directory is None or key.kind in UNSIGNED | ASKED_ONCE:
            return None
        return self._directory / f"{key.kind}-{_digest(key.name.encode(errors='backslashreplace'))}.json"

    def _read(self, key: CollateralKey) -> Piece | None:
        if (path := self._path(key)) is None:
            return None
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
            members = validate(_PIECE_FILE, strictjson.loads(text, max_bytes=MAX_FILE_BYTES))
        except (OSError, ValueError):
            return None  # the same as none: it is asked for, and written anew
        if (members.kind, members.name, members.sha256) != (key.kind, key.name, _digest(members.data)):
            return None
        return Piece(members.data, datetime.fromtimestamp(members.fetched_at, UTC))


def _write(path: Path, key: CollateralKey, piece: Piece) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fetched_at = int(piece.fetched_at.timestamp())
    state.replace(
        path,
        _PIECE_FILE.dump_json(_PieceFile(1, key.kind, key.name, fetched_at, piece.data, _digest(piece.data))),
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
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
    piece_timeout_s: float = PIECE_TIMEOUT_S
    _failures: dict[CollateralKey, _Failures] = field(default_factory=dict)
    _fetching: WeakValueDictionary[CollateralKey, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _asking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASKING_AT_ONCE))

    async def obtain(self, needs: Needs, sent: Collateral, questions: Questions = MappingProxyType({})) -> Obtained:
        """What `needs` asks for, as far as it can be had; never raises for what cannot.

        sent: what the engine delivered; used as long as it is fresh, or nothing fresher can be had.
        """
        found: dict[CollateralKey, Piece] = {}
        for _ in range(MAX_ROUNDS):
            at_hand = {key: piece.data for key, piece in found.items()}
            wanted = await asyncio.to_thread(needs, at_hand)
            missing = [key for key in dict.fromkeys(wanted) if key not in found][: MAX_NEEDS - len(found)]
            pieces = await asyncio.gather(*(self._piece(key, sent.get(key), questions.get(key)) for key in missing))
            new = {key: piece for key, piece in zip(missing, pieces, strict=True) if piece is not None}
            found.update(new)
            if not new:
                break
        collateral = {key: piece.data for key, piece in found.items()}
        return Obtained(collateral, min((piece.fetched_at for piece in found.values()), default=None))

    async def _piece(self, key: CollateralKey, sent: bytes | None, question: bytes | None) -> Piece | None:
        """The first fresh one; without any, the one that was fresh for longest."""
        now = self.clock()
        async with self._fetching.setdefault(key, asyncio.Lock()):
            # What a vendor gave us goes first: the engine's may be one from before a revocation, and still in date.
            cached = await asyncio.to_thread(self.cache.get, key)
            candidates = [cached] if cached is not None else []
            if sent is not None and not self._must_ask(key, question):
                candidates.append(Piece(sent, now))
            for piece in candidates:
                if _is_fresh(key, piece, now):
                    return piece
            if (fetched := await self._fetch(key, question, now)) is not None:
                candidates.append(fetched)
            best = max(candidates, key=lambda piece: _good_until(key, piece), default=None)
            if best is not None and best is fetched:
                await asyncio.to_thread(self.cache.put, key, best)
        return best

    def _must_ask(self, key: CollateralKey, question: bytes | None) -> bool:
        """Whether the engine's word is not enough: for keys that nobody signed, and a verdict that names no device."""
        return key.kind in UNSIGNED or (key.kind in ASKED_ONCE and question is not None and self.ask is not None)

    async def _fetch(self, key: CollateralKey, question: bytes | None, now: datetime) -> Piece | None:
        failures = self._failures.get(_subject(key))
        if self.ask is None or (failures and now < failures.until):
            return None
        try:
            async with asyncio.timeout(self.piece_timeout_s), self._asking:
                data = await fetch_piece(key, self.sources, self.ask, question=question)
            good_until(key, data, now)  # what cannot be read is not kept
        except (FetchError, EvidenceError, TimeoutError) as exc:
            self._failed(key, now, failures)
            _log.warning("collateral_not_fetched", kind=key.kind.value, error=str(exc) or "no answer in time")
            return None
        piece = Piece(data, now)
        if _is_fresh(key, piece, now):
            self._failures.pop(_subject(key), None)
        else:  # the vendor has nothing newer either
            self._failed(key, now, failures)
        return piece

    def _failed(self, key: CollateralKey, now: datetime, before: _Failures | None) -> None:
        count = before.count if before else 0
        pause = min(MAX_BACKOFF, BACKOFF * 2 ** min(count, 10))
        _remember(self._failures, _subject(key), _Failures(count + 1, now + pause))


def _subject(key: CollateralKey) -> CollateralKey:
    """What is left alone after a failure: the piece or, where each has a name of its own, the whole service."""
    return replace(key, name="") if key.kind in ASKED_ONCE else key


def _is_fresh(key: CollateralKey, piece: Piece, now: datetime) -> bool:
    """Whether there is no reason to look for a newer one. One of the future tells of a clock that was set back."""
    return piece.fetched_at <= now < _good_until(key, piece)


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
                proxy=proxy_for(question.url, os.environ),
            ) as response:
                if response.status != 200:
                    raise FetchError(f"answered {response.status}")
                body = await read_bounded(response.content, MAX_PIECE_BYTES)
                return Reply(body, {name.lower(): value for name, value in response.headers.items()})
        except OversizeError as exc:
            raise FetchError(str(exc)) from exc
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise FetchError(type(exc).__name__) from exc
        except ValueError as exc:  # of what the environment names as a proxy
            raise FetchError(str(exc)) from exc

    return ask
