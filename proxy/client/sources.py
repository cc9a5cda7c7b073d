"""Where does the sound come from that a person lets be heard? A microphone, standard input, or a recording.

Each is cut into pieces of 16-bit little-endian mono PCM. Recording and decoding is left to the programs that a desktop
has: `parecord`, `arecord`, `ffmpeg`. A WAV file of such PCM needs none.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import sys
import wave
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from core.program.run import ExitCode
from proxy.client.transcribe import ClientError

PIECE_S: Final = 0.1
RATE_HZ: Final = 24_000
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 24_000

Pieces: TypeAlias = AsyncGenerator[bytes, None]

_DECODE: Final = ("-ac", "1", "-ar", str(RATE_HZ), "-f", "s16le", "-")
_FFMPEG: Final = ("ffmpeg", "-nostdin", "-loglevel", "error")
_DEFAULT_INPUT: Final = ("avfoundation", "-i", ":default") if sys.platform == "darwin" else ("pulse", "-i", "default")
_MICROPHONES: Final = (
    ("parecord", "--raw", "--format=s16le", f"--rate={RATE_HZ}", "--channels=1", "--latency-msec=100"),
    ("arecord", "-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1"),
    (*_FFMPEG, "-f", *_DEFAULT_INPUT, *_DECODE),
)


def piece_bytes(rate_hz: int) -> int:
    """How much audio is sent at a time."""
    return round(rate_hz * PIECE_S) * 2


def microphone() -> Pieces:
    """What the default microphone hears, at `RATE_HZ`. Raises ClientError where no program can record."""
    for command in _MICROPHONES:
        if shutil.which(command[0]):
            return _printed(command, "the microphone cannot be read")
    raise ClientError("nothing can record here: install parecord, arecord or ffmpeg", ExitCode.USAGE)


def recording(path: Path) -> tuple[Pieces, int]:
    """A recording and its rate. Raises ClientError where ffmpeg would be needed and is missing."""
    if rate_hz := _plain_rate_hz(path):
        return _wav(path), rate_hz
    if shutil.which("ffmpeg") is None:
        raise ClientError("ffmpeg is needed for everything but 16-bit mono WAV of 8 to 24 kHz", ExitCode.USAGE)
    command = (*_FFMPEG, "-protocol_whitelist", "file", "-i", f"file:{path}", "-vn", *_DECODE)
    return _printed(command, "the recording cannot be decoded"), RATE_HZ


def _plain_rate_hz(path: Path) -> int | None:
    """The rate of a WAV file that can be sent as it is."""
    with suppress(wave.Error, EOFError), wave.open(str(path), "rb") as file:
        rate_hz = file.getframerate()
        if (file.getsampwidth(), file.getnchannels()) == (2, 1) and MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            return rate_hz
    return None


async def _wav(path: Path) -> Pieces:
    with wave.open(str(path), "rb") as file:
        while piece := file.readframes(round(file.getframerate() * PIECE_S)):
            yield piece


async def raw_pcm(rate_hz: int, file: BinaryIO) -> Pieces:
    """What a file or pipe holds, until it ends."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        while piece := file.read(piece_bytes(rate_hz)):
            yield piece
        return
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        while piece := await reader.read(piece_bytes(rate_hz)):
            yield piece
    finally:
        transport.close()


async def _printed(command: tuple[str, ...], fault: str) -> Pieces:
    """What a program prints; it is ended with us. In a session of its own it is not asked to end by Ctrl-C."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as printed:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=write, start_new_session=True
            )
        finally:
            os.close(write)
        try:
            async with aclosing(raw_pcm(RATE_HZ, printed)) as pieces:
                async for piece in pieces:
                    yield piece
            if await process.wait():
                raise ClientError(f"{fault}: {command[0]} ended with {process.returncode}")
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
