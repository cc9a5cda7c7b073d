"""A recording is cut where nobody speaks, and nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media.cuts import SEARCH_S, TAIL_S, WINDOWS_PER_S, PartCutter, Stretch
from core.media.frames import BLOCK_WINDOWS, WINDOW_BYTES
from core.media.types import WINDOW_SAMPLES, AudioBlock

SPOKEN, SILENT = 255, 0
MAX = 4_000
"""Windows of a part: 128 s."""
SEARCHED = int(SEARCH_S * WINDOWS_PER_S)
TAIL = int(TAIL_S * WINDOWS_PER_S)


def recording(speech: bytes, *, loud: bool = True) -> bytes:
    """Samples, different in each window."""
    return b"".join(
        np.full(WINDOW_SAMPLES, index % 20_000 if loud else 0, "<i2").tobytes() for index in range(len(speech))
    )


def parts_of(speech: bytes, pcm: bytes | None = None, *, max_windows: int = MAX) -> list[bytes]:
    pcm = recording(speech) if pcm is None else pcm
    cutter = PartCutter(max_windows * WINDOW_SAMPLES)
    parts, open_part = [], b""

    def take(stretch: Stretch) -> None:
        nonlocal open_part
        open_part += stretch.pcm
        if stretch.ends:
            parts.append(open_part)
            open_part = b""

    for start in range(0, len(speech), BLOCK_WINDOWS):
        here = slice(start * WINDOW_BYTES, (start + BLOCK_WINDOWS) * WINDOW_BYTES)
        for stretch in cutter.push(AudioBlock(pcm[here], speech[start : start + BLOCK_WINDOWS])):
            take(stretch)
    for stretch in cutter.finish():
        take(stretch)
    assert open_part == b""
    return parts


def cuts_of(speech: bytes, pcm: bytes | None = None) -> list[int]:
    """Before which windows the parts begin, but for the first."""
    lengths = [len(part) // WINDOW_BYTES for part in parts_of(speech, pcm)]
    return [sum(lengths[: index + 1]) for index in range(len(lengths) - 1)]


def test_what_fits_is_not_cut() -> None:
    assert cuts_of(bytes([SPOKEN]) * MAX) == []


def test_a_cut_is_in_the_middle_of_the_longest_pause_that_is_near() -> None:
    speech = bytearray([SPOKEN]) * (MAX + 1_000)
    speech[500:900] = bytes(400)  # longer, and too early
    speech[3_000:3_040] = bytes(40)
    speech[3_500:3_520] = bytes(20)
    assert cuts_of(bytes(speech)) == [3_020]


def test_a_pause_at_the_very_end_of_a_part_is_not_taken() -> None:
    speech = bytearray([SPOKEN]) * (MAX + 1_000)
    speech[MAX - TAIL :] = bytes(len(speech) - MAX + TAIL)
    speech[3_000:3_002] = bytes(2)
    assert cuts_of(bytes(speech)) == [3_001]


def test_where_nobody_pauses_it_is_cut_where_it_is_least_like_speech_then_quietest() -> None:
    speech = bytearray([SPOKEN]) * (MAX + 100)
    pcm = bytearray(b"\x00\x40" * (len(speech) * WINDOW_SAMPLES))
    pcm[3_100 * WINDOW_BYTES : 3_101 * WINDOW_BYTES] = bytes(WINDOW_BYTES)
    assert cuts_of(bytes(speech), bytes(pcm)) == [3_100]
    speech[3_300] = 140
    assert cuts_of(bytes(speech), bytes(pcm)) == [3_300]


def test_a_recording_without_speech_is_cut_too() -> None:
    lengths = [len(part) // WINDOW_BYTES for part in parts_of(bytes(3 * MAX))]
    assert all(MAX - SEARCHED <= length <= MAX for length in lengths[:-1])


@pytest.mark.parametrize("more", [1, 2, TAIL, 5_000])
def test_what_is_left_is_long_enough_to_be_heard(more: int) -> None:
    for value in (SPOKEN, SILENT):
        assert len(parts_of(bytes([value]) * (MAX + more))[-1]) >= TAIL * WINDOW_BYTES


def test_a_recording_may_end_within_a_window() -> None:
    speech = bytes(MAX + 7)
    pcm = recording(speech)[:-100]
    assert b"".join(parts_of(speech, pcm)) == pcm


@given(
    st.lists(st.tuples(st.sampled_from([0, 100, 127, 128, 255]), st.integers(1, 300)), min_size=1, max_size=12),
    st.sampled_from([64, 200, 1_000]),
)
def test_nothing_is_lost_and_no_part_is_too_long(runs: list[tuple[int, int]], max_windows: int) -> None:
    speech = b"".join(bytes([value]) * length for value, length in runs)
    pcm = recording(speech)
    parts = parts_of(speech, pcm, max_windows=max_windows)
    assert b"".join(parts) == pcm
    assert all(0 < len(part) <= max_windows * WINDOW_BYTES for part in parts)


def test_no_more_is_held_than_is_searched() -> None:
    cutter = PartCutter(MAX * WINDOW_SAMPLES)
    block = AudioBlock(bytes(BLOCK_WINDOWS * WINDOW_BYTES), bytes(BLOCK_WINDOWS))
    for _ in range(500):
        list(cutter.push(block))
        assert len(cutter._pcm) <= (SEARCHED + BLOCK_WINDOWS) * WINDOW_BYTES
