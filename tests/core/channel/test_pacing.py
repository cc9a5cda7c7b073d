from __future__ import annotations

import pytest

from core.channel.pacing import QUIET_TICKS, Pace, Shaping


def sent(shaping: Shaping, ticks: list[tuple[int, bool]]) -> list[int]:
    """Frames at each tick, of which is known what waits and whether somebody spoke."""
    pace = Pace(shaping)
    return [pace.frames(waiting, spoken=spoken) for waiting, spoken in ticks]


@pytest.mark.parametrize("shaping", [Shaping.STRICT, Shaping.CONSTANT])
def test_speech_silence_and_no_microphone_look_alike(shaping: Shaping) -> None:
    speaking, silent = [(1, True)] * QUIET_TICKS, [(0, False)] * QUIET_TICKS
    assert sent(shaping, speaking) == sent(shaping, silent) == [1] * QUIET_TICKS


def test_two_frames_that_wait_are_no_backlog_and_more_go_four_at_a_time() -> None:
    assert sent(Shaping.CONSTANT, [(2, True), (3, True), (4, True), (100, True)]) == [1, 3, 4, 4]


def test_a_minute_without_audio_slows_down_and_the_first_audio_ends_that_at_once() -> None:
    ticks = [(0, False)] * (QUIET_TICKS + 20)
    frames = sent(Shaping.CONSTANT, [*ticks, (1, True), (0, False)])
    assert frames[:QUIET_TICKS] == [1] * QUIET_TICKS
    assert sum(frames[QUIET_TICKS:-2]) == 2
    assert frames[-2:] == [1, 1]


def test_strict_shows_neither_a_backlog_nor_a_pause() -> None:
    ticks = [(100, True)] * 10 + [(0, False)] * (QUIET_TICKS + 100)
    assert set(sent(Shaping.STRICT, ticks)) == {1}


def test_off_sends_what_waits_and_a_sign_of_life_every_tenth_tick() -> None:
    assert sent(Shaping.OFF, [(7, True), *[(0, False)] * 9, (1, False)]) == [7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("shaping", Shaping)
def test_something_goes_at_least_every_tenth_tick(shaping: Shaping) -> None:
    frames = sent(shaping, [(0, False)] * 3 * QUIET_TICKS)
    assert all(any(frames[at : at + 10]) for at in range(len(frames) - 10))
