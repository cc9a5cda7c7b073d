"""How does an uploaded file become audio, when the process that holds keys must run no codec?

In a sandboxed process of its own (`core.media.forkserver`). Here is only asyncio: the file goes out through a socket,
blocks of PCM come back, and closing the generator kills the decoder.

Files take turns, block by block (`core.media.turns`). A decoder waits for its consumer, which may be as slow as
recognition is, and while it waits it holds memory and no turn: many long files make a short one wait for a block of
each, not for their ends; many files of one caller make another's wait for one.

A live session has a process of its own in the same way (`core.media.ear`), but for its whole length, and takes no
turns: its sound comes no faster than it is said, and takes a hundredth of a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Protocol, TypeVar

from core.errors import BackendError
from core.media.content import READ_BYTES, block_bytes
from core.media.forkserver import Forked, ForkServer
from core.media.frames import (
    FRAME,
    JOB,
    MAX_SOUND_BYTES,
    SOUND,
    WINDOW_BYTES,
    Kind,
    Message,
    Sound,
    check_audio_frame,
    check_piece_frame,
)
from core.media.turns import Turns
from core.media.types import (
    BYTES_PER_SAMPLE,
    KEPT_CHANNELS,
    MAX_FILE_BYTES,
    SAMPLE_RATE_HZ,
    WHOLE,
    AudioBlock,
    Excerpt,
    PartPiece,
    RawSamples,
)
from core.transcript.faults import AUDIO, Fault, FaultKind

MAX_AUDIO_S = 4 * 3600

MAX_LIVE_AUDIO_S = 1 << 31
"""No end: a session is no recording, and whoever holds it says how long it may last."""

CPU_BASE_S = 60
CPU_SPEED = 20
"""A file may use `CPU_BASE_S` and one processor second for every `CPU_SPEED` seconds of the longest audio allowed;
measured, decoding and voice activity need one for every 120 to 300."""

SEND_BYTES = 1 << 20
"""How much of a file is sent under one `STALL_S`."""

MAX_PART_S = 780
"""As FLAC, noise is 0.7 % larger than its samples are: this much of it is less than `MAX_FILE_BYTES`."""

READS = 16
FEW_READS = 1_024
"""How often every block of a file may be wanted: up to eight tracks are read side by side until one is chosen."""

_REFUSALS = {Kind.UNSUPPORTED: FaultKind.UNREADABLE, Kind.TOO_SHORT: FaultKind.TOO_SHORT}

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class KeptFile(Protocol):
    """A file that may be larger than memory."""

    @property
    def size_bytes(self) -> int: ...

    async def read(self, start: int, length: int) -> bytes:
        """The bytes from `start`, `length` of them or as many as there are."""


class AudioDecoder:
    """Turns files into PCM and speech probabilities, each file in a process of its own.

    max_audio_s: longer files are refused, while they are decoded.
    max_files: how many decoders compute at a time, by default one for each processor; how many there are is for
        whoever admits requests to say. Each runs ahead of its consumer by `SOCKET_BUFFER_BYTES`.
    allow_unsandboxed_decoder: decode even where the kernel has no seccomp filters. For development only.
    """

    def __init__(
        self,
        *,
        max_audio_s: int = MAX_AUDIO_S,
        max_files: int | None = None,
        allow_unsandboxed_decoder: bool = False,
    ) -> None:
        self._max_audio_s = max_audio_s
        self._turns = Turns(max_files or len(os.sched_getaffinity(0)))
        self._allow_unsandboxed = allow_unsandboxed_decoder
        self._server: ForkServer | None = None
        self._launching = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Start the decoder server and return once it serves. Raises BackendError."""
        await self._running_server()

    async def close(self) -> None:
        """Stop the decoder server and every decoder; safe to call twice."""
        self._closed = True
        async with self._launching:
            if self._server is not None:
                await self._server.close()

    def decode(
        self,
        audio: bytes | bytearray | memoryview,
        raw: RawSamples | None = None,
        *,
        caller: Hashable = None,
        keep_channels: bool = False,
    ) -> AsyncGenerator[AudioBlock, None]:
        """Decode a file. Closing the generator, or cancelling the task in it, kills the file's decoder.

        audio: the whole file, in any container FFmpeg knows that refers to nothing outside itself. Not copied.
        raw: what it is if it has no container.
        caller: whose file it is. Callers take turns, then each one's files.
        keep_channels: give both channels beside their mix (`AudioBlock.channels`); takes three times as long.
        Raises Fault, before or between blocks: UNREADABLE, TOO_LONG (`limit_s`), TOO_SHORT,
        TIMED_OUT. Raises BackendError if the decoder server is at fault; the next file gets a new one.
        """
        file = memoryview(audio).cast("B")
        return self._in_turns(
            len(file), caller, lambda forked: _Decoding(forked, self._max_audio_s, file, raw, keep_channels)
        )

    def split(
        self, file: KeptFile, *, part_s: int, excerpt: Excerpt = WHOLE, caller: Hashable = None
    ) -> AsyncGenerator[PartPiece, None]:
        """Decode a file of any size and cut it into parts; each comes piece by piece, as a FLAC file.

        Closing the generator kills the file's decoder, as in `decode`. part_s: the longest of a part, up to
        `MAX_PART_S`. Raises as `decode`, and what the file's `read` raises.
        """
        return self._in_turns(
            file.size_bytes, caller, lambda forked: _Splitting(forked, self._max_audio_s, file, part_s, excerpt)
        )

    async def _in_turns(
        self, size_bytes: int, caller: Hashable, work: Callable[[Forked], _Work[T]]
    ) -> AsyncGenerator[T, None]:
        if not size_bytes:
            raise Fault(FaultKind.TOO_SHORT, AUDIO)
        turn = self._turns.of(caller)
        async with contextlib.AsyncExitStack() as stack:
            # A turn is held while the decoder owes something, never while its consumer does: not across a yield.
            async with turn.taken():
                forked = (await self._running_server()).fork()
                stack.push_async_callback(forked.end)
                stack.callback(turn.end)
                turn.start(forked)
                begun = work(forked)
                await begun.begin()
                piece = await begun.receive()
            while piece is not None:
                yield piece
                async with turn.taken():
                    piece = await begun.receive()

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncGenerator[LiveEar, None]:
        """An ear for one live session, in a process of its own. Raises BackendError."""
        forked = (await self._running_server()).fork(Message.LISTEN)
        try:
            yield LiveEar(forked)
        finally:
            await forked.end()

    async def _running_server(self) -> ForkServer:
        async with self._launching:
            if self._closed:
                raise BackendError("the audio decoder is closed")
            if self._server is None or not self._server.alive:
                if self._server is not None:
                    await self._server.close()
                self._server = await ForkServer.launch(allow_unsandboxed=self._allow_unsandboxed)
            return self._server


class _Work(Protocol[T_co]):
    """What a decoder is asked for."""

    async def begin(self) -> None:
        """Say what it is. A decoder that stops listening has something to say, which `receive` hears."""

    async def receive(self) -> T_co | None:
        """The next piece, or None after the last. Raises Fault, BackendError."""


class _Heard:
    """What has come of a file or a session so far, and what its decoder says of it in the end."""

    def __init__(self, max_audio_s: int) -> None:
        self.max_audio_s = max_audio_s
        self.pcm_bytes = 0

    def count(self, pcm_bytes: int) -> None:
        """Raises Fault. The decoder counts too; this is for one that no longer does."""
        self.pcm_bytes += pcm_bytes
        if self.pcm_bytes > self.max_audio_s * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE:
            self.heed(Kind.TOO_LONG)

    def heed(self, verdict: Kind) -> None:
        """Raises Fault, BackendError, unless it is done; ValueError where a verdict is none."""
        if verdict is Kind.TOO_LONG:
            raise Fault(FaultKind.TOO_LONG, AUDIO, numbers={"limit_s": self.max_audio_s})
        if verdict is Kind.UNSANDBOXED:
            raise BackendError("a decoder could not enter its sandbox")
        if verdict in _REFUSALS:
            raise Fault(_REFUSALS[verdict], AUDIO)
        if verdict is not Kind.DONE:
            raise ValueError("not what was asked for")


class _Blocks:
    """Blocks of PCM as they come. kept_channels: how many of each beside the mix."""

    def __init__(self, forked: Forked, max_audio_s: int, kept_channels: int = 0) -> None:
        self._forked = forked
        self._heard = _Heard(max_audio_s)
        self._kept_channels = kept_channels

    async def receive(self) -> AudioBlock | None:
        """The next, or None after the last. Raises Fault, BackendError."""
        async with self._forked.believed(), self._forked.patience():
            kind, pcm_bytes, speech_bytes = FRAME.unpack(await self._forked.read(FRAME.size))
            if kind != Kind.AUDIO:
                self._heard.heed(Kind(kind))
                return None
            check_audio_frame(pcm_bytes, speech_bytes)
            if self._heard.pcm_bytes % WINDOW_BYTES:
                raise ValueError("only the last block may end in a short window")
            self._heard.count(pcm_bytes)
            mix, *kept = [
                AudioBlock(await self._forked.read(pcm_bytes), await self._forked.read(speech_bytes))
                for _ in range(1 + self._kept_channels)
            ]
            return AudioBlock(mix.pcm, mix.speech, tuple(kept))


class _Decoding(_Blocks):
    """A whole file goes out, blocks come back."""

    def __init__(
        self, forked: Forked, max_audio_s: int, file: memoryview, raw: RawSamples | None, keep_channels: bool
    ) -> None:
        super().__init__(forked, max_audio_s, KEPT_CHANNELS - 1 if keep_channels else 0)
        self._file = file
        form = (raw.rate_hz, raw.channels, raw.big_endian) if raw else (0, 0, False)
        self._head = _head(len(file), max_audio_s, *form, keep_channels=keep_channels)

    async def begin(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._forked.send(self._head)
            for start in range(0, len(self._file), SEND_BYTES):
                await self._forked.send(self._file[start : start + SEND_BYTES])


class _Splitting:
    """Blocks of the file go out as they are wanted, pieces of parts come back."""

    def __init__(self, forked: Forked, max_audio_s: int, file: KeptFile, part_s: int, excerpt: Excerpt) -> None:
        self._forked = forked
        self._heard = _Heard(max_audio_s)
        self._file = file
        self._part_samples = part_s * SAMPLE_RATE_HZ
        self._excerpt = excerpt
        self._part_bytes = 0
        self._reads_left = READS * -(-file.size_bytes // READ_BYTES) + FEW_READS

    async def begin(self) -> None:
        parts = (self._part_samples, self._excerpt)
        head = _head(self._file.size_bytes, self._heard.max_audio_s, 0, 0, False, parts=parts)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._forked.send(head)

    async def receive(self) -> PartPiece | None:
        async with self._forked.believed():
            while True:
                async with self._forked.patience():
                    kind, first, second = FRAME.unpack(await self._forked.read(FRAME.size))
                if kind != Kind.WANT:
                    break
                await self._give(first)
            if kind != Kind.PIECE:
                self._heard.heed(Kind(kind))
                if self._part_bytes:
                    raise ValueError("the last part has no end")
                return None
            self._check_piece(first, second)
            async with self._forked.patience():
                return PartPiece(await self._forked.read(first), second)

    async def _give(self, number: int) -> None:
        """Send a block of the file; how long it takes to read is no fault of the decoder's."""
        if not self._reads_left:
            raise ValueError("more is wanted than any file needs")
        self._reads_left -= 1
        length = block_bytes(self._file.size_bytes, number)
        block = await self._file.read(number * READ_BYTES, length)
        if len(block) != length:
            raise BackendError("a recording is shorter than it was")
        await self._forked.send(block)

    def _check_piece(self, flac_bytes: int, samples: int) -> None:
        check_piece_frame(flac_bytes, samples, self._part_samples)
        self._part_bytes += flac_bytes
        if not 0 < self._part_bytes <= MAX_FILE_BYTES:
            raise ValueError("a part is empty, or larger than an engine takes")
        if samples:
            self._part_bytes = 0
            self._heard.count(samples * BYTES_PER_SAMPLE)


def _head(
    size_bytes: int,
    max_audio_s: int,
    *form: int,
    keep_channels: bool = False,
    parts: tuple[int, Excerpt] = (0, WHOLE),
) -> bytes:
    cpu_s = CPU_BASE_S + max_audio_s // CPU_SPEED
    part_samples, excerpt = parts
    first, end = (ms * SAMPLE_RATE_HZ // 1000 for ms in (excerpt.start_ms, excerpt.end_ms or 0))
    asked = (part_samples, excerpt.channel, first, end)
    return JOB.pack(size_bytes, max_audio_s * SAMPLE_RATE_HZ, cpu_s, keep_channels, *form, *asked)


class LiveEar:
    """Our end of one live session's process. Whoever calls awaits one call before the next."""

    def __init__(self, forked: Forked) -> None:
        self._forked = forked
        self._blocks = _Blocks(forked, MAX_LIVE_AUDIO_S)
        self._listens = False

    async def hear(self, sound: Sound, rate_hz: int, samples: bytes | bytearray) -> AudioBlock:
        """Take samples of that form, cut anywhere; what is known of them by now, perhaps nothing. Raises BackendError.

        After another form, or the end of a stream, they are the first of another stream.
        """
        view = memoryview(samples)
        starts = range(0, len(view), MAX_SOUND_BYTES)
        return await self._heard([(sound, rate_hz, view[start : start + MAX_SOUND_BYTES]) for start in starts])

    async def end(self) -> AudioBlock:
        """End the stream of samples: what was still unknown of it, filled up with silence. Raises BackendError."""
        return await self._heard([(Sound.END, 0, memoryview(b""))])

    async def _heard(self, stretches: list[tuple[Sound, int, memoryview]]) -> AudioBlock:
        blocks: list[AudioBlock] = []
        try:
            if not self._listens:
                await self._blocks.receive()
                self._listens = True
            for sound, rate_hz, samples in stretches:
                await self._forked.send(SOUND.pack(sound, rate_hz, len(samples)) + samples)
                while (block := await self._blocks.receive()) is not None:
                    blocks.append(block)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise BackendError("the ear of a live session ended") from exc
        except Fault as exc:  # nothing that is said can be at fault here
            raise BackendError("the ear of a live session failed") from exc
        return AudioBlock(b"".join(block.pcm for block in blocks), b"".join(block.speech for block in blocks))
