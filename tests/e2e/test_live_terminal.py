"""`sottovoce live` through proxy, sealed channel and session: only ears and model are fakes."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import shutil
import sys
import termios
import wave
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from core.program.run import ExitCode
from proxy.client.live import LiveJob, Turns, transcribe_live
from proxy.client.sources import Pieces, piece_bytes, raw_pcm, recording
from proxy.client.transcribe import ClientError
from tests.beats import Baton
from tests.e2e.test_live_text import SECRET, Service, service
from tests.engine.realtime.live import PREFIX, RATE_HZ, silence, speech
from tests.places import ROOT
from tests.requirements import need_program
from tests.waiting import until

PROGRAM = str(Path(sys.executable).with_name("sottovoce"))
TURN = speech(0.96) + silence(0.64)


def wav(path: Path, audio: bytes, *, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(audio)
    return path


async def heard(house: Service, pieces: Pieces, *, key: str = SECRET, model: str | None = None) -> str:
    """What is printed where no terminal is."""
    out = io.StringIO()
    job = LiveJob(house.url, RATE_HZ, model, "en", False, {"Authorization": f"Bearer {key}"})
    await transcribe_live(job, pieces, terminal=False, out=out)
    return out.getvalue()


class Terminal:
    """A program that sees a terminal. shown: everything that it has printed."""

    def __init__(self, house: Service, directory: Path) -> None:
        (directory / "key").write_text(SECRET)
        self.arguments = (PROGRAM, "live", "--url", house.url, "--api-key", f"@{directory / 'key'}")
        self.environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.shown = b""
        self._master, self._slave = pty.openpty()

    async def run(self, *arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.arguments,
            *arguments,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=self.environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # what is typed reaches it
        )
        os.close(self._slave)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return process

    def _read(self) -> None:
        try:
            self.shown += os.read(self._master, 65_536)
        except OSError:  # everybody has left
            asyncio.get_running_loop().remove_reader(self._master)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path) as running:
        yield running


async def test_each_turn_of_a_recording_is_a_line(house: Service, tmp_path: Path) -> None:
    pieces, rate_hz = recording(wav(tmp_path / "two.wav", TURN + speech(0.96)))
    assert rate_hz == RATE_HZ
    assert await heard(house, pieces) == "hello there\nhello there\n"
    # At rest a sample is zero, and there is no such byte in speech.
    assert house.ears.ear.heard.replace(b"\0", b"") == speech(0.96) * 2


async def test_silence_is_no_line(house: Service, tmp_path: Path) -> None:
    pieces, _ = recording(wav(tmp_path / "none.wav", silence(0.96)))
    assert await heard(house, pieces) == ""


@pytest.mark.parametrize("piped", [True, False])
async def test_standard_input_is_raw_pcm(house: Service, tmp_path: Path, piped: bool) -> None:
    if piped:
        read, write = os.pipe()
        os.write(write, TURN[:60_000])
        os.close(write)
        file = os.fdopen(read, "rb")
    else:
        (tmp_path / "raw").write_bytes(TURN[:60_000])
        file = (tmp_path / "raw").open("rb")
    with file:
        assert await heard(house, raw_pcm(RATE_HZ, file)) == "hello there\n"
    assert house.ears.ear.heard == TURN[:60_000]


async def test_other_recordings_are_decoded_by_ffmpeg(house: Service, tmp_path: Path) -> None:
    need_program("ffmpeg")
    loud = bytes(range(1, 129)) * 750
    pieces, rate_hz = recording(wav(tmp_path / "stereo.wav", loud, channels=2))
    assert rate_hz == RATE_HZ
    await heard(house, pieces)
    assert len(house.ears.ear.heard) == len(loud) // 2


async def test_what_is_no_recording_is_told(house: Service, tmp_path: Path) -> None:
    need_program("ffmpeg")
    (tmp_path / "none.mp3").write_bytes(b"no sound at all")
    pieces, _ = recording(tmp_path / "none.mp3")
    with pytest.raises(ClientError, match="the recording cannot be decoded"):
        await heard(house, pieces)
    await until(lambda: house.ears.open == 0)


def test_without_ffmpeg_the_person_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClientError, match="ffmpeg is needed") as caught:
        recording(ROOT / "examples" / "kennedy.flac")
    assert caught.value.exit_code is ExitCode.USAGE


async def test_a_paced_recording_is_sent_a_piece_a_beat(house: Service, tmp_path: Path) -> None:
    baton, out = Baton(), io.StringIO()
    pieces, _ = recording(wav(tmp_path / "one.wav", TURN))
    job = LiveJob(house.url, RATE_HZ, None, None, True, {"Authorization": f"Bearer {SECRET}"})
    async with asyncio.TaskGroup() as group:
        group.create_task(transcribe_live(job, pieces, terminal=False, out=out, make_metronome=baton.make))
        for count in range(1, len(TURN) // piece_bytes(RATE_HZ)):
            await baton.tick()
            due = count * piece_bytes(RATE_HZ)
            await until(partial(lambda due: len(house.ears.ear.heard) == due, due))
        await until(lambda: baton._hands[0].waiting)
        baton._hands[0].release()
    assert out.getvalue() == "hello there\n"


async def test_a_refused_session_is_told_in_its_own_words(house: Service, tmp_path: Path) -> None:
    path = wav(tmp_path / "one.wav", TURN)
    with pytest.raises(ClientError, match="invalid_api_key"):
        await heard(house, recording(path)[0], key="sk-sv-none")
    with pytest.raises(ClientError, match="model_not_found"):
        await heard(house, recording(path)[0], model="nobody")


async def test_without_a_proxy_the_person_is_told(tmp_path: Path) -> None:
    job = LiveJob("http://127.0.0.1:9", RATE_HZ, None, None, False, {})
    with pytest.raises(ClientError, match="is `sottovoce proxy` running"):
        await transcribe_live(job, recording(wav(tmp_path / "one.wav", TURN))[0], terminal=False)


async def test_a_web_server_that_is_no_proxy_is_told(house: Service, tmp_path: Path) -> None:
    job = LiveJob(f"{house.url}/elsewhere", RATE_HZ, None, None, False, {})
    with pytest.raises(ClientError, match="the proxy answered 404"):
        await transcribe_live(job, recording(wav(tmp_path / "one.wav", TURN))[0], terminal=False)


async def test_on_a_terminal_words_are_dim_until_they_are_final(house: Service, tmp_path: Path) -> None:
    terminal = Terminal(house, tmp_path)
    process = await terminal.run(str(wav(tmp_path / "one.wav", TURN)))
    assert await process.wait() == 0
    await until(lambda: b"\x1b[?25h" in terminal.shown)
    before, _, after = terminal.shown.rpartition(b"hello there")
    assert b"\x1b[2mhello there" in before
    assert not before.endswith(b"\x1b[2m")
    assert after.startswith(b"\r\n")


async def test_ctrl_c_ends_the_recording_and_the_last_words_are_told(house: Service, tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(speech(0.96))
    microphone = tmp_path / "parecord"
    microphone.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\ncat {tmp_path}/said\nexec sleep 600\n")
    microphone.chmod(0o755)
    terminal = Terminal(house, tmp_path)
    terminal.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    process = await terminal.run()
    await until(lambda: house.ears.ear.heard == speech(0.96))
    assert b"hello there\r\n" not in terminal.shown
    terminal.type(b"\x03")
    assert await process.wait() == 0
    await until(lambda: b"hello there\r\n" in terminal.shown)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_microphone_that_cannot_be_read_is_told(house: Service, tmp_path: Path) -> None:
    (tmp_path / "parecord").symlink_to(shutil.which("false") or "/bin/false")
    terminal = Terminal(house, tmp_path)
    terminal.environment["PATH"] = str(tmp_path)
    process = await terminal.run()
    assert await process.wait() == ExitCode.INTERNAL
    await until(lambda: b"the microphone cannot be read" in terminal.shown)


@pytest.mark.parametrize(
    ("code", "exit_code"), [("attestation_refused", ExitCode.REFUSED), ("stream_truncated", ExitCode.INTERNAL)]
)
def test_an_error_of_the_session_has_its_exit_code(code: str, exit_code: ExitCode) -> None:
    with pytest.raises(ClientError, match=code) as caught:
        Turns().take({"type": "error", "error": {"code": code, "message": "lost"}})
    assert caught.value.exit_code is exit_code


def test_an_empty_commit_in_the_middle_is_an_error() -> None:
    error = {"code": "input_audio_buffer_commit_empty", "message": "empty", "event_id": None}
    with pytest.raises(ClientError):
        Turns().take({"type": "error", "error": error})
    assert Turns().take({"type": "error", "error": error | {"event_id": "last"}}) is None


def test_turns_are_complete_once_all_audio_was_taken_and_each_has_ended() -> None:
    turns = Turns()
    for event in (
        {"type": "input_audio_buffer.committed", "item_id": "a"},
        {"type": "input_audio_buffer.committed", "item_id": "b"},
        {"type": f"{PREFIX}.delta", "item_id": "a", "delta": " one"},
        {"type": "input_audio_buffer.cleared"},
        {"type": f"{PREFIX}.completed", "item_id": "a", "transcript": "one"},
    ):
        assert not turns.complete
        turns.take(event)
    assert (turns.going_on, turns.complete) == ("", False)
    turns.take({"type": f"{PREFIX}.failed", "item_id": "b"})
    assert (turns.failed, turns.complete) == (1, True)
