"""What is encoded is what was decoded, to the bit."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from core.media.decode import MAX_PART_S
from core.media.encoding import FlacEncoder
from core.media.frames import BLOCK_BYTES, MAX_PIECE_BYTES
from core.media.types import MAX_FILE_BYTES
from tests.core.media.sounds import kennedy


def pieces_of(pcm: bytes, *, size: int = BLOCK_BYTES) -> list[bytes]:
    encoder = FlacEncoder()
    pieces = [encoder.push(pcm[start : start + size]) for start in range(0, len(pcm), size)]
    assert encoder.samples == len(pcm) // 2
    return [*pieces, encoder.end()]


def decoded(flac: bytes) -> bytes:
    with av.open(io.BytesIO(flac), "r", format="flac") as container:
        return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in container.decode(audio=0))


def noise(seconds: int) -> bytes:
    return np.random.default_rng(5).integers(-32_768, 32_767, 16_000 * seconds).astype("<i2").tobytes()


@pytest.mark.parametrize("size", [2, 1_000, BLOCK_BYTES])
def test_every_sample_comes_back(size: int) -> None:
    pcm = kennedy().tobytes() if size > 2 else kennedy().tobytes()[:4_000]
    assert decoded(b"".join(pieces_of(pcm, size=size))) == pcm


def test_a_file_of_one_sample_comes_back() -> None:
    assert decoded(b"".join(pieces_of(b"\x01\x02"))) == b"\x01\x02"


def test_what_is_worst_to_compress_fits_into_an_upload_and_into_a_piece() -> None:
    pieces = pieces_of(noise(60))
    assert sum(map(len, pieces)) * MAX_PART_S / 60 < MAX_FILE_BYTES
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES


def test_speech_takes_less_room_than_its_samples() -> None:
    pcm = kennedy().tobytes()
    assert sum(map(len, pieces_of(pcm))) < 0.7 * len(pcm)
