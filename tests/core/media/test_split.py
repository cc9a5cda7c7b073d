"""A recording that may be larger than memory is cut into parts in the sandbox: real files, real processes."""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio

from core.errors import BackendError
from core.media import decode as module
from core.media.content import READ_BYTES
from core.media.decode import AudioDecoder, KeptFile
from core.media.forkserver import Forked
from core.media.frames import FRAME, MAX_PIECE_BYTES, Kind
from core.media.types import WHOLE, Excerpt, PartPiece
from core.transcript.faults import Fault, FaultKind
from tests.core.media.kept import Endless, Kept
from tests.core.media.sounds import encoded, kennedy, opus, tone, tracks, video_without_audio, wav
from tests.core.media.test_decode import FILES, decoders_of, of
from tests.places import ROOT
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECORDINGS = ROOT / "tests" / "core" / "media" / "recordings"
TEN_HOURS_S = 36_000
GIB = 1 << 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(max_audio_s=TEN_HOURS_S, max_files=2)
    await decoder.start()
    yield decoder
    await decoder.close()


def pcm_of(flac: bytes) -> bytes:
    with av.open(io.BytesIO(flac), "r", format="flac") as container:
        return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in container.decode(audio=0))


async def parts_of(
    decoder: AudioDecoder, file: KeptFile, *, part_s: int = 600, excerpt: Excerpt = WHOLE
) -> list[bytes]:
    """The parts as PCM, each as long as was said."""
    parts, flac = [], b""
    async with aclosing(decoder.split(file, part_s=part_s, excerpt=excerpt)) as pieces:
        async for piece in pieces:
            flac += piece.flac
            if piece.samples:
                parts.append(pcm_of(flac))
                assert len(parts[-1]) == 2 * piece.samples
                flac = b""
    assert flac == b""
    return parts


async def whole_of(decoder: AudioDecoder, file: bytes) -> bytes:
    async with aclosing(decoder.decode(file)) as blocks:
        return b"".join([block.pcm async for block in blocks])


async def refusal(decoder: AudioDecoder, file: KeptFile) -> FaultKind:
    with pytest.raises(Fault) as caught:
        await parts_of(decoder, file)
    return caught.value.kind


@pytest.mark.parametrize("form", FILES)
async def test_parts_are_what_is_heard_of_the_whole_file(decoder: AudioDecoder, form: str) -> None:
    file = encoded(*FILES[form])
    assert b"".join(await parts_of(decoder, Kept(file))) == await whole_of(decoder, file)


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.*")), ids=lambda path: path.name)
async def test_recordings_of_others_too(decoder: AudioDecoder, path: Path) -> None:
    if path.suffix == ".md":
        return
    file = path.read_bytes()
    assert b"".join(await parts_of(decoder, Kept(file))) == await whole_of(decoder, file)


async def test_a_long_recording_is_cut_between_its_sentences(decoder: AudioDecoder) -> None:
    pause = np.zeros(16_000, np.int16)
    pcm = np.concatenate([np.concatenate([kennedy(), pause]) for _ in range(6)]).tobytes()
    parts = await parts_of(decoder, Kept(wav(pcm)), part_s=15)
    assert b"".join(parts) == pcm
    for end in np.cumsum([len(part) for part in parts])[:-1]:
        around = np.frombuffer(pcm[int(end) - 3_200 : int(end) + 3_200], "<i2").astype(float)
        assert np.sqrt(np.mean(around**2)) < 800  # a twentieth of the loudest words


@pytest.mark.parametrize("file", [opus(kennedy().tobytes()) * 3, encoded("webm", "libopus", 16_000, "mono", 1.0) * 3])
async def test_a_chain_is_heard_whole(decoder: AudioDecoder, file: bytes) -> None:
    assert b"".join(await parts_of(decoder, Kept(file))) == await whole_of(decoder, file)


async def test_of_several_tracks_the_one_is_heard_in_which_somebody_speaks(decoder: AudioDecoder) -> None:
    voice = np.tile(kennedy(), 3)
    file = tracks("matroska", ("flac", np.zeros_like(voice)), ("flac", voice))
    assert b"".join(await parts_of(decoder, Kept(file))) == voice.tobytes()


async def test_an_index_behind_the_sound_is_found_without_reading_what_is_between(decoder: AudioDecoder) -> None:
    file = encoded("mp4", "aac", 16_000, "mono", 2.0)
    at = file.index(b"mdat") - 4
    assert file.index(b"moov") > at  # as phones write it
    padding = 64 << 20
    free = struct.pack(">I4s", padding, b"free") + bytes(padding - 8)
    moved = re.sub(  # the sound is now `padding` later
        rb"(stco.{8})(.{4})",
        lambda found: found[1] + struct.pack(">I", struct.unpack(">I", found[2])[0] + padding),
        file,
        count=1,
        flags=re.DOTALL,
    )
    kept = Kept(moved[:at] + free + moved[at:])
    assert b"".join(await parts_of(decoder, kept)) == await whole_of(decoder, file)
    assert len(kept.reads) * READ_BYTES < padding / 10


async def test_five_gigabytes_that_are_a_header_are_no_recording(decoder: AudioDecoder) -> None:
    claimed = wav(b"", claimed_bytes=0xFFFF_FFFF)
    assert await refusal(decoder, Kept(claimed)) is FaultKind.TOO_SHORT


async def test_a_file_of_five_gigabytes_is_heard_as_far_as_ten_hours_go(decoder: AudioDecoder) -> None:
    """8 kHz in 8 bits would be 186 hours; it is refused as soon as it is too long, and little of it was read."""
    brief = AudioDecoder(max_audio_s=60)
    file = Endless(wav(b"", claimed_bytes=0xFFFF_FFFF), 5 * GIB, lambda _, length: bytes(length))
    try:
        assert await refusal(brief, file) is FaultKind.TOO_LONG
    finally:
        await brief.close()
    assert file.read_bytes < 8 << 20


@pytest.mark.parametrize("claimed", [36 + 2 * 32_000, 0xFFFF_FFFF])
async def test_what_lies_behind_four_gigabytes_is_found(decoder: AudioDecoder, claimed: int) -> None:
    """A chunk that FFmpeg steps over is 4.2 GB long, and the sound is behind it."""
    sound = wav(tone(2.0).tobytes(), claimed_bytes=2 * 32_000)
    head, body = sound[:36], sound[36:]
    gap = 0xFFFF_FF00
    junk = b"JUNK" + struct.pack("<I", gap)
    size = len(head) + len(junk) + gap + len(body)
    place = len(head) + len(junk) + gap

    def filling(start: int, length: int) -> bytes:
        data = bytearray(length)
        overlap = body[max(start - place, 0) : max(start + length - place, 0)]
        data[max(place - start, 0) : max(place - start, 0) + len(overlap)] = overlap
        return bytes(data)

    file = Endless(head + junk, size, filling)
    assert b"".join(await parts_of(decoder, file)) == tone(2.0).tobytes()
    assert file.read_bytes < 16 << 20


# --- what attackers would send -------------------------------------------------------------------------------------


def _flipped(file: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(file)
    for _ in range(40):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"\0",
    "rubbish": lambda: random.Random(1).randbytes(300_000),
    "a playlist": lambda: b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "a page": lambda: b"<!doctype html><title>Sign in</title>" * 100,
    "a film without sound": video_without_audio,
    "magic alone": lambda: b"OggS" * 50_000,
    "an EBML header and nothing": lambda: b"\x1a\x45\xdf\xa3\x8b\x42\x82\x84webm" * 1_000,
    "boxes of boxes": lambda: b"\0\0\0\x08ftyp" + b"\0\0\0\x08moov" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_recording_is_refused(decoder: AudioDecoder, name: str) -> None:
    assert await refusal(decoder, Kept(HOSTILE[name]())) is FaultKind.UNREADABLE


async def test_an_empty_file_is_too_short(decoder: AudioDecoder) -> None:
    assert await refusal(decoder, Kept(b"")) is FaultKind.TOO_SHORT


@pytest.mark.parametrize("form", ["mp3", "mp4", "ogg, vorbis", "webm, opus", "flac"])
async def test_damage_is_heard_or_refused_and_never_ours(decoder: AudioDecoder, form: str) -> None:
    file = encoded(*FILES[form])
    for seed in range(5):
        try:
            await parts_of(decoder, Kept(_flipped(file, seed)))
        except Fault as fault:
            assert fault.kind in (FaultKind.UNREADABLE, FaultKind.TOO_SHORT)  # noqa: PT017 - either is right
        cut = file[: len(file) * (seed + 1) // 7]
        try:
            await parts_of(decoder, Kept(cut))
        except Fault as fault:
            assert fault.kind in (FaultKind.UNREADABLE, FaultKind.TOO_SHORT)  # noqa: PT017


class Played:
    """The other end of a socket, played by the test: a decoder that its file has taken over."""

    def __init__(self, decoder: AudioDecoder, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
        self._said = said
        read = Forked.read

        async def lie(forked: Forked, size: int) -> bytes:
            if not self._said:
                return await read(forked, size)
            answer, self._said = self._said[:size], self._said[size:]
            return answer

        monkeypatch.setattr(Forked, "read", lie)


LIES = {
    "a block beyond the end": FRAME.pack(Kind.WANT, 1, 0),
    "an empty piece": FRAME.pack(Kind.PIECE, 0, 0),
    "an empty part": FRAME.pack(Kind.PIECE, 0, 5),
    "a huge piece": FRAME.pack(Kind.PIECE, MAX_PIECE_BYTES + 1, 0),
    "a part longer than was asked for": FRAME.pack(Kind.PIECE, 10, 601 * 16_000),
    "samples": FRAME.pack(Kind.AUDIO, 1_024, 1),
    "an end within a part": FRAME.pack(Kind.PIECE, 1, 0) + b"f" + FRAME.pack(Kind.DONE, 0, 0),
    "no kind": FRAME.pack(99, 0, 0),
}


@pytest.mark.parametrize("name", LIES)
async def test_no_number_of_a_decoder_is_believed(
    decoder: AudioDecoder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Played(decoder, monkeypatch, LIES[name])
    assert await refusal(decoder, Kept(wav(tone(1.0).tobytes()))) is FaultKind.UNREADABLE


@pytest.mark.parametrize("kind", [Kind.WANT, Kind.PIECE])
async def test_a_decoder_that_was_given_a_file_may_say_none_of_it(
    decoder: AudioDecoder, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    Played(decoder, monkeypatch, FRAME.pack(kind, 0, 0))
    with pytest.raises(Fault) as caught:
        await whole_of(decoder, wav(tone(1.0).tobytes()))
    assert caught.value.kind is FaultKind.UNREADABLE


async def test_a_decoder_that_reads_for_ever_is_ended(decoder: AudioDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW_READS", 3)
    monkeypatch.setattr(module, "READS", 0)
    file = Kept(wav(bytes(READ_BYTES * 8)))
    assert await refusal(decoder, file) is FaultKind.UNREADABLE
    assert len(file.reads) == 3


async def test_a_part_that_is_larger_than_an_engine_takes_is_refused(
    decoder: AudioDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 50_000)
    assert await refusal(decoder, Kept(wav(np.tile(kennedy(), 4).tobytes()))) is FaultKind.UNREADABLE


# --- what becomes of the file and of the process -------------------------------------------------------------------


class Broken(Kept):
    async def read(self, start: int, length: int) -> bytes:
        raise LookupError("not here")


class Shrunk(Kept):
    async def read(self, start: int, length: int) -> bytes:
        return (await super().read(start, length))[:-1]


async def test_what_reading_raises_comes_out(decoder: AudioDecoder) -> None:
    with pytest.raises(LookupError):
        await parts_of(decoder, Broken(wav(tone(1.0).tobytes())))
    await until(lambda: not decoders_of(decoder))


async def test_a_file_that_became_shorter_is_no_fault_of_the_file(decoder: AudioDecoder) -> None:
    with pytest.raises(BackendError):
        await parts_of(decoder, Shrunk(wav(tone(1.0).tobytes())))


async def test_whoever_loses_interest_ends_the_decoder(decoder: AudioDecoder) -> None:
    pieces = decoder.split(Kept(wav(bytes(32_000 * 600))), part_s=60)
    assert isinstance(await anext(pieces), PartPiece)
    assert decoders_of(decoder)
    await pieces.aclose()
    await until(lambda: not decoders_of(decoder))


@pytest.mark.slow
async def test_the_decoder_of_a_long_recording_holds_what_that_of_a_short_one_holds(decoder: AudioDecoder) -> None:
    held_kib: list[int] = []

    class Watched(Kept):
        async def read(self, start: int, length: int) -> bytes:
            """The decoder waits for what it asked for meanwhile."""
            (pid,) = decoders_of(decoder)
            held_kib.extend(map(int, re.findall(r"RssAnon:\s+(\d+) kB", of(pid, "status"))))
            return await super().read(start, length)

    pcm = np.tile(kennedy(), 100).tobytes()  # 18 minutes
    assert await parts_of(decoder, Watched(wav(pcm)), part_s=120)
    assert len(held_kib) > 30
    half = len(held_kib) // 2  # it rises and falls within each stretch in which voices are looked for
    growth_kib = max(held_kib[half:]) - max(held_kib[:half])
    assert growth_kib < len(pcm) / 1024 / 4, held_kib  # by half of it, if it were held


@pytest.mark.parametrize(
    ("start_ms", "end_ms"), [(0, 3_000), (1_500, None), (2_001, 2_500), (5_000, 6_000), (0, 99_000)]
)
async def test_a_stretch_is_exactly_those_samples(decoder: AudioDecoder, start_ms: int, end_ms: int | None) -> None:
    file = wav(np.arange(16_000 * 10, dtype=np.uint16).astype(np.int16).tobytes())
    whole = b"".join(await parts_of(decoder, Kept(file)))
    stretch = b"".join(await parts_of(decoder, Kept(file), excerpt=Excerpt(0, start_ms, end_ms)))
    assert stretch == whole[start_ms * 32 : None if end_ms is None else end_ms * 32]


async def test_a_stretch_behind_the_end_is_nothing(decoder: AudioDecoder) -> None:
    with pytest.raises(Fault) as caught:
        await parts_of(decoder, Kept(wav(bytes(32_000))), excerpt=Excerpt(start_ms=1_000))
    assert caught.value.kind is FaultKind.TOO_SHORT


async def test_a_channel_is_cut_alone(decoder: AudioDecoder) -> None:
    left, right = (np.full(16_000 * 3, value, np.int16) for value in (1_000, -2_000))
    file = Kept(wav(np.stack([left, right], axis=1).tobytes(), channels=2))
    assert b"".join(await parts_of(decoder, file, excerpt=Excerpt(1))) == left.tobytes()
    assert b"".join(await parts_of(decoder, file, excerpt=Excerpt(2, 1_000, 2_000))) == right[:16_000].tobytes()
