"""Which machines were trusted, and since when? A log of accepted identities that shows when it was changed.

One JSON object a line, added after a verification whenever an engine's identity is not what it was the last time::

    {"version":1,
     "sequence":0,                     counted from 0
     "recorded_at":1800000000,         Unix time in seconds, by this user's clock
     "previous":"<64 hex>",            `sha256` of the line before; zeros in the first one
     "torn":null,                      or the SHA-256 of what a crash left between the line before and this one
     "identity":{"engine":"https://engine.example","evidence":"snp","claims":{...},
                 "config":{...},"models":[...],"policy_sha256":"<64 hex>"},
     "sha256":"<64 hex>"}              SHA-256("sottovoce log v1" || 00 || the line up to the comma before this member)

Nothing of a request stands in it, no nonce, and no key of a user or an engine.

The chain shows a line that was changed, removed, moved or put in between. It does not stop who owns the file from
writing the whole chain anew, or from taking lines from its end: compare with a `sha256` that was noted elsewhere, which
is still in the log if nothing up to there was touched.

The file is only ever appended to, so that the file system may be told to allow nothing else. A line that a crash cut
short stays where it is, and the next record owns it by its hash: without that, what is not a record breaks the chain.
Writers take turns under an exclusive lock, and a broken log is not added to.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter

from attestation.errors import EvidenceError
from attestation.statement import EffectiveConfig, ModelIdentity, Statement
from attestation.types import EvidenceKind
from core.errors import StateError
from core.program import files as state
from core.program import strictjson
from core.program.validation import PRINTABLE, STRICT, Label, Sha256Hex, UnixSeconds, VersionOne, validate

LOG_FILE: Final = "identities.jsonl"
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
"""Some ten thousand changes of identity. A fuller log is moved away by its owner, and a new chain begins."""
MAX_RECORD_BYTES: Final = 256 * 1024
NO_RECORD: Final = "0" * 64
"""The head of an empty log."""

_DOMAIN: Final = b"sottovoce log v1\x00"
_SEAL: Final = re.compile(rb',"sha256":"([0-9a-f]{64})"}')
_SEAL_BYTES: Final = len(b',"sha256":""}') + 64


_ClaimText = Annotated[str, StringConstraints(max_length=16_384), PRINTABLE]


@dataclass(frozen=True, slots=True)
class AcceptedIdentity:
    """Whom a policy accepted: the same machine, software and configuration give the same value.

    claims: what the evidence says of the machine, as in `Appraisal`.
    """

    __pydantic_config__ = STRICT

    engine: Label
    evidence: EvidenceKind
    claims: Mapping[Label, _ClaimText]
    config: EffectiveConfig
    models: tuple[ModelIdentity, ...]
    policy_sha256: Sha256Hex

    @classmethod
    def of(
        cls, engine: str, statement: Statement, *, kind: EvidenceKind, claims: Mapping[str, str], policy_digest: str
    ) -> AcceptedIdentity:
        """The identity in what a verification found out; engine: the URL that was asked."""
        return cls(engine, kind, dict(claims), statement.config, statement.models, policy_digest)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log, without its hash."""

    __pydantic_config__ = STRICT

    version: VersionOne
    sequence: Annotated[int, Field(ge=0)]
    recorded_at: UnixSeconds
    previous: Sha256Hex
    torn: Sha256Hex | None
    identity: AcceptedIdentity


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class LogSummary:
    """A chain that holds.

    hashes: of each record its `sha256`.
    torn: what stands after the last record and is none; None when nothing does.
    """

    records: tuple[Record, ...]
    hashes: tuple[str, ...]
    torn: bytes | None

    @property
    def head(self) -> str:
        """What to note elsewhere: the hash of the last record."""
        return self.hashes[-1] if self.hashes else NO_RECORD

    def last_of(self, engine: str) -> AcceptedIdentity | None:
        """The identity that was recorded last for an engine."""
        return next((record.identity for record in reversed(self.records) if record.identity.engine == engine), None)


def verify_log(data: bytes) -> LogSummary:
    """Verify a whole log. Raises EvidenceError naming the first record that is broken."""
    if len(data) > MAX_LOG_BYTES:
        raise EvidenceError(f"log: longer than {MAX_LOG_BYTES} bytes")
    records: list[Record] = []
    hashes: list[str] = []
    strays: list[bytes] = []
    for line in data.removesuffix(b"\n").split(b"\n") if data else ():
        if (unsealed := _unseal(line)) is None:
            strays.append(line)
            continue
        record, sealed = unsealed
        torn = hashlib.sha256(b"\n".join(strays)).hexdigest() if strays else None
        _refuse_stranger(record, len(records), hashes[-1] if hashes else NO_RECORD, torn)
        records.append(record)
        hashes.append(sealed)
        strays.clear()
    return LogSummary(tuple(records), tuple(hashes), b"\n".join(strays) if strays else None)


def _refuse_stranger(record: Record, sequence: int, previous: str, torn: str | None) -> None:
    """Refuse a record that is not the next one of its chain."""
    if record.torn != torn:
        raise EvidenceError(
            f"log: record {sequence} is broken: it cannot be read, or what a crash left there was changed"
        )
    if record.sequence != sequence:
        raise EvidenceError(f"log: record {sequence} is broken: record {record.sequence} stands in its place")
    if record.previous != previous:
        raise EvidenceError(f"log: record {sequence} is broken: it does not follow from the one before it")


def _unseal(line: bytes) -> tuple[Record, str] | None:
    """A record and its hash, if the line is one and its hash is right."""
    body, seal = line[:-_SEAL_BYTES], _SEAL.fullmatch(line[-_SEAL_BYTES:])
    if seal is None or seal[1].decode() != (digest := _digest(body)):
        return None
    try:
        return validate(_RECORD, strictjson.loads(body + b"}", max_bytes=MAX_RECORD_BYTES)), digest
    except ValueError:
        return None


def _seal(record: Record) -> bytes:
    """The line of a record. Raises EvidenceError when it could not be read back."""
    try:
        body = _RECORD.dump_json(record).removesuffix(b"}")
    except ValueError as exc:  # text that UTF-8 cannot hold
        raise EvidenceError("log: this identity cannot be recorded") from exc
    line = body + f',"sha256":"{_digest(body)}"}}'.encode()
    if _unseal(line) != (record, _digest(body)):
        raise EvidenceError("log: this identity cannot be recorded")
    return line


def _digest(body: bytes) -> str:
    return hashlib.sha256(_DOMAIN + body).hexdigest()


def read_log(path: Path) -> LogSummary:
    """Read and verify a log, between two writers. Raises EvidenceError, and OSError."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return verify_log(file.read(MAX_LOG_BYTES + 1))


class IdentityLog:
    """The log that verifications are written to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, identity: AcceptedIdentity, now: datetime) -> bool:
        """Write down an identity, and return whether it is another one than the engine had the last time.

        It waits for a lock and for the disk: an event loop calls it in a thread.
        Raises EvidenceError when the log is broken, and StateError when it is full or cannot be written.
        """
        with state.locked(self._path) as handle:
            data = state.read_all(handle, max_bytes=MAX_LOG_BYTES)
            log = verify_log(data)
            if log.last_of(identity.engine) == identity:
                return False
            torn = hashlib.sha256(log.torn).hexdigest() if log.torn is not None else None
            line = _seal(Record(1, len(log.records), int(now.timestamp()), log.head, torn, identity)) + b"\n"
            lead = b"" if data.endswith(b"\n") or not data else b"\n"
            if len(data) + len(lead + line) > MAX_LOG_BYTES:
                raise StateError(f"{self._path}: the log is full; move it away, and a new one begins")
            state.append(handle, lead + line, directory=self._path.parent)
        return True
