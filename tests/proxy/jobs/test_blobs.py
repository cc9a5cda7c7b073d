"""Recordings are kept sealed, read from anywhere, and gone when they are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.jobs.blobs import s3_store
from proxy.jobs.errors import FailedError, MissingError, VaultError
from proxy.jobs.model import FailureKind
from proxy.jobs.sealing import CHUNK_BYTES
from proxy.jobs.service import Kept, Places

SIZES = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5)


async def pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def file_of(places: Places, blob: str) -> Path:
    assert isinstance(places.blobs, Path)
    return places.blobs / blob


@pytest.mark.parametrize("size", SIZES)
async def test_a_recording_comes_back_whole_and_in_any_stretch(store: Kept, size: int) -> None:
    data = pattern(size)
    blob, size_bytes = await store.blobs.put(pieces(data))
    recording = await store.blobs.open(blob, name="a.wav")
    assert (size_bytes, recording.size_bytes, recording.name) == (size, size, "a.wav")
    assert b"".join([piece async for piece in recording.stream()]) == data
    for start, length in ((0, 1), (size // 2, 100), (CHUNK_BYTES - 1, 2), (size - 1, 5), (size, 5), (0, 0), (-1, 5)):
        expected = data[start : start + length] if start >= 0 else b""
        assert await recording.read(start, length) == expected


async def test_a_recording_that_breaks_off_is_not_kept(store: Kept, places: Places) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield pattern(CHUNK_BYTES * 2)
        raise ConnectionResetError("the app is gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        await store.blobs.put(broken())
    assert isinstance(places.blobs, Path)
    assert list(places.blobs.iterdir()) == []


async def test_a_recording_that_is_too_large_is_refused_as_soon_as_it_is(store: Kept) -> None:
    seen = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal seen
        while True:
            seen += 1
            yield bytes(1000)

    with pytest.raises(FailedError) as caught:
        await store.blobs.put(endless(), max_bytes=10_000)
    assert caught.value.failure.kind is FailureKind.MEDIA_TOO_LARGE
    assert seen == 11


async def test_a_forgotten_recording_is_gone_from_the_disk(store: Kept, places: Places) -> None:
    blob, _ = await store.blobs.put(pieces(b"sound"))
    await store.blobs.forget(blob)
    await store.blobs.forget(blob)
    assert not file_of(places, blob).exists()
    with pytest.raises(MissingError):
        await store.blobs.open(blob)


@pytest.mark.parametrize("cut", [1, CHUNK_BYTES + 16])
async def test_a_recording_that_was_cut_is_refused(store: Kept, places: Places, cut: int) -> None:
    blob, _ = await store.blobs.put(pieces(pattern(3 * CHUNK_BYTES)))
    path = file_of(places, blob)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(VaultError):
        await store.blobs.open(blob)


async def test_a_recording_in_which_a_bit_was_turned_is_refused_there(store: Kept, places: Places) -> None:
    blob, _ = await store.blobs.put(pieces(pattern(3 * CHUNK_BYTES)))
    path = file_of(places, blob)
    altered = bytearray(path.read_bytes())
    altered[CHUNK_BYTES + 1000] ^= 1
    path.write_bytes(altered)
    recording = await store.blobs.open(blob)
    assert await recording.read(0, 100) == pattern(100)
    with pytest.raises(VaultError):
        await recording.read(CHUNK_BYTES + 500, 10)


async def test_recordings_that_changed_places_are_refused(store: Kept, places: Places) -> None:
    first, _ = await store.blobs.put(pieces(b"one"))
    second, _ = await store.blobs.put(pieces(b"two"))
    file_of(places, first).write_bytes(file_of(places, second).read_bytes())
    recording = await store.blobs.open(first)
    with pytest.raises(VaultError):
        await recording.read(0, 3)


async def test_the_directory_is_its_owners_alone(store: Kept, places: Places) -> None:
    assert isinstance(places.blobs, Path)
    assert places.blobs.stat().st_mode & 0o777 == 0o700


async def test_a_recording_whose_upload_is_cancelled_leaves_nothing_that_is_kept(store: Kept) -> None:
    began = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(10)
        began.set()
        await asyncio.Event().wait()

    async def put() -> None:
        await store.blobs.put(slow())

    async with asyncio.TaskGroup() as group:
        task = group.create_task(put())
        await began.wait()
        task.cancel()
    assert task.cancelled()


def test_a_bucket_is_asked_with_keys_that_were_given_and_no_others() -> None:
    with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        s3_store("s3://bucket", {})
