"""Another key-encryption key comes into force while others read and write: nothing that was kept is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import keyring
import pytest

from proxy.jobs.errors import VaultError
from proxy.jobs.keyring_keys import SERVICE, KeyringKeys
from proxy.jobs.model import LOCAL_ACCOUNT, ListQuery
from proxy.jobs.rotation import rotate
from proxy.jobs.service import Kept, KeyringEntry, Places, kept
from proxy.jobs.vault import Kek, KeyFile, KeyRing
from tests.proxy.jobs.keyrings import FILE, FileKeyring
from tests.proxy.jobs.made import submitted


@pytest.fixture(params=["file", "keyring"])
def places(
    request: pytest.FixtureRequest, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Places]:
    """With keys in either place."""
    if request.param == "file":
        yield places
        return
    monkeypatch.setenv(FILE, str(tmp_path / "keyring.json"))
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring())
    KeyringKeys.make("jobs")
    yield replace(places, key=KeyringEntry("jobs"))
    keyring.set_keyring(before)


@pytest.fixture
async def replica(places: Places, store: Kept) -> AsyncIterator[Kept]:
    """Another process, which has read the keys before."""
    async with kept(places, alone=False) as opened:
        yield opened


def keys_in(places: Places) -> KeyRing:
    if isinstance(places.key, Path):
        return KeyRing.parse(places.key.read_text())
    return KeyRing.parse(keyring.get_password(SERVICE, places.key.name) or "")


def put(places: Places, ring: KeyRing) -> None:
    """By hand."""
    if isinstance(places.key, Path):
        KeyFile(places.key).write(ring)
    else:
        KeyringKeys(places.key.name).write(ring)


async def rotated(store: Kept, *, given: bool = False) -> int:
    return await rotate(store.database, store.records, store.vault, given=given)


_ALL = ListQuery()


async def readable(places: Places, count: int) -> None:
    """By a process that has nothing but what is kept now."""
    async with kept(places, alone=False) as fresh:
        jobs = (await fresh.jobs.list(LOCAL_ACCOUNT, _ALL)).jobs
    assert len(jobs) == count


async def test_a_rotation_leaves_one_key_which_opens_everything(store: Kept, places: Places) -> None:
    before = keys_in(places)
    await submitted(store)
    assert await rotated(store) > 2
    assert len(keys_in(places).keys) == 1
    assert keys_in(places) != before
    await readable(places, 1)
    assert await rotated(store) > 2  # a second time, of what was new


async def test_who_has_not_noticed_the_new_key_wraps_nothing_under_the_old(
    store: Kept, replica: Kept, places: Places
) -> None:
    await rotated(store)
    await submitted(replica)
    await readable(places, 1)


async def test_who_cannot_find_the_new_key_writes_nothing(
    store: Kept, replica: Kept, places: Places, tmp_path: Path
) -> None:
    async def count() -> int:
        return len((await store.jobs.list(LOCAL_ACCOUNT, _ALL)).jobs)

    KeyFile.make(tmp_path / "left behind").write(keys_in(places))
    async with kept(replace(places, key=tmp_path / "left behind"), alone=False) as behind:
        await submitted(behind)
        await rotated(store)
        with pytest.raises(VaultError):
            await submitted(behind)
    assert await count() == 1
    await readable(places, 1)


async def test_of_two_rotations_at_once_each_sees_the_others_key(store: Kept, replica: Kept, places: Places) -> None:
    for _ in range(5):
        await submitted(store)
    outcomes = await asyncio.gather(rotated(store), rotated(replica), return_exceptions=True)
    assert any(isinstance(outcome, int) for outcome in outcomes)
    await readable(places, 5)
    await rotated(store)
    assert len(keys_in(places).keys) == 1
    await readable(places, 5)


async def test_what_is_written_during_a_rotation_is_there_behind_it(store: Kept, replica: Kept, places: Places) -> None:
    await submitted(store)

    async def write() -> None:
        for _ in range(5):
            await submitted(replica)

    await asyncio.gather(write(), *(_insisting(store) for _ in range(2)))
    assert len(keys_in(places).keys) == 1
    await readable(places, 6)


async def _insisting(store: Kept) -> None:
    """As who reads "run this again"."""
    for _ in range(10):
        try:
            await rotated(store)
        except VaultError:
            continue
        return
    raise AssertionError


async def test_a_key_that_somebody_put_in_front_is_used_when_it_is_named_and_not_before(
    store: Kept, replica: Kept, places: Places, tmp_path: Path
) -> None:
    old = keys_in(places)
    new = KeyRing((Kek.new(), *old.keys))
    put(places, new)
    async with kept(places, alone=False) as first:
        await submitted(first)
    await submitted(replica)
    KeyFile.make(tmp_path / "old").write(old)
    await readable(replace(places, key=tmp_path / "old"), 2)
    store.vault.changed()
    assert await rotated(store, given=True) > 2
    assert keys_in(places) == new
    put(places, new.retired())
    await readable(places, 2)
