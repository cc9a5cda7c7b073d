"""Of several audio tracks the one is heard in which somebody speaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media.frames import BLOCK_BYTES, BLOCK_WINDOWS, WINDOW_BYTES
from core.media.sound import UnreadableMediaError
from core.media.tracks import HELD_BLOCKS, most_spoken
from core.media.types import AudioBlock


class Track:
    """Blocks of a track that says who it is in every sample; counts what was asked of it.

    speech: how many windows of each block are speech. sound: what its samples are.
    """

    def __init__(self, sound: int, *speech: int, last_bytes: int = BLOCK_BYTES, breaks: bool = False) -> None:
        self.sound = bytes([sound])
        self.speech = speech
        self.breaks = breaks
        self.last_bytes = last_bytes
        self.asked = 0
        self.closed = False

    def blocks(self) -> Iterator[AudioBlock]:
        try:
            for number, spoken in enumerate(self.speech, 1):
                self.asked += 1
                size = self.last_bytes if number == len(self.speech) else BLOCK_BYTES
                windows = -(-size // WINDOW_BYTES)
                yield AudioBlock(self.sound * size, (b"\xff" * spoken).ljust(windows, b"\x20")[:windows])
            if self.breaks:
                raise UnreadableMediaError("broken")
        finally:
            self.closed = True


def heard(*tracks: Track) -> str:
    """Which track each block came from, by the digit that is its sample."""
    return "".join(str(block.pcm[0]) for block in most_spoken([track.blocks() for track in tracks]))


def test_one_track_is_heard_as_it_comes() -> None:
    track = Track(1, 0, 0, 0)
    blocks = most_spoken([track.blocks()])
    next(blocks)
    assert track.asked == 1


def test_the_track_that_speaks_is_heard() -> None:
    assert heard(Track(1, *[0] * 20), Track(2, *[60] * 20)) == "2" * 20


def test_the_first_of_two_that_speak_is_heard() -> None:
    assert heard(Track(1, *[40] * 20), Track(2, *[60] * 20)) == "1" * 20


def test_a_track_in_which_little_is_said_does_not_hide_one_that_speaks() -> None:
    assert heard(Track(1, *[5] * 20), Track(2, *[60] * 20)) == "2" * 20


def test_a_voice_that_begins_a_little_later_is_waited_for() -> None:
    interpreted = [0] * 4 + [60] * 30
    assert heard(Track(1, *interpreted), Track(2, *[60] * 34)) == "1" * 34


def test_who_speaks_after_a_long_silence_is_heard_from_the_first_word() -> None:
    silence = [0] * 300
    assert heard(Track(1, *[0] * 320), Track(2, *silence, *[60] * 20)) == "1" * 300 + "2" * 20


def test_words_that_decide_nothing_are_heard_where_they_are() -> None:
    now_and_then = [30] + [0] * 15
    result = heard(Track(1, *[0] * 64), Track(2, *now_and_then * 4))
    assert result == ("2" + "1" * 15) * 4


def test_once_chosen_a_track_is_kept_and_the_others_are_closed() -> None:
    first, second = Track(1, *[0] * 10, *[64] * 90), Track(2, *[60] * 10, *[0] * 90)
    assert heard(first, second) == "2" * 100
    assert first.closed
    assert first.asked == HELD_BLOCKS


def test_nothing_is_held_back_longer_than_told() -> None:
    first, second = Track(1, *[0] * 100), Track(2, *[0] * 100)
    blocks = most_spoken([first.blocks(), second.blocks()])
    for number in range(50):
        next(blocks)
        assert first.asked == second.asked == number + HELD_BLOCKS


def test_where_nobody_speaks_the_first_track_with_any_sound_is_heard() -> None:
    assert heard(Track(0, *[0] * 20), Track(2, *[0] * 20), Track(3, *[0] * 20)) == "2" * 20
    assert heard(Track(1, *[0] * 20), Track(2, *[0] * 20)) == "1" * 20


def test_a_short_file_is_decided_by_what_there_is() -> None:
    assert heard(Track(1, 0), Track(2, 3)) == "2"
    assert heard(Track(1, 0), Track(2, 0)) == "1"


def test_a_track_that_ends_early_ends_no_other() -> None:
    assert heard(Track(1, 0, 0, last_bytes=2 * WINDOW_BYTES), Track(2, *[0] * 20)) == "11" + "2" * 18
    assert heard(Track(1, *[0] * 20), Track(2, 0, 60, 60, 60, last_bytes=500)) == "1222"


def test_the_last_word_of_a_track_that_ends_early_is_heard() -> None:
    tracks = Track(1, *[0] * 9, 4, last_bytes=4 * WINDOW_BYTES), Track(2, *[0] * 30)
    blocks = list(most_spoken([track.blocks() for track in tracks]))
    assert [len(block.pcm) for block in blocks] == [BLOCK_BYTES] * 30
    assert sum(window == 255 for block in blocks for window in block.speech) == 4


def test_a_track_that_cannot_be_read_is_left_out() -> None:
    assert heard(Track(1, breaks=True), Track(2, *[0] * 9)) == "2" * 9
    assert heard(Track(1, 0, 0, breaks=True), Track(2, *[0] * 3, *[60] * 20)) == "2" * 23


def test_tracks_none_of_which_can_be_read_are_refused() -> None:
    with pytest.raises(UnreadableMediaError):
        heard(Track(1, breaks=True), Track(2, 0, breaks=True))


def test_a_chosen_track_that_breaks_is_refused() -> None:
    with pytest.raises(UnreadableMediaError):
        heard(Track(1, *[60] * 20, breaks=True), Track(2, *[0] * 90))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, BLOCK_WINDOWS), max_size=30), st.integers(1, BLOCK_BYTES // 2)), min_size=1
    )
)
def test_only_the_last_block_is_short_and_no_more_is_heard_than_there_is(
    forms: list[tuple[list[int], int]],
) -> None:
    tracks = [Track(number % 9, *speech, last_bytes=2 * half) for number, (speech, half) in enumerate(forms)]
    blocks = list(most_spoken([track.blocks() for track in tracks]))
    assert all(len(block.pcm) == BLOCK_BYTES for block in blocks[:-1])
    assert len(blocks) <= max(len(track.speech) for track in tracks)
    if any(sum(track.speech) for track in tracks):
        assert any(window == 255 for block in blocks for window in block.speech)
