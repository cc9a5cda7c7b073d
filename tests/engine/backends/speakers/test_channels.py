"""A channel of a call is a speaker, its echo in the other one is not, and one channel twice is no call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import BackendError
from core.media.types import AudioBlock
from core.transcript.faults import AUDIO, Fault, FaultKind
from engine.backends.speakers.channels import ChannelDiarizer
from engine.speech.speakers import Diarization

WINDOWS = 31
Samples = npt.NDArray[np.float64]

RANDOM = np.random.default_rng(1)


def noise(seconds: int, level: float = 3000.0) -> Samples:
    return RANDOM.normal(0, level, seconds * WINDOWS * 512)


def quiet(seconds: int) -> Samples:
    return noise(seconds, 3.0)


def channel(samples: Samples) -> AudioBlock:
    """Speech wherever it is loud enough to hear."""
    loud = np.square(samples.reshape(-1, 512)).mean(axis=1) > 100.0
    return AudioBlock(samples.astype("<i2").tobytes(), bytes(255 if one else 0 for one in loud))


async def listen(left: Samples, right: Samples) -> Diarization:
    async with ChannelDiarizer().listen(1, 20) as listening:
        for at in range(0, len(left), WINDOWS * 512):
            sides = [channel(one[at : at + WINDOWS * 512]) for one in (left, right)]
            await listening.push(AudioBlock(sides[0].pcm, sides[0].speech, tuple(sides)))
        return await listening.conclude()


def turns(heard: Diarization) -> list[tuple[int, int, int]]:
    return sorted((round(turn.start_s), round(turn.end_s), turn.speaker) for turn in heard.turns)


async def test_each_channel_speaks_for_itself_also_at_once() -> None:
    left = np.concatenate([noise(3), quiet(3), noise(2)])
    right = np.concatenate([quiet(2), noise(4), quiet(2)])
    assert turns(await listen(left, right)) == [(0, 3, 0), (2, 6, 1), (6, 8, 0)]


async def test_an_echo_is_nobody() -> None:
    left = np.concatenate([noise(3), quiet(3)])
    right = np.concatenate([0.1 * left[: 3 * WINDOWS * 512], noise(3)])
    assert turns(await listen(left, right)) == [(0, 3, 0), (3, 6, 1)]


async def test_silence_has_no_turns() -> None:
    assert turns(await listen(np.zeros(4 * WINDOWS * 512), np.zeros(4 * WINDOWS * 512))) == []


@pytest.mark.parametrize("difference", [0.0, 20.0])
async def test_the_same_on_both_channels_is_refused(difference: float) -> None:
    left = noise(4)
    with pytest.raises(Fault) as caught:
        await listen(left, left + RANDOM.normal(0, 1.0, len(left)) * difference)
    assert (caught.value.kind, caught.value.subject) == (FaultKind.UNSUPPORTED, AUDIO)


async def test_a_decoder_that_mixes_them_is_noticed() -> None:
    async with ChannelDiarizer().listen(1, 20) as listening:
        with pytest.raises(BackendError, match="did not keep the channels apart"):
            await listening.push(channel(noise(1)))
