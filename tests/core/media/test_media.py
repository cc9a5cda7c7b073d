"""The lists that keep FFmpeg to audio inside one file hold by themselves, without the sandbox around them."""

from __future__ import annotations

import socket
from io import BytesIO
from pathlib import Path

import av
import pytest

from core.media import media
from core.media.content import InMemory
from core.media.media import pcm_of
from core.media.sound import UnreadableMediaError
from tests.core.media.sounds import encoded, tone, video_without_audio, wav


@pytest.mark.parametrize("form", ["ffconcat version 1.0\nfile '{}'\n", "#EXTM3U\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"])
def test_a_playlist_is_no_audio_even_outside_the_sandbox(form: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim.wav"
    victim.write_bytes(wav(tone(1.0).tobytes()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for url in (str(victim), f"http://127.0.0.1:{listener.getsockname()[1]}/a.wav"):
            with pytest.raises(UnreadableMediaError):
                list(pcm_of(InMemory(form.format(url).encode()))[0])
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_without_the_lists_a_playlist_is_followed(tmp_path: Path) -> None:
    # What the lists are there for: should FFmpeg stop doing this by itself, the tests above prove nothing.
    victim = tmp_path / "victim.wav"
    victim.write_bytes(wav(tone(1.0).tobytes()))
    playlist = BytesIO(f"ffconcat version 1.0\nfile '{victim.name}'\n".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with av.open(playlist) as container:
            assert container.streams.audio


def test_every_listed_decoder_exists_and_is_for_audio() -> None:
    for name in media.CODECS:
        assert av.Codec(name, "r").type == "audio"


def test_every_listed_container_exists() -> None:
    for name in media.CONTAINERS:
        assert av.ContainerFormat(name, "r").is_input


def test_a_codec_off_the_list_is_refused_though_ffmpeg_knows_it() -> None:
    off_the_list = encoded("matroska", "tta", 48_000, "stereo")
    with pytest.raises(UnreadableMediaError):
        list(pcm_of(InMemory(off_the_list))[0])


@pytest.mark.parametrize(("container", "codec"), [("tta", "tta"), ("wv", "wavpack"), ("nut", "flac")])
def test_a_container_off_the_list_is_refused_though_ffmpeg_knows_it(container: str, codec: str) -> None:
    file = encoded(container, codec, 48_000, "stereo")
    with av.open(BytesIO(file)) as known:
        assert known.streams.audio
    with pytest.raises(UnreadableMediaError):
        list(pcm_of(InMemory(file))[0])


def test_a_video_without_audio_is_no_audio() -> None:
    with pytest.raises(UnreadableMediaError, match="no audio track"):
        pcm_of(InMemory(video_without_audio()))


def test_audio_beside_video_is_heard() -> None:
    file = encoded("mp4", "aac", 16_000, "mono", 1.0, video="mpeg4")
    assert sum(map(len, pcm_of(InMemory(file))[0])) == pytest.approx(32_000, rel=0.1)
