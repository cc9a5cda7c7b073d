"""Frames of any form become one channel at its times; phases, gaps and rates that change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from av.audio.frame import AudioFrame

from core.media.sound import MIX_SAMPLES, UnreadableMediaError, is_silence, pcm_of_frames
from core.media.timeline import Timeline
from tests.core.media.sounds import TONE_HZ, kennedy, loudest_hz, tone

RATE_HZ = 16_000
FRAME_SAMPLES = 1_024


def frames(
    samples: npt.NDArray[np.int16], rate_hz: int = RATE_HZ, *, start: int | None = None, sample_format: str = "s16"
) -> Iterator[AudioFrame]:
    """Samples (time x channels) as frames; start: the time of the first, in samples."""
    for at in range(0, len(samples), FRAME_SAMPLES):
        piece = samples[at : at + FRAME_SAMPLES]
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
        frame = AudioFrame(format=sample_format, layout=layout, samples=len(piece))
        frame.sample_rate = rate_hz
        frame.planes[0].update(np.ascontiguousarray(piece).tobytes())
        frame.pts = None if start is None else start + at
        yield frame


def heard(stereo: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.frombuffer(b"".join(pcm_of_frames(frames(stereo), unclocked())), "<i2")


def unclocked() -> Timeline:
    return Timeline(tick_s=0.0, zero_s=0.0)


def clocked() -> Timeline:
    return Timeline.of("matroska", tick_s=1 / RATE_HZ, start_s=0.0)


def both(left: npt.NDArray[np.int16], right: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.stack([left, right], axis=1)


SPEECH = kennedy()


def test_two_equal_channels_are_heard_as_they_are() -> None:
    assert np.array_equal(heard(both(SPEECH, SPEECH)), SPEECH)


@pytest.mark.parametrize("gain", [1.0, 0.8, 0.6])
def test_opposite_channels_are_heard_as_one_of_them(gain: float) -> None:
    quieter = (-gain * SPEECH).astype(np.int16)
    assert np.array_equal(heard(both(SPEECH, quieter)), SPEECH)


def test_of_opposite_channels_the_louder_is_heard() -> None:
    assert np.array_equal(heard(both((SPEECH * 0.6).astype(np.int16), -SPEECH)), -SPEECH)


def test_phases_that_are_opposite_in_a_part_are_mended_in_that_part() -> None:
    begin, end = 30 * MIX_SAMPLES, 70 * MIX_SAMPLES
    right = SPEECH.copy()
    right[begin:end] *= -1
    assert np.array_equal(heard(both(SPEECH, right)), SPEECH)


def test_where_a_part_is_not_whole_windows_no_more_than_its_windows_is_lost() -> None:
    right = SPEECH.copy()
    right[30 * MIX_SAMPLES + 700 : 70 * MIX_SAMPLES + 700] *= -1
    wrong = heard(both(SPEECH, right)) != SPEECH
    assert wrong.sum() <= 2 * MIX_SAMPLES


def test_a_voice_in_one_channel_is_mixed_and_no_channel_left_out() -> None:
    silence = np.zeros_like(SPEECH)
    assert np.array_equal(heard(both(SPEECH, silence)), (SPEECH / 2).astype(np.int16))
    assert np.array_equal(heard(both(silence, SPEECH)), (SPEECH / 2).astype(np.int16))


def test_two_voices_are_both_heard() -> None:
    later = np.roll(SPEECH, 4 * RATE_HZ)
    mix = ((SPEECH.astype(np.int32) + later) / 2).astype(np.int16)
    assert np.array_equal(heard(both(SPEECH, later)), mix)


@pytest.mark.parametrize("length", [1, MIX_SAMPLES - 1, MIX_SAMPLES, MIX_SAMPLES + 1, 2 * RATE_HZ + 17])
def test_every_sample_of_two_channels_comes_out(length: int) -> None:
    samples = SPEECH[RATE_HZ : RATE_HZ + length]
    assert np.array_equal(heard(both(samples, -samples)), samples)


def test_surround_sound_keeps_its_centre() -> None:
    surround = np.zeros((2 * RATE_HZ, 6), np.int16)
    surround[:, 2] = tone(2.0)
    audio = b"".join(pcm_of_frames(frames(surround), unclocked()))
    assert loudest_hz(audio) == TONE_HZ


# --- times


def test_a_gap_is_filled_to_the_sample() -> None:
    def gapped() -> Iterator[AudioFrame]:
        yield from frames(SPEECH[:, None], start=0)
        yield from frames(SPEECH[:, None], start=20 * RATE_HZ)

    audio = np.frombuffer(b"".join(pcm_of_frames(gapped(), clocked())), "<i2")
    assert len(audio) == 20 * RATE_HZ + len(SPEECH)
    assert np.array_equal(audio[: len(SPEECH)], SPEECH)
    assert not audio[len(SPEECH) : 20 * RATE_HZ].any()
    assert np.array_equal(audio[20 * RATE_HZ :], SPEECH)


def test_many_gaps_add_up_to_no_error() -> None:
    rate_hz, step = 44_100, 11_025

    def gapped() -> Iterator[AudioFrame]:
        for number in range(200):
            yield from frames(tone(0.01, rate_hz)[:, None], rate_hz, start=number * step)

    line = Timeline.of("matroska", tick_s=1 / rate_hz, start_s=0.0)
    audio = np.frombuffer(b"".join(pcm_of_frames(gapped(), line)), "<i2")
    expected = round((199 * step / rate_hz + 0.01) * RATE_HZ)
    assert len(audio) == pytest.approx(expected, abs=3)
    loud = np.flatnonzero(np.abs(audio.astype(np.int32)) > 1_000)
    assert loud[-1] > expected - 100


def test_a_gap_of_ages_comes_piece_by_piece() -> None:
    pieces = pcm_of_frames(frames(SPEECH[:, None], start=1 << 62), clocked())
    assert max(len(next(pieces)) for _ in range(1_000)) <= 1 << 16


def test_wavering_times_change_nothing() -> None:
    def wavering() -> Iterator[AudioFrame]:
        for number, frame in enumerate(frames(SPEECH[:, None], start=0)):
            frame.pts = (frame.pts or 0) + (-1) ** number * 700  # 44 ms
            yield frame

    assert b"".join(pcm_of_frames(wavering(), clocked())) == SPEECH.tobytes()


def test_frames_without_a_time_follow_on() -> None:
    assert b"".join(pcm_of_frames(frames(SPEECH[:, None]), clocked())) == SPEECH.tobytes()


def test_a_change_of_rate_goes_on_where_it_was() -> None:
    def changing() -> Iterator[AudioFrame]:
        yield from frames(tone(2.0, 48_000)[:, None], 48_000)
        yield from frames(np.repeat(tone(2.0, 8_000)[:, None], 2, axis=1), 8_000)

    audio = b"".join(pcm_of_frames(changing(), unclocked()))
    assert len(audio) / 2 / RATE_HZ == pytest.approx(4.0, abs=0.01)
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=1)


def test_a_rate_too_low_for_any_recording_is_refused() -> None:
    with pytest.raises(UnreadableMediaError):
        list(pcm_of_frames(frames(SPEECH[:9, None], 999), unclocked()))


def test_silence_is_zeros_and_nothing_else() -> None:
    assert is_silence(bytes(65_536))
    assert is_silence(b"")
    assert not is_silence(bytes(65_535) + b"\x01")
