"""Uploaded files become PCM in sandboxed processes: real files, real processes, and what attackers would send."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import random
import re
import resource
import signal
import socket
import sys
import termios
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from core.errors import BackendError
from core.media import decode as module
from core.media import forkserver, turns
from core.media.decode import AudioDecoder, _Blocks, _Decoding
from core.media.forkserver import Forked, ForkServer
from core.media.frames import (
    BLOCK_BYTES,
    FRAME,
    SOCKET_BUFFER_BYTES,
    WINDOW_BYTES,
    Kind,
    Message,
    check_audio_frame,
)
from core.media.media import MAX_TRACKS
from core.media.types import MAX_FILE_BYTES, AudioBlock, RawSamples
from core.transcript.faults import AUDIO, Fault, FaultKind
from tests.conftest import Printed
from tests.core.media.sounds import (
    TONE_HZ,
    encoded,
    loudest_hz,
    tone,
    tracks,
    video_without_audio,
    wav,
)
from tests.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BYTES_PER_S = 32_000
LONG_S = 1_200
"""Longer than any socket buffer holds, and some seconds of work."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(max_files=2)
    await decoder.start()
    yield decoder
    await decoder.close()


@pytest.fixture(scope="module")
def long_file() -> bytes:
    return encoded("flac", "flac", 8_000, "mono", LONG_S, silent=True)


async def heard(
    decoder: AudioDecoder, file: bytes | bytearray | memoryview, raw: RawSamples | None = None
) -> AudioBlock:
    """A whole file as one block, each block of it checked."""
    blocks = []
    async with aclosing(decoder.decode(file, raw)) as stream:
        async for block in stream:
            check_audio_frame(len(block.pcm), len(block.speech))
            blocks.append(block)
    assert all(len(block.pcm) == BLOCK_BYTES for block in blocks[:-1])
    return AudioBlock(b"".join(block.pcm for block in blocks), b"".join(block.speech for block in blocks))


async def refusal(decoder: AudioDecoder, file: bytes, raw: RawSamples | None = None) -> Fault:
    with pytest.raises(Fault) as caught:
        await heard(decoder, file, raw)
    return caught.value


def server_of(decoder: AudioDecoder) -> ForkServer:
    assert decoder._server is not None
    return decoder._server


def decoders_of(decoder: AudioDecoder) -> list[int]:
    """The processes forked for files, from proc(5): the fourth field of `stat` is the parent."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name[1]) == server_of(decoder)._process.pid:
            found.append(int(stat.parent.name))
    return found


def of(pid: int, name: str) -> str:
    """A file of proc(5)."""
    return Path(f"/proc/{pid}/{name}").read_text()


def state_of(pid: int) -> str:
    """`R`, `S`, ... from proc(5), or `Z` too where nothing is left to reap."""
    try:
        return of(pid, "stat").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def runs(pid: int) -> bool:
    return state_of(pid) != "Z"


def descriptors_of(pid: int) -> dict[str, str]:
    return {fd.name: str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}


# --- what is understood --------------------------------------------------------------------------------------------

FILES = {
    # OpenAI's list: flac, mp3, mp4, mpeg, mpga, m4a, ogg (oga), wav, webm
    "flac": ("flac", "flac", 48_000, "stereo"),
    "mp3": ("mp3", "libmp3lame", 44_100, "stereo"),
    "mp4": ("mp4", "aac", 48_000, "stereo"),
    "mpeg": ("mpeg", "mp2", 48_000, "stereo"),
    "mpga": ("mp2", "mp2", 44_100, "mono"),
    "m4a": ("ipod", "aac", 44_100, "mono"),
    "ogg, vorbis": ("ogg", "vorbis", 44_100, "stereo"),
    "oga, flac": ("oga", "flac", 48_000, "mono"),
    "wav": ("wav", "pcm_s16le", 16_000, "mono"),
    "webm, opus": ("webm", "libopus", 48_000, "stereo"),
    "webm, vorbis": ("webm", "vorbis", 44_100, "stereo"),
    # and what people have
    "opus": ("opus", "libopus", 48_000, "mono"),
    "aac": ("adts", "aac", 44_100, "stereo"),
    "wma": ("asf", "wmav2", 44_100, "stereo"),
    "aiff": ("aiff", "pcm_s16be", 44_100, "stereo"),
    "caf": ("caf", "alac", 48_000, "stereo"),
    "mov": ("mov", "pcm_s16le", 48_000, "stereo"),
    "mkv": ("matroska", "aac", 48_000, "stereo"),
    "ts": ("mpegts", "mp2", 48_000, "stereo"),
    "flv": ("flv", "aac", 44_100, "mono"),
    "f4v": ("f4v", "aac", 44_100, "stereo"),
    "3gp, aac": ("3gp", "aac", 16_000, "mono"),
    "m4a, alac": ("ipod", "alac", 44_100, "stereo"),
    "eac3": ("eac3", "eac3", 48_000, "stereo"),
    "wma, version 1": ("asf", "wmav1", 44_100, "stereo"),
    "webm, opus mono": ("webm", "libopus", 48_000, "mono"),
    "wav, ima adpcm": ("wav", "adpcm_ima_wav", 22_050, "mono"),
    "wav, g.726": ("wav", "g726", 8_000, "mono"),
    "wav, 32 bit": ("wav", "pcm_s32le", 48_000, "stereo"),
    "avi": ("avi", "libmp3lame", 44_100, "stereo"),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, "mono"),
    "amr": ("amr", "libopencore_amrnb", 8_000, "mono"),
    "ac3": ("ac3", "ac3", 48_000, "stereo"),
    "au": ("au", "pcm_mulaw", 8_000, "mono"),
    "w64": ("w64", "pcm_s16le", 48_000, "stereo"),
    "wav, 8 bit": ("wav", "pcm_u8", 8_000, "mono"),
    "wav, 24 bit": ("wav", "pcm_s24le", 48_000, "stereo"),
    "wav, float": ("wav", "pcm_f32le", 44_100, "stereo"),
    "wav, double": ("wav", "pcm_f64le", 96_000, "stereo"),
    "wav, a-law": ("wav", "pcm_alaw", 8_000, "mono"),
    "wav, adpcm": ("wav", "adpcm_ms", 22_050, "mono"),
    "mp3, 8 kHz": ("mp3", "libmp3lame", 8_000, "mono"),
    "loas": ("latm", "aac", 48_000, "stereo"),
}


FILMS: dict[str, tuple[str, str, str, tuple[tuple[str, str], ...]]] = {
    # Container, codec of the sound, codec of the picture, options of the container.
    "mp4": ("mp4", "aac", "mpeg4", ()),
    "m4v": ("ipod", "aac", "mpeg4", ()),
    "mov": ("mov", "pcm_s16le", "mpeg4", ()),
    "avi": ("avi", "libmp3lame", "mpeg4", ()),
    "mkv": ("matroska", "flac", "mpeg4", ()),
    "webm": ("webm", "libopus", "libvpx", ()),
    "wmv": ("asf", "wmav2", "wmv2", ()),
    "flv": ("flv", "libmp3lame", "flv1", ()),
    "3gp": ("3gp", "aac", "mpeg4", ()),
    "mpeg": ("mpeg", "mp2", "mpeg1video", ()),
    "vob": ("vob", "ac3", "mpeg2video", ()),
    "ts": ("mpegts", "aac", "mpeg2video", ()),
    "mts": ("mpegts", "ac3", "mpeg2video", (("mpegts_m2ts_mode", "1"),)),
    "ogv": ("ogv", "vorbis", "libvpx", ()),
}

RECORDINGS = sorted(path for path in (Path(__file__).parent / "recordings").iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("name", FILMS)
async def test_the_sound_of_a_film_is_heard(decoder: AudioDecoder, name: str) -> None:
    container, codec, video, form = FILMS[name]
    audio = await heard(decoder, encoded(container, codec, 48_000, "stereo", video=video, form=form))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.1)
    assert loudest_hz(audio.pcm) == pytest.approx(TONE_HZ, abs=2)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
async def test_a_recording_that_cannot_be_made_here_is_heard(decoder: AudioDecoder, recording: Path) -> None:
    audio = await heard(decoder, recording.read_bytes())
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(0.5, abs=0.03)
    assert loudest_hz(audio.pcm) == pytest.approx(TONE_HZ, abs=3)


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_heard(decoder: AudioDecoder, name: str) -> None:
    audio = await heard(decoder, encoded(*FILES[name]))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.06)
    assert loudest_hz(audio.pcm) == pytest.approx(TONE_HZ, abs=2)
    assert len(audio.speech) == -(-len(audio.pcm) // WINDOW_BYTES)


@pytest.mark.parametrize("channels", range(1, 9))
async def test_every_channel_is_mixed_in(decoder: AudioDecoder, channels: int) -> None:
    audio = await heard(decoder, wav(tone(1.0, 16_000, channels).tobytes(), channels=channels))
    assert loudest_hz(audio.pcm) == TONE_HZ
    assert len(audio.pcm) == BYTES_PER_S


async def test_16_khz_mono_samples_come_out_as_they_went_in(decoder: AudioDecoder) -> None:
    pcm = tone(5.0001).tobytes()
    for kind in (bytes, bytearray, memoryview):
        assert (await heard(decoder, kind(wav(pcm)))).pcm == pcm


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 24_000, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("big_endian", [False, True])
async def test_raw_samples_are_heard_at_the_rate_they_declare(
    decoder: AudioDecoder, rate_hz: int, channels: int, big_endian: bool
) -> None:
    samples = tone(2.0, rate_hz, channels).astype(">i2" if big_endian else "<i2").tobytes()
    audio = await heard(decoder, samples, RawSamples(rate_hz, channels, big_endian))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.01)
    assert loudest_hz(audio.pcm) == pytest.approx(TONE_HZ, abs=1)


async def test_raw_16_khz_mono_samples_come_out_as_they_went_in(decoder: AudioDecoder) -> None:
    pcm = tone(5.0001).tobytes()
    assert (await heard(decoder, pcm, RawSamples(16_000))).pcm == pcm
    swapped = tone(5.0001).astype(">i2").tobytes()
    assert (await heard(decoder, swapped, RawSamples(16_000, big_endian=True))).pcm == pcm


async def test_raw_samples_are_never_taken_for_a_container(decoder: AudioDecoder) -> None:
    file = encoded(*FILES["mp3"])
    assert len((await heard(decoder, file, RawSamples(16_000))).pcm) == len(file) // 2 * 2


@pytest.mark.parametrize("left_over", [1, 2, 3])
async def test_a_part_of_a_raw_frame_at_the_end_is_left_out(decoder: AudioDecoder, left_over: int) -> None:
    audio = await heard(decoder, bytes(4 * 16_000 + left_over), RawSamples(16_000, channels=2))
    assert len(audio.pcm) == BYTES_PER_S


async def test_raw_samples_are_held_to_the_same_lengths(decoder: AudioDecoder) -> None:
    raw = RawSamples(16_000)
    assert (await refusal(decoder, bytes(2 * 1_599), raw)).kind is FaultKind.TOO_SHORT
    assert (await refusal(decoder, b"", raw)).kind is FaultKind.TOO_SHORT
    assert (await refusal(decoder, b"x", raw)).kind is FaultKind.TOO_SHORT
    strict = AudioDecoder(max_audio_s=4)
    try:
        assert (await refusal(strict, bytes(5 * BYTES_PER_S), raw)).kind is FaultKind.TOO_LONG
    finally:
        await strict.close()


async def test_a_chained_ogg_file_is_heard_to_the_end(decoder: AudioDecoder) -> None:
    audio = await heard(decoder, encoded(*FILES["ogg, vorbis"]) + encoded(*FILES["ogg, vorbis"]))
    assert len(audio.pcm) / BYTES_PER_S == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg, vorbis", "wav", "webm, opus", "ts", "aac"])
async def test_a_file_that_breaks_off_is_heard_as_far_as_it_goes(decoder: AudioDecoder, name: str) -> None:
    file = encoded(*FILES[name])
    audio = await heard(decoder, file[: len(file) * 3 // 4])
    assert 0.9 < len(audio.pcm) / BYTES_PER_S < 1.7


async def test_damage_in_the_middle_is_skipped(decoder: AudioDecoder) -> None:
    file = bytearray(encoded(*FILES["mp3"]))
    file[len(file) // 2 : len(file) // 2 + 500] = os.urandom(500)
    assert len((await heard(decoder, file)).pcm) / BYTES_PER_S == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("name", FILES)
async def test_a_damaged_start_is_audio_or_refused_and_nothing_else(decoder: AudioDecoder, name: str) -> None:
    file = bytearray(encoded(*FILES[name]))
    chance = random.Random(name)
    for place in chance.sample(range(512), 32):
        file[place] = chance.randrange(256)
    try:
        await heard(decoder, file)
    except Fault as error:
        assert error.kind in (FaultKind.UNREADABLE, FaultKind.TOO_SHORT)  # noqa: PT017
    assert (await heard(decoder, wav(bytes(BYTES_PER_S)))).pcm


async def test_a_header_that_claims_4_gb_costs_nothing(decoder: AudioDecoder) -> None:
    pcm = tone(1.0).tobytes()
    assert (await heard(decoder, wav(pcm, claimed_bytes=2**32 - 1))).pcm == pcm


# --- what is refused -----------------------------------------------------------------------------------------------


def _zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("audio.wav", bytes(50 << 20))
    return file.getvalue()


NOT_AUDIO: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"Call me Ishmael. Some years ago - never mind how long precisely - " * 200,
    "one byte": lambda: b"\x00",
    "zeros": lambda: bytes(1 << 20),
    "ones": lambda: b"\xff" * (1 << 20),
    "a zip bomb": _zip_bomb,
    "video without audio": video_without_audio,
    "an MP4 file without its index": lambda: encoded(*FILES["mp4"])[:1_000],
    "a PNG image": lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(1_000),
    "a WAV file of no known codec": lambda: wav(bytes(9_000)).replace(b"\x01\x00\x01\x00", b"\x99\x77\x01\x00"),
    "a WAV file at 1 Hz": lambda: wav(bytes(9_000), rate_hz=1),
    "subtitles": lambda: b"1\n00:00:00,000 --> 00:00:09,000\nwords\n\n" * 10,
    "SDP": lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", NOT_AUDIO)
async def test_what_is_not_audio_is_refused(decoder: AudioDecoder, name: str) -> None:
    error = await refusal(decoder, NOT_AUDIO[name]())
    assert (error.kind, error.subject) == (FaultKind.UNREADABLE, AUDIO)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "HLS with a map": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="{0}"\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n',
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "ffconcat without its word": "file '{}'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
    'mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("form", PLAYLISTS)
@pytest.mark.parametrize("target", ["file", "file:", "http:", "tcp:", "concat:", "subfile"])
async def test_a_playlist_leads_nowhere(
    decoder: AudioDecoder, form: str, target: str, listener: socket.socket, tmp_path: Path
) -> None:
    victim = tmp_path / "victim.wav"
    victim.write_bytes(wav(tone(1.0).tobytes()))
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    url = {
        "file": str(victim),
        "file:": f"file://{victim}",
        "http:": f"http://{host}/a.wav",
        "tcp:": f"tcp://{host}",
        "concat:": f"concat:{victim}|{victim}",
        "subfile": f"subfile,,start,0,end,999,,:{victim}",
    }[target]
    assert (await refusal(decoder, PLAYLISTS[form].format(url).encode())).kind is FaultKind.UNREADABLE
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("name", ["empty", "a header only", "0.099 s"])
async def test_less_than_a_tenth_of_a_second_is_refused(decoder: AudioDecoder, name: str) -> None:
    file = {"empty": b"", "a header only": wav(b""), "0.099 s": wav(bytes(2 * 1_599))}[name]
    error = await refusal(decoder, file)
    assert (error.kind, error.subject) == (FaultKind.TOO_SHORT, AUDIO)


async def test_a_tenth_of_a_second_is_heard(decoder: AudioDecoder) -> None:
    assert len((await heard(decoder, wav(bytes(2 * 1_600)))).pcm) == 2 * 1_600


async def test_a_small_file_of_endless_silence_is_refused_as_soon_as_it_is_too_long(long_file: bytes) -> None:
    decoder = AudioDecoder(max_audio_s=60)
    try:
        error = await refusal(decoder, long_file)
        assert (error.kind, error.subject, error.numbers) == (FaultKind.TOO_LONG, AUDIO, {"limit_s": 60})
        exact = wav(bytes(60 * BYTES_PER_S))
        assert len((await heard(decoder, exact)).pcm) == 60 * BYTES_PER_S
        assert (await refusal(decoder, wav(bytes(60 * BYTES_PER_S + 2)))).kind is FaultKind.TOO_LONG
    finally:
        await decoder.close()


# --- processes -----------------------------------------------------------------------------------------------------


async def python(program: str) -> tuple[int | None, bytes]:
    """Run a program in a process of its own: its exit status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=forkserver._environment(), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(GIVE_UP_S):
        output, _ = await process.communicate()
    return process.returncode, output


async def test_the_engine_loads_no_codec_and_no_model() -> None:
    program = "import sys, core.media.decode; print({'av', 'numpy', 'onnxruntime'} & sys.modules.keys())"
    assert await python(program) == (0, b"set()\n")


async def test_closing_kills_the_decoder(decoder: AudioDecoder, long_file: bytes) -> None:
    async with aclosing(decoder.decode(long_file)) as stream:
        await anext(stream)
        assert len(decoders_of(decoder)) == 1
    assert decoders_of(decoder) == []


async def test_cancelling_kills_the_decoder(decoder: AudioDecoder, long_file: bytes) -> None:
    task = asyncio.get_running_loop().create_task(heard(decoder, long_file))
    await until(lambda: decoders_of(decoder))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoders_of(decoder) == []


async def test_a_decoder_ends_with_its_file(decoder: AudioDecoder) -> None:
    await heard(decoder, wav(bytes(BYTES_PER_S)))
    assert decoders_of(decoder) == []


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGSYS])
async def test_a_decoder_that_crashes_costs_one_file(
    decoder: AudioDecoder, long_file: bytes, number: signal.Signals, printed: Printed
) -> None:
    async with aclosing(decoder.decode(long_file)) as stream:
        await anext(stream)
        os.kill(decoders_of(decoder)[0], number)
        with pytest.raises(Fault, match="unreadable"):
            async for _ in stream:
                pass
    assert f'"code": {-number}' in printed.text
    assert (await heard(decoder, wav(bytes(BYTES_PER_S)))).pcm == bytes(BYTES_PER_S)


async def test_a_decoder_that_computes_too_long_is_ended(
    decoder: AudioDecoder, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    monkeypatch.setattr(module, "CPU_BASE_S", 1)
    monkeypatch.setattr(module, "CPU_SPEED", 10**9)
    tone_for_long = encoded("flac", "flac", 8_000, "mono", LONG_S)  # silence takes next to no time
    assert (await refusal(decoder, tone_for_long)).kind is FaultKind.UNREADABLE
    assert f'"code": {-signal.SIGXCPU}' in printed.text
    monkeypatch.undo()
    assert (await heard(decoder, wav(bytes(BYTES_PER_S)))).pcm


async def test_a_decoder_that_computes_without_result_is_ended() -> None:
    program = """
from io import BytesIO
from core.media import worker as decode_worker
decode_worker.STALL_CPU_S = 0.2
def spin(file):
    while True: pass
    yield b""
decode_worker.pcm_of = lambda file, keep_channels: [spin(file)]
decode_worker.decode(BytesIO(), None, 1, print)
"""
    assert (await python(program))[0] == -signal.SIGPROF


async def test_a_decoder_that_is_not_given_the_processor_is_our_fault(
    decoder: AudioDecoder, long_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(decoder.decode(long_file)) as stream:
        await anext(stream)
        os.kill(decoders_of(decoder)[0], signal.SIGSTOP)
        monkeypatch.setattr(forkserver, "STALL_S", 0.2)
        with pytest.raises(Fault, match="timed_out"):
            async for _ in stream:
                pass
    assert decoders_of(decoder) == []


async def test_the_next_file_gets_a_new_server(decoder: AudioDecoder, long_file: bytes) -> None:
    async with aclosing(decoder.decode(long_file)) as stream:
        await anext(stream)
        orphan = decoders_of(decoder)[0]
        server_of(decoder)._process.kill()
        with pytest.raises(BackendError):
            async for _ in stream:
                pass
    await until(lambda: not runs(orphan))
    assert (await heard(decoder, wav(bytes(BYTES_PER_S)))).pcm == bytes(BYTES_PER_S)


async def test_a_server_that_died_idle_is_replaced(decoder: AudioDecoder) -> None:
    await decoder.start()
    server = server_of(decoder)
    server._process.kill()
    await until(lambda: not server.alive)
    await heard(decoder, wav(bytes(BYTES_PER_S)))
    assert server_of(decoder) is not server


async def test_the_server_ends_when_the_engine_does() -> None:
    program = """
import asyncio, os
from core.media.decode import AudioDecoder
async def main():
    decoder = AudioDecoder()
    await decoder.start()
    print(decoder._server._process.pid, flush=True)
    os._exit(0)
asyncio.run(main())
"""
    _, printed = await python(program)
    await until(lambda: not runs(int(printed)))


async def test_a_closed_decoder_refuses_and_leaves_no_process(long_file: bytes) -> None:
    decoder = AudioDecoder()
    stream = decoder.decode(long_file)
    await anext(stream)
    children = decoders_of(decoder)
    await decoder.close()
    await decoder.close()
    with pytest.raises(BackendError):
        async for _ in stream:
            pass
    await until(lambda: not any(map(runs, children)))
    with pytest.raises(BackendError, match="closed"):
        await decoder.start()


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AudioDecoder]:
    """A decoder that lets one file have its turn at a time, and interrupts none."""
    monkeypatch.setattr(turns, "TURN_S", 3600.0)
    decoder = AudioDecoder(max_files=1)
    await decoder.start()
    yield decoder
    await decoder.close()


async def is_served(decoder: AudioDecoder) -> bool:
    """Whether a short file is heard, rather than left to wait until another is given up."""
    async with asyncio.timeout(forkserver.STALL_S - 10):
        return (await heard(decoder, wav(bytes(BYTES_PER_S)))).pcm == bytes(BYTES_PER_S)


async def test_a_file_whose_consumer_is_slow_holds_up_no_other(narrow: AudioDecoder, long_file: bytes) -> None:
    async with aclosing(narrow.decode(long_file)) as stalled:
        await anext(stalled)
        assert await is_served(narrow)
        assert (await anext(stalled)).pcm


async def test_no_more_decoders_are_at_work_than_allowed(
    decoder: AudioDecoder, long_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 3600.0)  # whose turn is interrupted owes something and does not work
    owing: set[_Blocks] = set()
    counts = []
    begin, receive = _Decoding.begin, _Decoding.receive

    async def counted_begin(decoding: _Decoding) -> None:
        owing.add(decoding)
        counts.append(len(owing))
        await begin(decoding)

    async def counted_receive(decoding: _Decoding) -> AudioBlock | None:
        owing.add(decoding)
        counts.append(len(owing))
        try:
            return await receive(decoding)
        finally:
            owing.remove(decoding)

    monkeypatch.setattr(_Decoding, "begin", counted_begin)
    monkeypatch.setattr(_Decoding, "receive", counted_receive)
    await asyncio.gather(*(heard(decoder, wav(bytes(10 * BYTES_PER_S))) for _ in range(6)))
    assert max(counts) == 2


async def test_files_take_turns(narrow: AudioDecoder, long_file: bytes) -> None:
    heard_of: list[str] = []

    async def hear(name: str, file: bytes) -> None:
        async with aclosing(narrow.decode(file)) as stream:
            async for _ in stream:
                heard_of.append(name)  # noqa: PERF401 - looked at meanwhile

    long = asyncio.get_running_loop().create_task(hear("long", long_file))
    await until(lambda: heard_of)
    await hear("short", wav(bytes(10 * BLOCK_BYTES)))
    long.cancel()
    turns = [turn for turn, name in enumerate(heard_of) if name == "short"]
    assert len(turns) == 10
    assert {later - turn for turn, later in pairwise(turns)} <= {1, 2}  # at most one of the long file between two


async def test_many_files_of_one_caller_hold_up_another_no_longer_than_one(
    narrow: AudioDecoder, long_file: bytes
) -> None:
    heard_of: list[str] = []

    async def hear(caller: str, file: bytes) -> None:
        async with aclosing(narrow.decode(file, caller=caller)) as stream:
            async for _ in stream:
                heard_of.append(caller)  # noqa: PERF401 - looked at meanwhile

    many = [asyncio.get_running_loop().create_task(hear("many", long_file)) for _ in range(8)]
    await until(lambda: len(heard_of) > 8)
    await hear("single", wav(bytes(10 * BLOCK_BYTES)))
    for task in many:
        task.cancel()
    of_single = [turn for turn, caller in enumerate(heard_of) if caller == "single"]
    assert len(of_single) == 10
    assert {later - turn for turn, later in pairwise(of_single)} <= {1, 2}


async def test_a_file_that_computes_for_ever_holds_up_no_other(
    narrow: AudioDecoder, long_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    task = asyncio.get_running_loop().create_task(heard(narrow, long_file))
    pid = await _hold(narrow)  # as good as one that never has a block to show
    assert await is_served(narrow)
    assert len((await task).pcm) == LONG_S * BYTES_PER_S  # its turn went on, and so did the file
    assert not runs(pid)


async def test_a_decoder_out_of_turn_is_paused_while_another_needs_the_processor(
    narrow: AudioDecoder, long_file: bytes
) -> None:
    async with aclosing(narrow.decode(long_file)) as first, aclosing(narrow.decode(long_file)) as second:
        await anext(first)
        (pid,) = decoders_of(narrow)
        await anext(second)
        await until(lambda: state_of(pid) == "T")
        await anext(first)
        await until(lambda: state_of(pid) != "T")
    assert decoders_of(narrow) == []


async def test_the_time_that_a_decoder_is_made_to_wait_is_no_stall(
    narrow: AudioDecoder, long_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    task = asyncio.get_running_loop().create_task(heard(narrow, long_file))
    await _hold(narrow)
    (forked,) = server_of(narrow)._forked.values()
    async with narrow._turns.of("other").taken():  # interrupts the file's
        await until(lambda: forked._deadline is not None and forked._deadline.when() is None)
    await until(lambda: forked._deadline is not None and forked._deadline.when() is not None)
    assert (await task).pcm


async def test_a_decoder_killed_in_its_turn_gives_the_turn_back(narrow: AudioDecoder, long_file: bytes) -> None:
    task = asyncio.get_running_loop().create_task(heard(narrow, long_file))
    await _hold(narrow)
    os.kill(decoders_of(narrow)[0], signal.SIGKILL)
    with pytest.raises(Fault, match="unreadable"):
        await task
    assert await is_served(narrow)


async def test_a_refused_file_gives_its_turn_back(narrow: AudioDecoder) -> None:
    assert (await refusal(narrow, b"x")).kind is FaultKind.UNREADABLE
    assert await is_served(narrow)


async def test_a_file_cancelled_while_its_block_is_awaited_gives_its_turn_back(
    narrow: AudioDecoder, long_file: bytes
) -> None:
    task = asyncio.get_running_loop().create_task(heard(narrow, long_file))
    await _hold(narrow)
    waiting = asyncio.get_running_loop().create_task(is_served(narrow))
    await _settle()
    assert len(decoders_of(narrow)) == 1  # who waits for a first turn has no process
    task.cancel()
    assert await waiting
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_file_cancelled_while_it_is_sent_gives_its_turn_back(narrow: AudioDecoder) -> None:
    server = server_of(narrow)
    os.kill(server._process.pid, signal.SIGSTOP)  # nobody takes more of the file than a socket holds
    task = asyncio.get_running_loop().create_task(heard(narrow, bytes(4 * SOCKET_BUFFER_BYTES)))
    await until(lambda: server._forked)
    await _settle()
    task.cancel()
    os.kill(server._process.pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_served(narrow)


async def test_a_file_cancelled_before_its_first_turn_takes_none(narrow: AudioDecoder, long_file: bytes) -> None:
    task = asyncio.get_running_loop().create_task(heard(narrow, long_file))
    await _hold(narrow)
    waiting = asyncio.get_running_loop().create_task(is_served(narrow))
    await _settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_served(narrow)


async def _hold(decoder: AudioDecoder) -> int:
    """Stop the one decoder there is, and wait until its consumer has all it sent and is owed a block; its process."""
    await until(lambda: decoders_of(decoder))
    (pid,) = decoders_of(decoder)
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: state_of(pid) == "T")
    await until(lambda: not _waiting_bytes(decoder) and decoder._turns.holders)
    return pid


async def _settle() -> None:
    """Let every task run until it waits for something outside the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_files_decoded_together_do_not_mix(decoder: AudioDecoder) -> None:
    sounds = [tone(3.0) // divisor for divisor in (1, 2, 3, 5)]
    audios = await asyncio.gather(*(heard(decoder, wav(sound.tobytes())) for sound in sounds))
    assert [audio.pcm for audio in audios] == [sound.tobytes() for sound in sounds]


async def test_a_slow_consumer_holds_the_decoder_back(decoder: AudioDecoder, long_file: bytes) -> None:
    tracemalloc.start()
    try:
        async with aclosing(decoder.decode(long_file)) as stream:
            await anext(stream)
            await _until_held_back(decoder)
            assert _waiting_bytes(decoder) <= 2 * SOCKET_BUFFER_BYTES + BLOCK_BYTES
            tracemalloc.reset_peak()
            for _ in range(200):
                await anext(stream)
            assert tracemalloc.get_traced_memory()[1] < 20 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


async def _until_held_back(decoder: AudioDecoder) -> None:
    """Wait until the socket is full: the one decoder sleeps in a write."""
    (pid,) = decoders_of(decoder)
    await until(lambda: state_of(pid) == "S" and _waiting_bytes(decoder) >= SOCKET_BUFFER_BYTES)


def _waiting_bytes(decoder: AudioDecoder) -> int:
    (forked,) = server_of(decoder)._forked.values()
    return int.from_bytes(fcntl.ioctl(forked._channel, termios.FIONREAD, bytes(4)), sys.byteorder)


def _own_bytes(decoder: AudioDecoder) -> int:
    """The most memory the one decoder has had beyond its server's pages, from proc(5)."""
    (pid,) = decoders_of(decoder)
    own, servers = (
        {name: int(size.split()[0]) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+ kB)$", status, re.MULTILINE)}
        for status in (of(pid, "status"), of(server_of(decoder)._process.pid, "status"))
    )
    return own["RssAnon"] + (own["VmHWM"] - own["VmRSS"]) - servers["RssAnon"]


@pytest.mark.parametrize("form", ["wav", "raw", "flac", "m4a", "webm, opus", "mp3"])
async def test_a_decoder_holds_the_file_once_and_16_mib(decoder: AudioDecoder, form: str) -> None:
    await decoder.start()
    start = {"raw": b"", "wav": wav(b"", claimed_bytes=MAX_FILE_BYTES)}
    file = (start[form] if form in start else encoded(*FILES[form], duration_s=20)).ljust(MAX_FILE_BYTES, b"\0")
    async with aclosing(decoder.decode(file, RawSamples(16_000) if form == "raw" else None)) as stream:
        await anext(stream)
        await _until_held_back(decoder)
        assert MAX_FILE_BYTES < _own_bytes(decoder) <= MAX_FILE_BYTES + (16 << 20)


async def test_a_decoder_of_eight_tracks_holds_the_file_once_and_32_mib(decoder: AudioDecoder) -> None:
    silence = np.zeros(60 * 16_000, np.int16)
    file = tracks("mp4", *[("aac", silence)] * MAX_TRACKS).ljust(MAX_FILE_BYTES, b"\0")
    async with aclosing(decoder.decode(file)) as stream:
        await anext(stream)
        await _until_held_back(decoder)
        assert MAX_FILE_BYTES < _own_bytes(decoder) <= MAX_FILE_BYTES + (32 << 20)


async def test_a_decoder_is_in_its_sandbox_and_has_one_descriptor(decoder: AudioDecoder, long_file: bytes) -> None:
    async with aclosing(decoder.decode(long_file)) as stream:
        await anext(stream)
        pid = decoders_of(decoder)[0]
        status = of(pid, "status")
        assert "\nSeccomp:\t2\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nThreads:\t1\n" in status
        assert of(pid, "oom_score_adj") == "1000\n", "a file that takes all memory takes its own decoder"
        for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
            assert resource.prlimit(pid, which) == (0, 0)
        if os.getuid() == 0:
            names = descriptors_of(pid)
            assert names.keys() == {"0", "1", "2", "3"}
            assert {names[fd] for fd in "012"} == {"/dev/null"}
            assert names["3"].startswith("socket:")


async def test_the_server_inherits_nothing_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOTTOVOCE_CANARY", "canary")
    environment = forkserver._environment()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
    monkeypatch.setattr(forkserver, "_environment", lambda: environment | places)
    decoder = AudioDecoder()
    try:
        await heard(decoder, encoded(*FILES["mp3"]))
        await refusal(decoder, b"canary" * 1_000)
        server = server_of(decoder)._process.pid
        assert "\nThreads:\t1\n" in of(server, "status")
        if os.getuid() == 0:
            assert "canary" not in of(server, "environ")
    finally:
        await decoder.close()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - not a blocking call on a path object, says the linter
    assert capfd.readouterr() == ("", "")


async def test_without_a_sandbox_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A kernel without filters, as the server sees it: an architecture that has no list of calls.
    environment = forkserver._environment()
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'unknown'\n")
    path = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    monkeypatch.setattr(forkserver, "_environment", lambda: environment | {"PYTHONPATH": path})
    refusing, allowing = AudioDecoder(), AudioDecoder(allow_unsandboxed_decoder=True)
    try:
        with pytest.raises(BackendError, match="seccomp"):
            await refusing.start()
        assert (await heard(allowing, wav(bytes(BYTES_PER_S)))).pcm
    finally:
        await refusing.close()
        await allowing.close()


async def test_without_a_descriptor_left_no_decoder_can_be_forked() -> None:
    program = """
import asyncio, resource
from core.errors import BackendError
from core.media.decode import AudioDecoder
from core.media.types import RawSamples
async def blocks(decoder):
    return len([block async for block in decoder.decode(bytes(32_000), RawSamples(16_000))])
async def main():
    decoder = AudioDecoder(max_files=1)
    await decoder.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(2):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await blocks(decoder)
        except BackendError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(await blocks(decoder))
    await decoder.close()
asyncio.run(main())
"""
    assert await python(program) == (0, b"there is no socket for another decoder\n1\n" * 2)


async def test_without_descriptors_left_no_server_can_be_started() -> None:
    program = """
import asyncio, os, resource
from core.errors import BackendError
from core.media.decode import AudioDecoder
async def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    for left in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1 + left, hard))
        try:
            await AudioDecoder().start()
        except BackendError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    decoder = AudioDecoder()
    await decoder.start()
    await decoder.close()
asyncio.run(main())
"""
    assert await python(program) == (0, b"the decoder server could not be started\n" * 4)


async def test_a_server_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forkserver, "_environment", lambda: {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(BackendError, match="did not start"):
        await AudioDecoder().start()


# --- a decoder its file has taken over -----------------------------------------------------------------------------


async def _receive_all(*sent: bytes) -> list[AudioBlock]:
    """What the engine makes of a decoder that says this and hangs up."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.sendall(b"".join(sent))
    forked = Forked(_SilentServer(), 1, ours)  # type: ignore[arg-type]
    forked.ended.set_result(0)
    receiving = _Blocks(forked, max_audio_s=4)
    blocks = []
    try:
        while (block := await receiving.receive()) is not None:
            blocks.append(block)
    finally:
        await forked.end()
    return blocks


class _SilentServer:
    def order(self, message: Message, number: int) -> None:
        pass


def _audio(pcm_bytes: int, speech_bytes: int | None = None) -> bytes:
    speech = -(-pcm_bytes // WINDOW_BYTES) if speech_bytes is None else speech_bytes
    return FRAME.pack(Kind.AUDIO, pcm_bytes, speech) + bytes(pcm_bytes + speech)


LIES = {
    "no audio in a block": [_audio(0, 0)],
    "more than a block": [FRAME.pack(Kind.AUDIO, BLOCK_BYTES + WINDOW_BYTES, BLOCK_BYTES // WINDOW_BYTES + 1)],
    "4 GB": [FRAME.pack(Kind.AUDIO, 2**32 - 1, 2**32 - 1)],
    "half a sample": [_audio(WINDOW_BYTES + 1)],
    "too few probabilities": [_audio(WINDOW_BYTES * 2, 1)],
    "too many probabilities": [_audio(WINDOW_BYTES, 2)],
    "a short window before the last": [_audio(WINDOW_BYTES + 2), _audio(WINDOW_BYTES)],
    "an unknown word": [FRAME.pack(99, 0, 0)],
    "nothing": [b""],
    "half a header": [b"\x01\x00"],
    "half a block": [_audio(WINDOW_BYTES)[:-1]],
    "no last word": [_audio(WINDOW_BYTES)],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_refused(lie: str) -> None:
    with pytest.raises(Fault, match="unreadable"):
        await _receive_all(*LIES[lie])


async def test_more_audio_than_allowed_is_refused_whatever_the_decoder_says() -> None:
    with pytest.raises(Fault, match="too_long") as caught:
        await _receive_all(*[_audio(BLOCK_BYTES)] * 2)  # two of 2.048 s
    assert caught.value.numbers == {"limit_s": 4}


async def test_the_truth_is_not() -> None:
    last_word = FRAME.pack(Kind.DONE, 0, 0)
    assert len(await _receive_all(_audio(BLOCK_BYTES), _audio(WINDOW_BYTES + 2), last_word)) == 2


async def test_nothing_of_a_file_is_logged(decoder: AudioDecoder, printed: Printed) -> None:
    error = await refusal(decoder, b"canary phrase" * 1_000)
    assert "canary" not in printed.text
    assert "canary" not in repr((error, error.args, error.__cause__, error.__context__))
