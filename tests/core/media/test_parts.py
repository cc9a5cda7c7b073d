"""A file's bytes are taken apart before FFmpeg sees them: tags, chains, and what has no header."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media import parts as module
from core.media.content import InMemory
from core.media.parts import MIN_GSM_FRAMES, Part, Window
from tests.core.media.sounds import encoded, id3

OGG = encoded("ogg", "libopus", 16_000, "mono", 0.5)
WEBM = encoded("webm", "libopus", 16_000, "mono", 0.5)
MP4 = encoded("mp4", "aac", 16_000, "mono", 0.5)
GSM = (b"\xd3" + bytes(32)) * MIN_GSM_FRAMES


def parts_of(data: bytes) -> list[Part]:
    return module.parts_of(InMemory(data))


def starts(data: bytes) -> list[int]:
    return [part.start for part in parts_of(data)]


@pytest.mark.parametrize("file", [OGG, WEBM, MP4, b"RIFF", b"", b"OggS", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp"])
def test_a_file_is_mostly_one_part(file: bytes) -> None:
    assert parts_of(file) == [Part(0, len(file))]


@pytest.mark.parametrize("file", [OGG, WEBM, MP4])
def test_a_chain_is_its_links(file: bytes) -> None:
    size = len(file)
    assert parts_of(file * 3) == [Part(0, size), Part(size, 2 * size), Part(2 * size, 3 * size)]


def test_a_tag_before_a_file_is_stepped_over_and_so_is_another() -> None:
    tag = id3(300)
    assert starts(tag + b"RIFF") == [len(tag)]
    assert starts(tag + id3(0) + OGG + OGG) == [len(tag) + 10, len(tag) + 10 + len(OGG)]


def test_the_footer_of_a_tag_is_part_of_it() -> None:
    with_footer = bytearray(id3(20))
    with_footer[5] = 0x10
    assert starts(bytes(with_footer) + bytes(10) + b"RIFF") == [40]


@pytest.mark.parametrize("at", [3, 6, 7, 8, 9])
def test_what_only_looks_like_a_tag_is_left_alone(at: int) -> None:
    tag = bytearray(id3(300))
    tag[at] = 0xFF
    assert starts(bytes(tag) + b"RIFF") == [0]


def test_a_tag_that_claims_the_whole_file_is_left_alone() -> None:
    assert starts(id3(300)) == [0]
    assert starts(id3(300)[:200]) == [0]
    assert starts(id3(300)[:8]) == [0]


def test_frames_of_gsm_are_known_by_their_first_bits() -> None:
    assert parts_of(GSM) == [Part(0, len(GSM), "gsm")]
    assert parts_of(GSM + b"\xd0 cut off")[0].container == "gsm"


@pytest.mark.parametrize("frame", range(MIN_GSM_FRAMES))
def test_one_wrong_frame_is_no_gsm(frame: int) -> None:
    file = bytearray(GSM)
    file[33 * frame] ^= 0x10
    assert parts_of(bytes(file))[0].container is None


def test_too_few_frames_of_gsm_prove_nothing() -> None:
    assert parts_of(GSM[33:])[0].container is None


def test_a_link_that_broke_off_in_its_headers_is_left_out() -> None:
    assert starts(OGG + OGG[:100]) == [0]
    assert starts(OGG[:100] + OGG) == [100]


def test_links_are_found_behind_damage() -> None:
    damaged = OGG[:2_000] + bytes(100) + OGG[2_100:]
    assert starts(damaged + OGG) == [0, len(OGG)]


def test_streams_that_begin_together_are_one_link() -> None:
    film = encoded("ogv", "vorbis", 48_000, "stereo", 0.5, video="libvpx")
    assert starts(film + film) == [0, len(film)]


@given(
    st.lists(st.sampled_from([OGG[:300], WEBM[:300], MP4[:50], id3(3), GSM, b"OggS", bytes(40), b"\xff"]), max_size=9)
)
def test_parts_follow_one_another_to_the_end(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    parts = parts_of(data)
    assert parts
    assert parts[-1].end == len(data)
    assert all(part.start <= part.end for part in parts)
    assert all(before.end == after.start for before, after in pairwise(parts))


@given(st.binary(max_size=60), st.data())
def test_a_window_reads_like_a_file_of_its_own(data: bytes, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    window, file = Window(InMemory(data), Part(start, end)), io.BytesIO(data[start:end])
    for _ in range(draw.draw(st.integers(0, 6))):
        if draw.draw(st.booleans()):
            size = draw.draw(st.integers(-1, 70))
            assert window.read(size) == file.read(size)
        else:
            offset, whence = draw.draw(st.integers(0, 70)), draw.draw(st.sampled_from([0, 1, 2]))
            assert window.seek(offset, whence) == file.seek(offset, whence)
        assert window.tell() == file.tell()
        assert window.unread_bytes == max(0, end - start - file.tell())
