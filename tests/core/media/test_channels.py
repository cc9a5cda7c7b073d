"""A decoder that keeps the channels gives both beside their mix, and otherwise does what it always does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from core.media.decode import AudioDecoder
from core.media.types import AudioBlock, RawSamples
from tests.core.media.sounds import flac, kennedy, loudest_hz, tone, tracks, wav

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE_HZ = 16_000
Samples = npt.NDArray[np.int16]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(max_files=2)
    await decoder.start()
    yield decoder
    await decoder.close()


async def kept(decoder: AudioDecoder, file: bytes, raw: RawSamples | None = None) -> list[AudioBlock]:
    async with aclosing(decoder.decode(file, raw, keep_channels=True)) as blocks:
        return [block async for block in blocks]


def joined(blocks: list[AudioBlock]) -> tuple[bytes, bytes, bytes]:
    """The mix, the left, the right."""
    channels = [[block, *block.channels] for block in blocks]
    mix, left, right = (b"".join(one[number].pcm for one in channels) for number in range(3))
    return mix, left, right


def stereo(left: Samples, right: Samples) -> bytes:
    return wav(np.stack([left, right], axis=1).astype("<i2").tobytes(), channels=2)


def sine(hz: float, seconds: float = 3.0) -> Samples:
    return np.round(8_000 * np.sin(2 * np.pi * hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)).astype(np.int16)


async def test_both_channels_come_beside_their_mix(decoder: AudioDecoder) -> None:
    left, right = sine(440), sine(1_500)
    mix, first, second = joined(await kept(decoder, stereo(left, right)))
    assert (first, second) == (left.astype("<i2").tobytes(), right.astype("<i2").tobytes())
    halves = np.frombuffer(mix, "<i2").astype(np.int32)
    assert np.abs(halves - (left.astype(np.int32) + right) // 2).max() <= 1


async def test_the_mix_is_what_it_is_for_who_keeps_no_channels(decoder: AudioDecoder) -> None:
    file = stereo(sine(440), sine(1_500))
    async with aclosing(decoder.decode(file)) as blocks:
        usual = [block async for block in blocks]
    found = await kept(decoder, file)
    assert [(block.pcm, block.speech) for block in found] == [(block.pcm, block.speech) for block in usual]
    assert all(block.channels == () for block in usual)


async def test_each_channel_has_its_own_voice_activity(decoder: AudioDecoder) -> None:
    spoken = kennedy()[: 4 * RATE_HZ]
    blocks = await kept(decoder, stereo(spoken, np.zeros_like(spoken)))
    left = b"".join(block.channels[0].speech for block in blocks)
    right = b"".join(block.channels[1].speech for block in blocks)
    assert sum(one > 128 for one in left) > 30
    assert max(right) == 0
    assert all(len(block.channels[0].pcm) == len(block.pcm) for block in blocks)


@pytest.mark.parametrize("channels", [1, 6])
async def test_of_any_other_number_of_channels_both_are_the_mix(decoder: AudioDecoder, channels: int) -> None:
    pcm = np.repeat(sine(440)[:, None], channels, axis=1).astype("<i2").tobytes()
    mix, left, right = joined(await kept(decoder, wav(pcm, channels=channels)))
    assert mix == left == right
    assert loudest_hz(mix) == pytest.approx(440, abs=20)


async def test_raw_samples_are_kept_apart_too(decoder: AudioDecoder) -> None:
    left, right = sine(440), sine(1_500)
    data = np.stack([left, right], axis=1).astype("<i2").tobytes()
    _, first, second = joined(await kept(decoder, data, RawSamples(RATE_HZ, channels=2)))
    assert (first, second) == (left.astype("<i2").tobytes(), right.astype("<i2").tobytes())


async def test_a_file_with_several_tracks_keeps_the_channels_of_the_one_that_is_heard(decoder: AudioDecoder) -> None:
    spoken = kennedy()[: 6 * RATE_HZ]
    blocks = await kept(decoder, tracks("matroska", ("pcm_s16le", np.zeros_like(spoken)), ("pcm_s16le", spoken)))
    assert all(len(block.channels) == 2 for block in blocks)
    assert {len(block.channels[1].pcm) - len(block.pcm) for block in blocks} == {0}


async def test_a_compressed_recording_of_one_channel_can_be_kept(decoder: AudioDecoder) -> None:
    mix, left, right = joined(await kept(decoder, flac(tone(1.0).astype("<i2").tobytes())))
    assert mix == left == right
