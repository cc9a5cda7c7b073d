"""Recordings become parts that an engine takes: in a real sandbox, over recordings that are kept elsewhere."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio

from core.errors import BackendError
from core.media.decode import MAX_PART_S, AudioDecoder
from core.media.types import MAX_FILE_BYTES, WHOLE, Excerpt, PartPiece
from core.transcript.faults import AUDIO, Fault, FaultKind
from proxy.jobs import media as module
from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.media import MediaSplitter
from proxy.jobs.model import FailureKind, JobOptions, PartPlan
from proxy.jobs.ports import PartContent, Recording, Splitter
from proxy.jobs.service import Places, kept
from tests.core.media.sounds import encoded, kennedy, wav
from tests.core.media.test_split import HOSTILE
from tests.proxy.jobs.recordings import MemoryBlobs, MemoryRecording

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEECH = np.tile(np.concatenate([kennedy(), np.zeros(16_000, np.int16)]), 8).tobytes()
"""96 s."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(max_audio_s=module.MAX_AUDIO_S, max_files=2)
    await decoder.start()
    yield decoder
    await decoder.close()


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


async def content_of(part: PartContent) -> bytes:
    return b"".join([piece async for piece in part.stream()])


def pcm_of(flac: bytes) -> bytes:
    with av.open(io.BytesIO(flac), "r", format="flac") as container:
        return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in container.decode(audio=0))


async def test_it_is_a_splitter(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    splitter: Splitter = MediaSplitter(decoder, blobs)
    assert (await splitter.plan(MemoryRecording(wav(SPEECH)), JobOptions())).audio_ms == 96_000


async def test_what_is_short_goes_as_it_came_and_is_kept_once(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    recording = MemoryRecording(encoded("mp4", "aac", 48_000, "stereo", 2.0), "secret name.mp4")
    splitter = MediaSplitter(decoder, blobs)
    plan = await splitter.plan(recording, JobOptions())
    assert (plan.parts, plan.blob, blobs.kept) == ((PartPlan(0),), None, {})
    assert plan.audio_ms == pytest.approx(2_000, abs=100)
    part = await splitter.cut(recording, plan.parts[0])
    assert await content_of(part) == await content_of_recording(recording)
    assert "secret" not in part.filename


async def content_of_recording(recording: MemoryRecording) -> bytes:
    return b"".join([piece async for piece in recording.stream()])


async def test_what_is_long_is_kept_as_parts_that_are_read_as_ranges(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    splitter = MediaSplitter(decoder, blobs, part_s=30)
    plan = await splitter.plan(MemoryRecording(wav(SPEECH)), JobOptions())
    assert plan.blob is not None
    assert plan.audio_ms == 96_000
    assert len(plan.parts) == 4
    assert [part.start_ms for part in plan.parts[1:]] == [part.end_ms for part in plan.parts[:-1]]
    assert (plan.parts[0].start_ms, plan.parts[-1].end_ms) == (0, 96_000)
    made = await blobs.open(plan.blob)
    contents = [await splitter.cut(made, part) for part in plan.parts]
    assert {(part.filename, part.content_type) for part in contents} == {
        (f"part-{index}.flac", "audio/flac") for index in range(4)
    }
    parts = [pcm_of(await content_of(part)) for part in contents]
    assert b"".join(parts) == SPEECH
    for part, plan_of_it in zip(parts, plan.parts, strict=True):
        assert plan_of_it.end_ms is not None
        assert len(part) // 32 == pytest.approx(plan_of_it.end_ms - plan_of_it.start_ms, abs=1)


async def test_another_process_cuts_what_one_has_planned(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    plan = await MediaSplitter(decoder, blobs, part_s=30).plan(MemoryRecording(wav(SPEECH)), JobOptions())
    assert plan.blob is not None
    other = MediaSplitter(Failing(BackendError("no decoder runs here")), blobs)
    part = await other.cut(await blobs.open(plan.blob), plan.parts[2])
    assert pcm_of(await content_of(part))


async def test_a_sealed_recording_is_split_and_kept_sealed(decoder: AudioDecoder, tmp_path: Path) -> None:
    from proxy.jobs.vault import KeyFile

    key = tmp_path / "jobs.key"
    KeyFile.make(key)
    async with kept(Places(tmp_path / "jobs.sqlite", tmp_path / "blobs", key)) as store:

        async def sent() -> AsyncIterator[bytes]:
            yield wav(SPEECH)

        blob, _ = await store.blobs.put(sent())
        splitter = MediaSplitter(decoder, store.blobs, part_s=30)
        plan = await splitter.plan(await store.blobs.open(blob), JobOptions())
        assert plan.blob is not None
        made = await store.blobs.open(plan.blob)
        parts = [pcm_of(await content_of(await splitter.cut(made, part))) for part in plan.parts]
        assert b"".join(parts) == SPEECH
        assert not [path for path in (tmp_path / "blobs").iterdir() if b"fLaC" in path.read_bytes()]


async def test_where_speakers_are_told_apart_a_recording_is_cut_as_any_other(
    decoder: AudioDecoder, blobs: MemoryBlobs
) -> None:
    splitter = MediaSplitter(decoder, blobs, part_s=30)
    plain, diarized = [
        await splitter.plan(MemoryRecording(wav(SPEECH)), JobOptions(diarize=diarize)) for diarize in (False, True)
    ]
    assert diarized.parts == plain.parts
    assert len(diarized.parts) > 2


async def test_a_file_that_no_engine_takes_is_cut_even_if_it_is_short(
    decoder: AudioDecoder, blobs: MemoryBlobs
) -> None:
    # A chunk that readers pass over in one step; of bare zeros they would look at each.
    filler = b"JUNK" + MAX_FILE_BYTES.to_bytes(4, "little") + bytes(MAX_FILE_BYTES)
    recording = MemoryRecording(wav(SPEECH, rate_hz=16_000) + filler)
    plan = await MediaSplitter(decoder, blobs, part_s=MAX_PART_S).plan(recording, JobOptions(diarize=True))
    assert plan.blob is not None


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_recording_is_unreadable(decoder: AudioDecoder, blobs: MemoryBlobs, name: str) -> None:
    with pytest.raises(FailedError) as caught:
        await MediaSplitter(decoder, blobs).plan(MemoryRecording(HOSTILE[name]()), JobOptions())
    assert not isinstance(caught.value, TransientError)
    assert caught.value.failure.kind is FailureKind.MEDIA_UNREADABLE
    assert blobs.kept == {}


class Failing:
    """Gives some pieces, then fails."""

    def __init__(self, error: Exception, *pieces: PartPiece) -> None:
        self._error = error
        self._pieces = pieces

    async def split(
        self, file: Recording, *, part_s: int, excerpt: Excerpt = WHOLE, caller: Hashable = None
    ) -> AsyncGenerator[PartPiece, None]:
        for piece in self._pieces:
            yield piece
        raise self._error


FAILURES = [
    (Fault(FaultKind.TOO_LONG, AUDIO, numbers={"limit_s": 5}), FailureKind.MEDIA_TOO_LONG),
    (Fault(FaultKind.TOO_SHORT, AUDIO), FailureKind.MEDIA_TOO_SHORT),
    (Fault(FaultKind.UNREADABLE, AUDIO), FailureKind.MEDIA_UNREADABLE),
]


@pytest.mark.parametrize("pieces", [(), (PartPiece(b"a", 16_000),) * 3])
@pytest.mark.parametrize(("fault", "kind"), FAILURES)
async def test_a_recording_that_cannot_be_heard_fails_its_job(
    blobs: MemoryBlobs, fault: Fault, kind: FailureKind, pieces: tuple[PartPiece, ...]
) -> None:
    with pytest.raises(FailedError) as caught:
        await MediaSplitter(Failing(fault, *pieces), blobs).plan(MemoryRecording(b"a"), JobOptions())
    assert not isinstance(caught.value, TransientError)
    assert (caught.value.failure.kind, caught.value.failure.numbers) == (kind, fault.numbers)
    assert blobs.kept == {}


async def test_a_stretch_keeps_its_times_and_is_kept_anew(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    splitter = MediaSplitter(decoder, blobs, part_s=30)
    plan = await splitter.plan(MemoryRecording(wav(SPEECH)), JobOptions(start_ms=20_000, end_ms=60_000))
    assert (plan.parts[0].start_ms, plan.parts[-1].end_ms, plan.audio_ms) == (20_000, 60_000, 40_000)
    assert plan.blob is not None
    kept_anew = await blobs.open(plan.blob)
    pcm = b"".join([pcm_of(await content_of(await splitter.cut(kept_anew, part))) for part in plan.parts])
    assert pcm == SPEECH[20_000 * 32 : 60_000 * 32]


async def test_channels_are_kept_one_behind_the_other(decoder: AudioDecoder, blobs: MemoryBlobs) -> None:
    left = np.frombuffer(SPEECH, np.int16)
    both = np.stack([left, left[::-1]], axis=1)
    splitter = MediaSplitter(decoder, blobs, part_s=60)
    plan = await splitter.plan(MemoryRecording(wav(both.tobytes(), channels=2)), JobOptions(channels=True))
    assert plan.audio_ms == 96_000
    assert [part.index for part in plan.parts] == list(range(len(plan.parts)))
    second = next(part.index for part in plan.parts[1:] if part.start_ms == 0)
    assert plan.blob is not None
    kept_anew = await blobs.open(plan.blob)
    pcm = [pcm_of(await content_of(await splitter.cut(kept_anew, part))) for part in plan.parts]
    assert b"".join(pcm[:second]) == both[:, 0].tobytes()
    assert b"".join(pcm[second:]) == both[:, 1].tobytes()


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_recording_without_two_channels_that_differ_is_told_as_one(
    decoder: AudioDecoder, blobs: MemoryBlobs, channels: int
) -> None:
    same = np.repeat(np.frombuffer(SPEECH, np.int16), channels).tobytes()
    with pytest.raises(FailedError) as caught:
        await MediaSplitter(decoder, blobs).plan(
            MemoryRecording(wav(same, channels=channels)), JobOptions(channels=True)
        )
    assert caught.value.failure.kind is FailureKind.MEDIA_ONE_CHANNEL
    assert blobs.kept == {}


async def test_what_is_longer_than_is_allowed_is_decoded_no_further(blobs: MemoryBlobs) -> None:
    decoder = Failing(BackendError("decoded too far"), *(PartPiece(b"a", 16_000),) * 3)
    with pytest.raises(FailedError) as caught:
        await MediaSplitter(decoder, blobs).plan(MemoryRecording(b"a"), JobOptions(), max_audio_ms=2_999)
    assert caught.value.failure.numbers == {"limit_ms": 2_999}
    assert blobs.kept == {}


@pytest.mark.parametrize("error", [BackendError("the decoder is away"), Fault(FaultKind.TIMED_OUT)])
async def test_what_is_our_fault_is_tried_again(blobs: MemoryBlobs, error: Exception) -> None:
    with pytest.raises(TransientError):
        await MediaSplitter(Failing(error), blobs).plan(MemoryRecording(b"a"), JobOptions())


@pytest.mark.parametrize(
    "tail", [b"", b"SVPARTS1", b"\xff\xff\xff\xffSVPARTS1", b"\0\0\0\0SVPARTS1", b"\0\0\0\1SVPARTS2"]
)
async def test_a_recording_that_is_not_in_parts_is_not_cut(blobs: MemoryBlobs, tail: bytes) -> None:
    splitter = MediaSplitter(Failing(BackendError("")), blobs)
    with pytest.raises(FailedError) as caught:
        await splitter.cut(MemoryRecording(tail), PartPlan(0, 0, 1_000))
    assert caught.value.failure.kind is FailureKind.SOURCE_LOST


@pytest.mark.parametrize("part_s", [0, -1, MAX_PART_S + 1])
async def test_a_part_is_as_long_as_an_upload_holds(blobs: MemoryBlobs, part_s: int) -> None:
    with pytest.raises(ValueError, match="780"):
        MediaSplitter(Failing(BackendError("")), blobs, part_s=part_s)


async def test_recordings_are_decoded_so_many_at_a_time(blobs: MemoryBlobs) -> None:
    gate, under_way = asyncio.Event(), []

    class Gated:
        async def split(
            self, file: Recording, *, part_s: int, excerpt: Excerpt = WHOLE, caller: Hashable = None
        ) -> AsyncGenerator[PartPiece, None]:
            under_way.append(file)
            await gate.wait()
            yield PartPiece(b"a", 16_000)

    splitter = MediaSplitter(Gated(), blobs, at_once=2)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(splitter.plan(MemoryRecording(b"a"), JobOptions()))
        await asyncio.sleep(0.01)
        assert len(under_way) == 2
        gate.set()
    assert len(under_way) == 5
