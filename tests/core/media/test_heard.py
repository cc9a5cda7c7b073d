"""When, where and how much is heard of real files: gaps, tracks, channels, chains, tags and damage."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from core.media.decode import AudioDecoder
from core.media.media import FRAGMENT, MANY_TRACKS, MAX_TRACKS
from core.media.types import WINDOW_SAMPLES, AudioBlock, RawSamples
from core.transcript.faults import Fault, FaultKind
from tests.core.media.sounds import (
    TONE_HZ,
    edited,
    encoded,
    id3,
    kennedy,
    loudest_hz,
    opus_of,
    retimed,
    tone,
    tracks,
    video_without_audio,
    wav,
)
from tests.core.media.test_decode import BYTES_PER_S, FILES, heard, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(max_files=2)
    await decoder.start()
    yield decoder
    await decoder.close()


# --- when it is heard ----------------------------------------------------------------------------------------------

GAP_S = 20
PAUSE_S = 4.4
"""A pause in Kennedy's sentence."""


def speech_s(audio: AudioBlock, begin_s: float, end_s: float) -> float:
    """How long somebody speaks between two times."""
    per_s = 16_000 / WINDOW_SAMPLES
    return sum(window >= 128 for window in audio.speech[round(begin_s * per_s) : round(end_s * per_s)]) / per_s


def behind_the_pause(time_s: float) -> float:
    """What moves everything behind the pause away from what is before it."""
    return GAP_S * (time_s > PAUSE_S)


GAPS = {
    "mp4": ("mp4", "aac"),
    "mov": ("mov", "alac"),
    "mkv": ("matroska", "flac"),
    "webm": ("webm", "libopus"),
    "ogg": ("ogg", "libopus"),
    "ts": ("mpegts", "aac"),
    "wma": ("asf", "wmav2"),
    "flv": ("flv", "aac"),
}


@pytest.mark.parametrize("name", GAPS)
async def test_a_gap_in_the_times_of_a_file_is_silence_of_its_length(decoder: AudioDecoder, name: str) -> None:
    container, codec = GAPS[name]
    rate_hz = 44_100 if container in ("flv", "asf") else 16_000
    file = retimed(tracks(container, (codec, kennedy(rate_hz)), rate_hz=rate_hz), container, behind_the_pause)
    audio = await heard(decoder, file)
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(11 + GAP_S, abs=0.1)
    assert speech_s(audio, 0, PAUSE_S) > 1
    assert speech_s(audio, PAUSE_S + 0.5, PAUSE_S + GAP_S) == 0
    assert speech_s(audio, PAUSE_S + GAP_S, 40) > 3


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "flv"])
async def test_a_track_that_begins_late_is_heard_late(decoder: AudioDecoder, container: str, film: bool) -> None:
    video = {"flv": "flv1"}.get(container, "mpeg4") if film else None
    codec = "libmp3lame" if container == "flv" else "aac"
    file = retimed(encoded(container, codec, 44_100, "mono", 2.0, video=video), container, lambda _: 5.0)
    audio = await heard(decoder, file)
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(7.0, abs=0.1)
    assert audio.pcm[: 5 * BYTES_PER_S - 3_200].count(0) == 5 * BYTES_PER_S - 3_200
    assert loudest_hz(audio.pcm[5 * BYTES_PER_S :]) == pytest.approx(TONE_HZ, abs=2)


@pytest.mark.parametrize("container", ["mpegts", "mpeg"])
async def test_where_clocks_run_on_a_track_is_as_late_as_it_is_behind_the_first(
    decoder: AudioDecoder, container: str
) -> None:
    file = encoded(container, "mp2", 48_000, "stereo", 2.0, video="mpeg2video")
    assert len((await heard(decoder, retimed(file, container, lambda _: 0.0))).pcm) < 2.2 * BYTES_PER_S
    assert 6.8 < len((await heard(decoder, retimed(file, container, lambda _: 5.0))).pcm) / BYTES_PER_S < 7.2


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "mpegts"])
async def test_a_piece_cut_out_of_a_longer_file_begins_with_itself(decoder: AudioDecoder, container: str) -> None:
    codec = "libopus" if container == "webm" else "aac"
    file = retimed(encoded(container, codec, 48_000, "mono", 2.0), container, lambda _: 600.0)
    assert len((await heard(decoder, file)).pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.1)


async def test_times_that_waver_put_no_silence_in(decoder: AudioDecoder) -> None:
    file = tracks("matroska", ("flac", kennedy()))
    steady = await heard(decoder, file)
    wavering = retimed(file, "matroska", lambda time_s: 0.04 * (int(time_s * 7) % 2))
    assert (await heard(decoder, wavering)).pcm == steady.pcm


async def test_damage_costs_what_is_damaged_and_moves_nothing(decoder: AudioDecoder) -> None:
    file = bytearray(tracks("ogg", ("libopus", kennedy())))
    middle = len(file) // 2
    file[middle : middle + 100] = bytes(100)
    audio = await heard(decoder, file)
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(11.0, abs=0.1)
    assert speech_s(audio, 8, 11) > 1


async def test_silence_that_a_timestamp_claims_counts_as_audio() -> None:
    decoder = AudioDecoder(max_audio_s=60)
    file = encoded("matroska", "aac", 16_000, "mono", 4.0)
    try:
        for gap_s in (57.0, 3_600.0, 1e6):
            late = retimed(file, "matroska", lambda time_s, gap_s=gap_s: gap_s * (time_s > 2))  # type: ignore[misc]
            error = await refusal(decoder, late)
            assert (error.kind, error.numbers) == (FaultKind.TOO_LONG, {"limit_s": 60})
        fits = retimed(file, "matroska", lambda time_s: 55.0 * (time_s > 2))
        assert len((await heard(decoder, fits)).pcm) / BYTES_PER_S == pytest.approx(59.0, abs=0.1)
    finally:
        await decoder.close()


@pytest.mark.parametrize("start", [1 << 62, (1 << 63) - 1, 1 << 40])
async def test_an_edit_list_that_claims_ages_is_audio_or_refused(decoder: AudioDecoder, start: int) -> None:
    file = edited(encoded("mp4", "aac", 16_000, "mono", 2.0), (start, -1), (32_000, 0))
    try:
        assert len((await heard(decoder, file)).pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.2)
    except Fault as error:
        assert error.kind in (FaultKind.UNREADABLE, FaultKind.TOO_LONG)  # noqa: PT017


async def test_an_edit_list_that_begins_late_in_the_media_leaves_out_what_is_before(decoder: AudioDecoder) -> None:
    file = edited(encoded("mp4", "aac", 16_000, "mono", 4.0), (2_000, 32_000))
    assert len((await heard(decoder, file)).pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.1)


# --- which track and which channel is heard ------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "mpegts"])
async def test_a_silent_first_track_hides_no_other(decoder: AudioDecoder, container: str) -> None:
    silence = np.zeros_like(kennedy())
    audio = await heard(decoder, tracks(container, ("aac", silence), ("aac", silence), ("aac", kennedy())))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(11.0, abs=0.1)
    assert speech_s(audio, 0, 11) > 5


async def test_a_first_track_of_tones_hides_no_speech(decoder: AudioDecoder) -> None:
    audio = await heard(decoder, tracks("mp4", ("aac", tone(11.0)), ("aac", kennedy())))
    assert speech_s(audio, 0, 11) > 5


async def test_of_two_tracks_that_speak_the_first_is_heard(decoder: AudioDecoder) -> None:
    first, second = kennedy(), kennedy()[::-1].copy()
    audio = await heard(decoder, tracks("matroska", ("flac", first), ("flac", second)))
    assert audio.pcm == first.tobytes()


@pytest.mark.parametrize("codec", ["tta", "wavpack"])
async def test_a_first_track_in_a_codec_that_is_not_served_refuses_no_file(decoder: AudioDecoder, codec: str) -> None:
    audio = await heard(decoder, tracks("matroska", (codec, tone(11.0)), ("aac", kennedy())))
    assert speech_s(audio, 0, 11) > 5


async def test_hundreds_of_tracks_are_no_trouble(decoder: AudioDecoder) -> None:
    silence = np.zeros_like(kennedy())
    audio = await heard(decoder, tracks("matroska", ("aac", kennedy()), *[("aac", silence)] * 299))
    assert speech_s(audio, 0, 11) > 5
    most = [("aac", silence)] * (MAX_TRACKS - 1)
    rest = [("aac", silence)] * (MANY_TRACKS - MAX_TRACKS)
    audio = await heard(decoder, tracks("matroska", *most, ("aac", kennedy()), *rest))
    assert speech_s(audio, 0, 11) > 5


async def test_opposite_channels_are_heard(decoder: AudioDecoder) -> None:
    speech = kennedy()
    plain = await heard(decoder, wav(speech.tobytes()))
    opposite = np.stack([speech, -speech], axis=1)
    assert await heard(decoder, wav(opposite.tobytes(), channels=2)) == plain
    assert await heard(decoder, opposite.tobytes(), RawSamples(16_000, channels=2)) == plain
    lossy = await heard(decoder, opus_of(opposite))
    assert speech_s(lossy, 0, 11) == pytest.approx(speech_s(plain, 0, 11), abs=0.5)


async def test_channels_that_are_opposite_in_a_part_are_heard_there(decoder: AudioDecoder) -> None:
    speech = kennedy()
    plain = await heard(decoder, wav(speech.tobytes()))
    turning = np.stack([speech, speech], axis=1)
    for begin_s in range(1, 11, 2):
        turning[begin_s * 16_000 : (begin_s + 1) * 16_000, 1] *= -1
    audio = await heard(decoder, wav(turning.tobytes(), channels=2))
    assert audio == plain


# --- chains, tags and forms without a header -----------------------------------------------------------------------

LINKS: dict[str, tuple[tuple[str, str, int, str], ...]] = {
    "ogg of other rates": (FILES["ogg, vorbis"], ("ogg", "vorbis", 22_050, "stereo")),
    "ogg of other channels": (FILES["opus"], ("ogg", "libopus", 48_000, "stereo")),
    "ogg of other codecs": (FILES["ogg, vorbis"], FILES["opus"], FILES["oga, flac"]),
    "ogg": (FILES["opus"],) * 3,
    "webm": (FILES["webm, opus"], FILES["webm, vorbis"], FILES["webm, opus mono"]),
    "mkv": (FILES["mkv"],) * 5,
    "mp4": (FILES["mp4"], FILES["m4a"]),
    "ts": (FILES["ts"],) * 2,
    "mp3": (FILES["mp3"], FILES["mp3, 8 kHz"]),
    "aac": (("adts", "aac", 16_000, "mono"), ("adts", "aac", 44_100, "stereo")),
}


@pytest.mark.parametrize("name", LINKS)
async def test_a_chain_is_heard_link_by_link(decoder: AudioDecoder, name: str) -> None:
    links = LINKS[name]
    audio = await heard(decoder, b"".join(encoded(*link) for link in links))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(2.0 * len(links), abs=0.08 * len(links))
    last = audio.pcm[-2 * BYTES_PER_S :]
    assert loudest_hz(last) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(np.frombuffer(last, "<i2").astype(np.int32)).max() > 8_000


async def test_a_gap_in_a_later_link_is_heard_in_its_place(decoder: AudioDecoder) -> None:
    first = encoded("webm", "libopus", 16_000, "mono", 2.0)
    second = retimed(encoded("webm", "libopus", 16_000, "mono", 4.0), "webm", lambda time_s: 3.0 + 10 * (time_s > 2))
    audio = await heard(decoder, first + second)
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(16.0, abs=0.1)


async def test_a_thousand_links_are_no_trouble(decoder: AudioDecoder) -> None:
    links = (encoded("ogg", "libopus", 16_000, "mono", 0.2) + encoded("ogg", "vorbis", 44_100, "stereo", 0.2)) * 500
    assert len((await heard(decoder, links)).pcm) / BYTES_PER_S == pytest.approx(200, rel=0.05)


async def test_a_chain_that_breaks_off_is_heard_as_far_as_it_goes(decoder: AudioDecoder) -> None:
    link = encoded(*FILES["opus"])
    for size in (100, len(link) // 2):
        audio = await heard(decoder, link + link[:size])
        assert 1.9 < len(audio.pcm) / BYTES_PER_S < 3.5


async def test_a_link_that_cannot_be_read_is_not_passed_over(decoder: AudioDecoder) -> None:
    link = encoded(*FILES["webm, opus"])
    broken = link[:60] + os.urandom(300) + link[360:]
    assert (await refusal(decoder, link + broken + link)).kind is FaultKind.UNREADABLE


async def test_a_link_of_pictures_is_passed_over(decoder: AudioDecoder) -> None:
    sound = encoded(*FILES["mp4"])
    assert 1.9 < len((await heard(decoder, video_without_audio() + sound)).pcm) / BYTES_PER_S < 2.1
    assert (await refusal(decoder, video_without_audio() * 2)).kind is FaultKind.UNREADABLE


@pytest.mark.parametrize("size", [0, 1_000, 3_000_000])
@pytest.mark.parametrize(
    "name", ["wav", "aiff", "amr", "flac", "mp3", "aac", "mp4", "ogg, vorbis", "webm, opus", "wma"]
)
async def test_a_tag_before_a_file_changes_nothing(decoder: AudioDecoder, name: str, size: int) -> None:
    file = encoded(*FILES[name])
    assert (await heard(decoder, id3(size) + file)).pcm == (await heard(decoder, file)).pcm


# --- damage --------------------------------------------------------------------------------------------------------

FRAGMENTED = (("movflags", "frag_keyframe+empty_moov"), ("frag_duration", "1000000"))


def fragmented(video: str | None = None) -> bytes:
    return encoded("mp4", "aac", 48_000, "stereo", 20.0, video=video, form=FRAGMENTED)


@pytest.mark.parametrize("video", [None, "mpeg4"])
async def test_a_damaged_fragment_is_not_taken_for_the_end(decoder: AudioDecoder, video: str | None) -> None:
    file = bytearray(fragmented(video))
    assert 19.9 < len((await heard(decoder, file)).pcm) / BYTES_PER_S < 20.1
    tenth = [found.start() for found in re.finditer(b"moof", file)][9]
    file[tenth - 4 : tenth] = b"\x7f" * 4  # its length: FFmpeg passes over all that is left
    assert (await refusal(decoder, bytes(file))).kind is FaultKind.UNREADABLE


@pytest.mark.parametrize("video", [None, "mpeg4"])
@pytest.mark.parametrize("share", [0.3, 0.42, 0.5, 0.61, 0.77])
async def test_fragments_that_break_off_are_heard_as_far_as_they_go(
    decoder: AudioDecoder, video: str | None, share: float
) -> None:
    file = fragmented(video)
    contents = [content.start() for content in re.finditer(b"mdat", file)]
    rest = file[: contents[round(len(contents) * share)] + 100]
    of_sound = re.compile(FRAGMENT % (b"\0\0\0\2" if video else b"\0\0\0\1") + b"(.{4})", re.DOTALL)
    begun_s = sum(int.from_bytes(frames, "big") for frames in of_sound.findall(rest)) * 1_024 / 48_000
    assert begun_s > 5
    assert begun_s - 1.1 <= len((await heard(decoder, rest)).pcm) / BYTES_PER_S <= begun_s + 0.1


@pytest.mark.parametrize("name", ["wav, 24 bit", "mp3", "aiff", "amr", "ac3", "aac"])
async def test_a_short_file_that_breaks_off_in_a_sample_is_heard(decoder: AudioDecoder, name: str) -> None:
    file = encoded(*FILES[name], duration_s=0.4)
    assert (await heard(decoder, file[:-7])).pcm


async def test_a_file_whose_whole_end_is_damage_is_refused(decoder: AudioDecoder) -> None:
    file = encoded("mpegts", "aac", 48_000, "stereo", 4.0)
    other = encoded("mpegts", "mp2", 48_000, "stereo", 4.0)  # at the place of the first, and in another codec
    assert (await refusal(decoder, file + other)).kind is FaultKind.UNREADABLE


async def test_a_file_a_third_of_which_is_damage_is_refused(decoder: AudioDecoder) -> None:
    file = bytearray(encoded("wav", "adpcm_ms", 22_050, "mono", 20.0))
    del file[len(file) // 2 : len(file) // 2 + 1_000]  # no later packet begins where it should
    assert (await refusal(decoder, bytes(file))).kind is FaultKind.UNREADABLE
