"""A live session's sound is heard in a process of its own, however it is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from core.errors import BackendError
from core.media.decode import AudioDecoder, LiveEar
from core.media.frames import WINDOW_BYTES, Sound
from core.media.types import AudioBlock
from tests.places import ROOT
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE_HZ = 24_000
CHUNKS = (1, 2_399, 2_400, 48_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder()
    await decoder.start()
    yield decoder
    await decoder.close()


def sweep(seconds: float, rate_hz: int = RATE_HZ) -> bytes:
    """A tone that rises: nowhere like anywhere else."""
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * (200 + 100 * times) * times) * 12_000).astype("<i2").tobytes()


async def heard(ear: LiveEar, data: bytes, chunk: int, sound: Sound = Sound.PCM, rate_hz: int = RATE_HZ) -> AudioBlock:
    blocks = [await ear.hear(sound, rate_hz, data[start : start + chunk]) for start in range(0, len(data), chunk)]
    blocks.append(await ear.end())
    return AudioBlock(b"".join(block.pcm for block in blocks), b"".join(block.speech for block in blocks))


@pytest.mark.parametrize("chunk", CHUNKS)
async def test_it_makes_no_difference_how_samples_are_cut(decoder: AudioDecoder, chunk: int) -> None:
    data = sweep(1.0) if chunk > 1 else sweep(0.1)
    async with decoder.listen() as ear:
        whole = await heard(ear, data, len(data))
    async with decoder.listen() as ear:
        cut = await heard(ear, data, chunk)
    assert cut.pcm == whole.pcm
    assert len(cut.speech) * WINDOW_BYTES == len(cut.pcm)


async def test_the_longest_recording_is_no_limit_of_a_session() -> None:
    decoder = AudioDecoder(max_audio_s=1)
    await decoder.start()
    try:
        async with decoder.listen() as ear:
            block = await heard(ear, sweep(2.0), 48_000)
    finally:
        await decoder.close()
    assert len(block.speech) >= 2.0 / 0.032


@pytest.mark.parametrize(
    ("sound", "rate_hz", "sample_bytes"),
    [
        (Sound.PCM, 24_000, 2),
        (Sound.PCM, 16_000, 2),
        (Sound.PCM, 8_000, 2),
        (Sound.PCMU, 8_000, 1),
        (Sound.PCMA, 8_000, 1),
    ],
)
async def test_every_form_becomes_as_long_as_it_is(
    decoder: AudioDecoder, sound: Sound, rate_hz: int, sample_bytes: int
) -> None:
    async with decoder.listen() as ear:
        block = await heard(ear, bytes(rate_hz * sample_bytes), 2_400, sound, rate_hz)
    assert abs(len(block.speech) - 31.25) <= 1.5


async def test_what_was_said_is_known_as_soon_as_a_window_is_full(decoder: AudioDecoder) -> None:
    async with decoder.listen() as ear:
        block = await ear.hear(Sound.PCM, RATE_HZ, sweep(0.1))
    assert len(block.speech) >= 2  # of three and an eighth; the filter holds a millisecond or two


async def test_g711_is_what_it_stands_for(decoder: AudioDecoder) -> None:
    # ITU-T G.711: 0x80 and 0x00 are the extremes of mu-law, 0xFF is its zero.
    async with decoder.listen() as ear:
        block = await heard(ear, b"\xff" * 8_000 + b"\x80" * 8_000, 160, Sound.PCMU, 8_000)
    samples = np.frombuffer(block.pcm, "<i2")
    assert abs(samples[:15_000]).max() < 100
    assert samples[17_000:30_000].min() > 31_000


async def test_a_stream_may_begin_after_another(decoder: AudioDecoder) -> None:
    data = sweep(0.5)
    async with decoder.listen() as ear:
        first, second = await heard(ear, data, 2_400), await heard(ear, data, 2_400)
    assert first.pcm == second.pcm


async def test_another_form_without_an_end_begins_another_stream(decoder: AudioDecoder) -> None:
    async with decoder.listen() as ear:
        before = await ear.hear(Sound.PCM, 24_000, bytes(48_000))
        after = await ear.hear(Sound.PCM, 8_000, bytes(16_000))
        last = await ear.end()
    assert abs(len(before.speech + after.speech + last.speech) - 62.5) <= 1.5


async def test_a_voice_is_told_from_silence(decoder: AudioDecoder) -> None:
    blocks = [block async for block in decoder.decode((ROOT / "examples" / "kennedy.flac").read_bytes())]
    voice = b"".join(block.pcm for block in blocks)[: 16_000 * 2 * 6]
    async with decoder.listen() as ear:
        silent = await heard(ear, bytes(96_000), 4_800)
        spoken = await heard(ear, voice, 3_200, rate_hz=16_000)
    assert max(silent.speech) < 64
    assert sum(probability > 127 for probability in spoken.speech) > 60


async def test_an_ear_that_dies_is_told_of(decoder: AudioDecoder) -> None:
    async with decoder.listen() as ear:
        await ear.hear(Sound.PCM, RATE_HZ, bytes(4_800))
        server = decoder._server
        assert server is not None
        await server.close()
        with pytest.raises(BackendError):
            await ear.hear(Sound.PCM, RATE_HZ, bytes(4_800))
    await decoder.start()


async def test_its_process_ends_with_the_session(decoder: AudioDecoder) -> None:
    await decoder.start()
    server = decoder._server
    assert server is not None

    async def listening() -> None:
        async with decoder.listen() as ear:
            await ear.hear(Sound.PCM, RATE_HZ, bytes(4_800))
            await asyncio.Event().wait()

    session = asyncio.create_task(listening())  # noqa: TID251 - awaited below
    children = Path(f"/proc/{server._process.pid}/task/{server._process.pid}/children")
    await until(lambda: children.read_text().split())
    session.cancel()
    await asyncio.gather(session, return_exceptions=True)
    assert not children.read_text().split()
