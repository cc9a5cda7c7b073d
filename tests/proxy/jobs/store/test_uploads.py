"""A place for a file is filled in time and used once."""

from __future__ import annotations

import pytest

from proxy.jobs.errors import ConflictError, FailedError, MissingError
from proxy.jobs.model import LOCAL_ACCOUNT, AccountId, Upload, UploadId, UploadState
from proxy.jobs.service import Kept
from tests.proxy.jobs.made import content


async def issued(store: Kept, *, lifetime_ms: int = 60_000) -> Upload:
    return await store.uploads.issue(LOCAL_ACCOUNT, "morning.wav", "audio/wav", lifetime_ms=lifetime_ms)


async def test_a_file_is_sent_and_then_used_once(store: Kept) -> None:
    upload = await issued(store)
    assert (upload.state, upload.name, upload.content_type) == (UploadState.ISSUED, "morning.wav", "audio/wav")
    with pytest.raises(ConflictError, match="nothing was sent"):
        await store.uploads.consume(LOCAL_ACCOUNT, upload.id)
    received = await store.uploads.receive(upload.id, content())
    assert (received.state, received.size_bytes) == (UploadState.RECEIVED, 5)
    assert await store.uploads.get(LOCAL_ACCOUNT, upload.id) == received
    consumed = await store.uploads.consume(LOCAL_ACCOUNT, upload.id)
    assert consumed.blob == received.blob
    for again in (store.uploads.consume(LOCAL_ACCOUNT, upload.id), store.uploads.receive(upload.id, content())):
        with pytest.raises(ConflictError, match="used already"):
            await again


async def test_a_file_that_is_sent_again_takes_the_place_of_the_first(store: Kept) -> None:
    upload = await issued(store)
    first = await store.uploads.receive(upload.id, content(b"first"))
    second = await store.uploads.receive(upload.id, content(b"second"))
    assert second.size_bytes == 6
    assert first.blob is not None
    with pytest.raises(MissingError):
        await store.blobs.open(first.blob)


async def test_a_place_that_is_over_takes_no_file(store: Kept) -> None:
    upload = await issued(store, lifetime_ms=-1)
    with pytest.raises(ConflictError, match="over"):
        await store.uploads.receive(upload.id, content())


async def test_a_file_that_is_too_large_is_not_received(store: Kept) -> None:
    upload = await issued(store)
    with pytest.raises(FailedError):
        await store.uploads.receive(upload.id, content(), max_bytes=4)
    assert (await store.uploads.get(LOCAL_ACCOUNT, upload.id)).state is UploadState.ISSUED


async def test_a_place_is_its_accounts(store: Kept) -> None:
    upload = await issued(store)
    for ask in (store.uploads.get, store.uploads.consume):
        with pytest.raises(MissingError):
            await ask(AccountId("other"), upload.id)
    with pytest.raises(MissingError):
        await store.uploads.receive(UploadId("none"), content())
