"""Where are recordings, sealed? In a directory or in a bucket, under names that say nothing (`proxy.jobs.ports.Blobs`).

A blob's row is there before its bytes, and until they are gone: so what a process leaves behind when it dies is found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store
from sqlalchemy import delete, insert, select, update

from proxy.jobs.errors import FailedError, MissingError, StoreError, VaultError
from proxy.jobs.model import BlobId, Failure, FailureKind
from proxy.jobs.sealing import (
    CHUNK_BYTES,
    HEAD_BYTES,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    Chunks,
    Place,
    RecordKey,
    chunk_count,
    seal_stream,
)
from proxy.jobs.store.database import Database
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.records import Records
from proxy.jobs.store.schema import blob

_log = structlog.get_logger(__name__)

WRITING: Final = "writing"
KEPT: Final = "kept"
FORGOTTEN: Final = "forgotten"

_UPLOAD_CHUNK_BYTES: Final = 8 * 1024 * 1024
_UPLOADS_AT_ONCE: Final = 2
_READ_CHUNKS: Final = 64

ObjectStore = LocalStore | S3Store


def local_store(directory: Path) -> LocalStore:
    """Raises StoreError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as exc:
        raise StoreError(f"{directory}: {exc.strerror}") from exc
    return LocalStore(directory)


def s3_store(url: str, environ: Mapping[str, str]) -> S3Store:
    """A bucket, `s3://BUCKET[/PREFIX]`, with the keys that `environ` has: nobody else is asked for some.

    Raises ValueError, which names what is missing.
    """
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if missing := [name for name in names if not environ.get(name)]:
        raise ValueError(f"a bucket needs {' and '.join(missing)}")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    options: dict[str, str] = {"endpoint": endpoint} if endpoint else {}
    if token := environ.get("AWS_SESSION_TOKEN"):
        options["session_token"] = token
    return S3Store.from_url(
        url,
        access_key_id=environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
        **options,  # type: ignore[arg-type]
    )


def blob_record(blob_id: str) -> str:
    return f"blob:{blob_id}"


class StoredBlobs:
    """Recordings in `objects`, whose rows and keys are in `database`. directory: where they are files."""

    def __init__(
        self, database: Database, records: Records, objects: ObjectStore, *, directory: Path | None = None
    ) -> None:
        self._database = database
        self._records = records
        self._objects = objects
        self._directory = directory

    async def put(self, content: AsyncIterator[bytes], *, max_bytes: int | None = None) -> tuple[BlobId, int]:
        key = RecordKey.new()
        async with self._database.begin() as tx:
            blob_id = BlobId(new_id(tx.now_ms))
            await tx.run(insert(blob).values(id=blob_id, state=WRITING, created_ms=tx.now_ms))
        counted = _Counted(content, max_bytes)
        try:
            await self._write(blob_id, key, counted)
            async with self._database.begin() as tx:
                await self._records.put(tx, blob_record(blob_id), key)
                kept = {"state": KEPT, "size_bytes": counted.size_bytes}
                await tx.run(update(blob).where(blob.c.id == blob_id).values(**kept))
        except BaseException:
            await self._mark(blob_id)
            raise
        return blob_id, counted.size_bytes

    async def _write(self, blob_id: str, key: RecordKey, content: _Counted) -> None:
        try:
            await obstore.put_async(
                self._objects,
                blob_id,
                seal_stream(key, _place(blob_id), content.stream()),
                use_multipart=True,
                chunk_size=_UPLOAD_CHUNK_BYTES,
                max_concurrency=_UPLOADS_AT_ONCE,
            )
        except (BaseError, OSError) as exc:
            raise content.error or _translated(exc) from exc  # it may be the content's own

    async def _mark(self, blob_id: str) -> None:
        """Leave it to the sweep."""
        try:
            async with self._database.begin() as tx:
                await tx.run(update(blob).where(blob.c.id == blob_id).values(state=FORGOTTEN))
        except StoreError as exc:
            _log.warning("blob_left", error=type(exc).__name__)  # the sweep finds what was being written too

    async def open(self, blob_id: BlobId, *, name: str | None = None) -> SealedRecording:
        async with self._database.begin() as tx:
            row = (await tx.run(select(blob).where(blob.c.id == blob_id, blob.c.state == KEPT))).one_or_none()
            if row is None:
                raise MissingError
            key = await self._records.key(tx, blob_record(blob_id))
        recording = SealedRecording(self._objects, blob_id, key, row.size_bytes, name)
        await recording.check()
        return recording

    async def forget(self, blob_id: BlobId) -> None:
        async with self._database.begin() as tx:
            await self._records.forget(tx, blob_record(blob_id))
            await tx.run(update(blob).where(blob.c.id == blob_id).values(state=FORGOTTEN))
        await self.remove(blob_id)

    async def remove(self, blob_id: str) -> None:
        """Remove what nobody can read any more."""
        try:
            await obstore.delete_async(self._objects, blob_id)
        except (FileNotFoundError, NotFoundError):
            pass
        except (BaseError, OSError) as exc:
            raise _translated(exc) from exc
        # What a process that died was writing has this name and a number, and no listing shows it.
        for left in self._directory.glob(f"{blob_id}#*") if self._directory else ():
            left.unlink(missing_ok=True)
        async with self._database.begin() as tx:
            await tx.run(delete(blob).where(blob.c.id == blob_id))


class SealedRecording:
    """A `proxy.jobs.ports.Recording`: opened chunk by chunk, in memory."""

    def __init__(self, objects: ObjectStore, blob_id: str, key: RecordKey, size_bytes: int, name: str | None) -> None:
        self._objects = objects
        self._blob_id = blob_id
        self._key = key
        self._count = max(1, -(-size_bytes // CHUNK_BYTES))
        self._chunks: Chunks | None = None
        self.size_bytes = size_bytes
        self.name = name

    async def check(self) -> None:
        """Raises MissingError when it is not there, VaultError when it was cut or is something else."""
        sealed_bytes = HEAD_BYTES + self.size_bytes + self._count * TAG_BYTES
        try:
            found = await obstore.head_async(self._objects, self._blob_id)
        except (FileNotFoundError, NotFoundError):
            raise MissingError from None
        except (BaseError, OSError) as exc:
            raise _translated(exc) from exc
        if found["size"] != sealed_bytes or chunk_count(found["size"]) != self._count:
            raise VaultError("a recording was cut")
        self._chunks = Chunks(self._key, _place(self._blob_id), await self._raw(0, HEAD_BYTES))

    async def read(self, start: int, length: int) -> bytes:
        end = min(start + length, self.size_bytes)
        if start < 0 or end <= start:
            return b""
        first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        plain = await self._opened(first, last + 1)
        return plain[start - first * CHUNK_BYTES : end - first * CHUNK_BYTES]

    async def stream(self) -> AsyncIterator[bytes]:
        for first in range(0, self._count, _READ_CHUNKS):
            if piece := await self._opened(first, min(first + _READ_CHUNKS, self._count)):
                yield piece

    async def _opened(self, first: int, after: int) -> bytes:
        if self._chunks is None:
            raise RuntimeError("this recording was not checked")
        sealed = await self._raw(HEAD_BYTES + first * SEALED_CHUNK_BYTES, (after - first) * SEALED_CHUNK_BYTES)
        pieces = [
            self._chunks.open(first + at, piece, last=first + at == self._count - 1)
            for at, piece in enumerate(_cut(sealed, SEALED_CHUNK_BYTES))
        ]
        return b"".join(pieces)

    async def _raw(self, start: int, length: int) -> bytes:
        sealed_bytes = HEAD_BYTES + self.size_bytes + self._count * TAG_BYTES
        end = min(start + length, sealed_bytes)
        try:
            return bytes(await obstore.get_range_async(self._objects, self._blob_id, start=start, end=end))
        except (BaseError, OSError) as exc:
            raise _translated(exc) from exc


class _Counted:
    """Content on its way in. error: what it raised."""

    def __init__(self, content: AsyncIterator[bytes], max_bytes: int | None) -> None:
        self._content = content
        self._max_bytes = max_bytes
        self.size_bytes = 0
        self.error: Exception | None = None

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._content:
                self._count(len(piece))
                yield piece
        except Exception as exc:
            self.error = exc
            raise

    def _count(self, size_bytes: int) -> None:
        """Raises FailedError."""
        self.size_bytes += size_bytes
        if self._max_bytes is not None and self.size_bytes > self._max_bytes:
            raise FailedError(Failure(FailureKind.MEDIA_TOO_LARGE, {"limit_bytes": self._max_bytes}))


def _place(blob_id: str) -> Place:
    return Place("blob", blob_id, "content")


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _translated(exc: Exception) -> StoreError:
    """Its sentences name paths and addresses, so only the kind is told."""
    return StoreError(f"the recordings of jobs: {type(exc).__name__}")
