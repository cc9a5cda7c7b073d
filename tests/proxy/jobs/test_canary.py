"""Nothing that somebody said, named or sent is readable where jobs are kept: database, log, recordings, backup."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from core.transcript.types import Segment, Speaker, Task, Transcript, Voice, Word
from proxy.jobs.errors import LostError, MissingError, VaultError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    BlobSource,
    Failure,
    FailureKind,
    JobOptions,
    JobResult,
    KnownSpeaker,
    LinkSource,
    NewJob,
    PartPlan,
    PartReceipt,
    Plan,
    Receipt,
    StoredAnswer,
)
from proxy.jobs.rotation import rotate
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.rows import job_record
from proxy.jobs.store.schema import job, known_speakers, part, record_key, result
from proxy.jobs.vault import KeyFile
from tests.proxy.jobs.made import HEARD, claimed, completed, queue, submitted
from tests.proxy.jobs.postgres import Cluster

CANARY = "nightjarcanary"
OTHER = "curlewcanary"  # the server is shared with the other tests
CONTROL = "wrencontrol"
"""Kept in the clear, in the same rows: what reads everything finds it."""


def all_bytes(places: Places, request: pytest.FixtureRequest) -> Iterator[bytes]:
    assert isinstance(places.blobs, Path)
    yield from (path.read_bytes() for path in places.blobs.iterdir())
    if isinstance(places.database, Path):
        yield from (path.read_bytes() for path in places.database.parent.glob("jobs.sqlite*"))
        backup = sqlite3.connect(":memory:")
        with sqlite3.connect(places.database) as connection:
            connection.backup(backup)
        yield backup.serialize()
        backup.close()
        connection.close()
        return
    running: Cluster = request.getfixturevalue("postgres")
    name = places.database.partition("@/")[2].partition("?")[0]
    yield running.run("pg_dump", "-h", str(running.directory), "-U", "postgres", name).encode()
    yield from (path.read_bytes() for path in running.directory.rglob("*") if path.is_file() and not path.is_symlink())


def found(needle: str, everything: list[bytes]) -> bool:
    spellings = (needle.encode(), needle.encode().hex().encode(), needle.encode("utf-16-le"))
    return any(spelling in data for data in everything for spelling in spellings)


async def sound() -> AsyncIterator[bytes]:
    for at in range(10):
        yield f"{CANARY} {at} ".encode() * 2000


async def leave_canaries(store: Kept) -> None:
    words = (Word(CANARY, 0.0, 1.0),)
    heard = Transcript(Task.TRANSCRIBE, "en", 1.0, CANARY, (Segment(0.0, 1.0, CANARY, words=words),))
    options = JobOptions(
        model=CANARY,
        prompt=CANARY,
        vocabulary=(CANARY,),
        webhook_url=f"https://{CANARY}/",
        extra={CANARY: CANARY},
        diarize=True,
        known_speakers=(KnownSpeaker(CANARY, f"data:audio/wav;base64,{CANARY}"),),
    )
    mine = queue(store)
    await store.jobs.submit(NewJob(LOCAL_ACCOUNT, CONTROL, LinkSource(f"https://host.example/{CANARY}"), options))
    await mine.claim()
    blob, _ = await store.blobs.put(sound())
    await store.jobs.submit(NewJob(LOCAL_ACCOUNT, CONTROL, BlobSource(blob, f"{CANARY}.wav"), options))
    claim = await claimed(mine)
    await mine.keep_plan(claim, Plan((PartPlan(0),)))
    receipt = Receipt(*5 * [CANARY])
    await mine.keep_part(claim, 0, heard, receipt)
    receipts = (PartReceipt(0, 0, None, receipt),)
    await mine.complete(claim, JobResult(heard, CANARY, (CANARY,), receipts=receipts), 1000)
    await store.outbox.claim(lease_ms=1)
    upload = await store.uploads.issue(LOCAL_ACCOUNT, f"{CANARY}.wav", CANARY, lifetime_ms=1000)
    await store.uploads.receive(upload.id, sound())
    await store.answers.begin(LOCAL_ACCOUNT, CONTROL, CANARY, CANARY.encode())
    answer = StoredAnswer(200, ((CANARY, CANARY),), CANARY.encode())
    await store.answers.keep(LOCAL_ACCOUNT, CONTROL, CANARY, answer)


def key_file(places: Places) -> Path:
    assert isinstance(places.key, Path)
    return places.key


async def test_nothing_readable_is_kept_anywhere(places: Places, request: pytest.FixtureRequest) -> None:
    async with kept(places) as store:
        await leave_canaries(store)
        everything = list(all_bytes(places, request))  # also what the log still has
        assert found(CONTROL, everything)
        assert not found(CANARY, everything)
    everything = list(all_bytes(places, request))
    assert found(CONTROL, everything)
    assert not found(CANARY, everything)


async def test_a_canary_in_the_clear_would_be_found(places: Places, request: pytest.FixtureRequest) -> None:
    async with kept(places) as store:
        async with store.database.begin() as tx:
            await tx.run(insert(record_key).values(record=OTHER, kek="", wrapped=b""))
        assert found(OTHER, list(all_bytes(places, request)))


VOICE = Voice((0.12345678987, 0.9923497531), 0.7, CANARY)


@pytest.mark.parametrize("how", ["stitched", "failed"])
async def test_what_voices_are_like_is_sealed_while_a_job_runs_and_forgotten_at_its_end(
    places: Places, request: pytest.FixtureRequest, how: str
) -> None:
    segment = Segment(0.0, 1.0, "x", speaker=0)
    heard = Transcript(Task.TRANSCRIBE, "en", 1.0, "x", (segment,), speakers=(Speaker(None, 1.0, VOICE),))
    sealed = select(part.c.sealed_transcript)
    async with kept(places) as store:
        mine = queue(store)
        job_id = (await submitted(store, options=JobOptions(diarize=True))).id
        claim = await claimed(mine)
        await mine.keep_plan(claim, Plan((PartPlan(0, 0, 1000), PartPlan(1, 1000, 2000))))
        for number in (0, 1):
            await mine.keep_part(claim, number, heard)
        async with store.database.begin() as tx:
            values = list((await tx.run(sealed.where(part.c.job == job_id))).scalars())
        everything = list(all_bytes(places, request))
        assert not any(found(trace, everything) for trace in (CANARY, str(VOICE.values[0])))
        if isinstance(places.database, Path):  # PostgreSQL may keep them in pieces
            assert all(any(value in data for data in everything) for value in values)

        states = await mine.parts(claim)
        whole = [(state.plan, state.transcript) for state in states if state.transcript is not None]
        assert [transcript.speakers[0].voice for _, transcript in whole] == [VOICE, VOICE]
        if how == "stitched":
            await mine.complete(claim, PartStitcher().stitch(whole, claim.job.options), 2000)
            (who,) = (await store.jobs.result(LOCAL_ACCOUNT, job_id)).transcript.speakers
            assert (who.speaking_s, who.voice) == (2.0, None)
        else:
            await mine.fail(claim, Failure(FailureKind.ENGINE_FAILED))
        async with store.database.begin() as tx:
            assert not (await tx.run(sealed.where(part.c.job == job_id))).all()
    if isinstance(places.database, Path):  # the log is gone with the connection, and what was deleted is overwritten
        everything = list(all_bytes(places, request))
        assert not any(value in data for value in values for data in everything)


KNOWN = JobOptions(diarize=True, known_speakers=(KnownSpeaker("Ada", f"data:audio/wav;base64,{CANARY * 9}"),))


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
async def test_the_voices_that_a_caller_knows_are_there_for_the_engine_alone_and_forgotten_at_the_end(
    places: Places, request: pytest.FixtureRequest, how: str
) -> None:
    async with kept(places) as store:
        mine = queue(store)
        submitted_ = await submitted(store, options=KNOWN)
        claim = await claimed(mine)
        async with store.database.begin() as tx:
            (value,) = (await tx.run(select(known_speakers.c.sealed_speakers))).scalars()
        shown = (submitted_, claim.job, await store.jobs.get(LOCAL_ACCOUNT, claim.job.id))
        assert {job.options.known_speakers for job in shown} == {(KnownSpeaker("Ada"),)}
        assert await mine.options(claim) == KNOWN
        assert CANARY not in repr(KNOWN)
        if how == "completed":
            await mine.keep_plan(claim, Plan((PartPlan(0),)))
            await mine.complete(claim, JobResult(HEARD), 2500)
        elif how == "failed":
            await mine.fail(claim, Failure(FailureKind.ENGINE_FAILED))
        else:
            await store.jobs.cancel(LOCAL_ACCOUNT, claim.job.id)
        async with store.database.begin() as tx:
            assert not (await tx.run(select(known_speakers))).all()
        with pytest.raises(LostError):
            await mine.options(claim)
    if isinstance(places.database, Path):  # the log is gone with the connection, and what was deleted is overwritten
        assert not any(value in data for data in all_bytes(places, request))


async def test_the_voices_of_another_job_are_refused(store: Kept) -> None:
    mine = queue(store)
    await submitted(store, options=KNOWN)
    await submitted(store, options=KNOWN)
    first, second = await claimed(mine), await claimed(mine)
    async with store.database.begin() as tx:
        of_first = select(known_speakers.c.sealed_speakers).where(known_speakers.c.job == first.job.id)
        sealed = (await tx.run(of_first)).scalar_one()
        of_second = update(known_speakers).where(known_speakers.c.job == second.job.id)
        await tx.run(of_second.values(sealed_speakers=sealed))
    assert await mine.options(first) == KNOWN
    with pytest.raises(VaultError):
        await mine.options(second)


async def test_a_result_in_the_row_of_another_job_is_refused(store: Kept) -> None:
    first, second = await completed(store), await completed(store)
    async with store.database.begin() as tx:
        sealed = (await tx.run(select(result.c.sealed_result).where(result.c.job == first.id))).scalar_one()
        await tx.run(update(result).where(result.c.job == second.id).values(sealed_result=sealed))
    with pytest.raises(VaultError):
        await store.jobs.result(LOCAL_ACCOUNT, second.id)


async def test_the_details_of_another_job_with_its_key_are_refused(store: Kept) -> None:
    first, second = await completed(store), await completed(store)
    async with store.database.begin() as tx:
        row = (await tx.run(select(job).where(job.c.id == first.id))).one()
        wrapped = (
            await tx.run(select(record_key).where(record_key.c.record == job_record(first.account, first.id)))
        ).one()
        await tx.run(update(job).where(job.c.id == second.id).values(sealed_details=row.sealed_details))
        of_second = update(record_key).where(record_key.c.record == job_record(second.account, second.id))
        await tx.run(of_second.values(wrapped=wrapped.wrapped))
    with pytest.raises(VaultError):
        await store.jobs.get(LOCAL_ACCOUNT, second.id)


async def test_after_a_rotation_everything_is_there_and_the_old_key_opens_nothing(places: Places) -> None:
    old_key = key_file(places).with_name("old.key")
    old_key.write_text(key_file(places).read_text())
    async with kept(places) as store:
        made = await completed(store)
        blob, _ = await store.blobs.put(sound())
        assert await rotate(store.database, store.records, store.vault) > 2
        assert await store.records.rewrap() == 0
    async with kept(places) as store:
        await store.jobs.result(LOCAL_ACCOUNT, made.id)
        await store.blobs.open(blob)
    with pytest.raises(VaultError):
        async with kept(replace(places, key=old_key)):
            pass


async def test_a_database_whose_keys_are_lost_is_not_given_new_ones(places: Places) -> None:
    async with kept(places) as store:
        await completed(store)
    key_file(places).unlink()
    with pytest.raises(VaultError, match="no such file"):
        async with kept(places):
            pass
    assert not key_file(places).exists()


async def test_other_keys_do_not_open_a_database(places: Places) -> None:
    async with kept(places) as store:
        await completed(store)
    key_file(places).unlink()
    KeyFile.make(key_file(places))
    with pytest.raises(VaultError):
        async with kept(places):
            pass


async def test_a_job_whose_key_was_forgotten_cannot_be_read_from_a_copy_of_its_row(store: Kept) -> None:
    made = await completed(store)
    async with store.database.begin() as tx:
        row = (await tx.run(select(job).where(job.c.id == made.id))).one()
    await store.jobs.delete(LOCAL_ACCOUNT, made.id)
    async with store.database.begin() as tx:
        back = update(job).where(job.c.id == made.id)
        await tx.run(back.values(deleted_ms=None, sealed_details=row.sealed_details))
    with pytest.raises(MissingError):
        await store.jobs.get(LOCAL_ACCOUNT, made.id)
