"""What became of places for files? `proxy.jobs.ports.Uploads`, over a database and the recordings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, insert, select, update

from proxy.jobs.contents import FILE_FACTS, FileFacts
from proxy.jobs.errors import ConflictError, MissingError, VaultError
from proxy.jobs.limits import check_size, least
from proxy.jobs.model import AccountId, BlobId, Upload, UploadId, UploadState
from proxy.jobs.ports import Blobs
from proxy.jobs.sealing import Place, RecordKey, seal, unseal
from proxy.jobs.store import funds
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.jobs import forget_blob
from proxy.jobs.store.records import Records
from proxy.jobs.store.schema import upload


def upload_record(account: str, upload_id: str) -> str:
    return f"upload:{account}/{upload_id}"


class StoredUploads:
    def __init__(self, database: Database, records: Records, blobs: Blobs) -> None:
        self._database = database
        self._records = records
        self._blobs = blobs

    async def issue(self, account: AccountId, name: str, content_type: str, *, lifetime_ms: int) -> Upload:
        async with self._database.begin() as tx:
            upload_id = UploadId(new_id(tx.now_ms))
            key = await self._records.make(tx, upload_record(account, upload_id))
            facts = FILE_FACTS.dump_json(FileFacts(name, content_type))
            values = {
                "id": upload_id,
                "account": account,
                "state": UploadState.ISSUED,
                "created_ms": tx.now_ms,
                "expires_ms": tx.now_ms + lifetime_ms,
                "sealed_file": seal(key, _place(upload_id), facts),
            }
            await tx.run(insert(upload).values(**values))
            return _upload_of(await _row(tx, upload_id), key)

    async def receive(
        self,
        upload_id: UploadId,
        content: AsyncIterator[bytes],
        *,
        max_bytes: int | None = None,
        announced_bytes: int | None = None,
    ) -> Upload:
        async with self._database.begin() as tx:
            row = await _row(tx, upload_id)
            _check_open(row, tx)
            owner = await funds.found_account(tx, AccountId(row.account))
        limit_bytes = least(max_bytes, owner.plan.max_upload_bytes)
        check_size(announced_bytes, limit_bytes)
        blob_id, size_bytes = await self._blobs.put(content, max_bytes=limit_bytes)
        try:
            return await self._received(upload_id, blob_id, size_bytes)
        except BaseException:
            await self._blobs.forget(blob_id)
            raise

    async def _received(self, upload_id: UploadId, blob_id: BlobId, size_bytes: int) -> Upload:
        async with self._database.begin() as tx:
            row = await _row(tx, upload_id, locked=True)
            _check_open(row, tx)
            if row.blob is not None:
                await forget_blob(tx, self._records, row.blob)
            key = await self._records.key(tx, upload_record(row.account, upload_id))
            facts = replace(FILE_FACTS.validate_json(unseal(key, _place(upload_id), row.sealed_file)), blob=blob_id)
            values = {
                "state": UploadState.RECEIVED,
                "blob": blob_id,
                "size_bytes": size_bytes,
                "sealed_file": seal(key, _place(upload_id), FILE_FACTS.dump_json(facts)),
            }
            await tx.run(update(upload).where(upload.c.id == upload_id).values(**values))
            return _upload_of(await _row(tx, upload_id), key)

    async def get(self, account: AccountId, upload_id: UploadId) -> Upload:
        async with self._database.begin() as tx:
            row = await _row(tx, upload_id, account=account)
            return _upload_of(row, await self._records.key(tx, upload_record(account, upload_id)))

    async def consume(self, account: AccountId, upload_id: UploadId) -> Upload:
        async with self._database.begin() as tx:
            row = await _row(tx, upload_id, account=account, locked=True)
            if row.state != UploadState.RECEIVED:
                raise ConflictError("used already" if row.state == UploadState.CONSUMED else "nothing was sent")
            await tx.run(update(upload).where(upload.c.id == upload_id).values(state=UploadState.CONSUMED))
            key = await self._records.key(tx, upload_record(account, upload_id))
            return _upload_of(await _row(tx, upload_id), key)


def _check_open(row: Row[Any], tx: Tx) -> None:
    """Raises ConflictError."""
    if row.state == UploadState.CONSUMED:
        raise ConflictError("used already")
    if row.expires_ms <= tx.now_ms:
        raise ConflictError("over")


async def _row(tx: Tx, upload_id: UploadId, *, account: AccountId | None = None, locked: bool = False) -> Row[Any]:
    """Raises MissingError."""
    query = select(upload).where(upload.c.id == upload_id)
    query = query if account is None else query.where(upload.c.account == account)
    row = (await tx.run(query.with_for_update() if locked else query)).one_or_none()
    if row is None:
        raise MissingError
    return row


def _place(upload_id: str) -> Place:
    return Place("upload", upload_id, "sealed_file")


def _upload_of(row: Row[Any], key: RecordKey) -> Upload:
    """Raises VaultError."""
    facts = FILE_FACTS.validate_json(unseal(key, _place(row.id), row.sealed_file))
    if row.blob != facts.blob:
        raise VaultError("an upload's recording is another's")
    return Upload(
        id=UploadId(row.id),
        account=AccountId(row.account),
        name=facts.name,
        content_type=facts.content_type,
        state=UploadState(row.state),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        blob=row.blob,
        size_bytes=row.size_bytes,
    )
