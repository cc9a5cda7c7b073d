"""How does an uploaded file become audio, when the process that holds keys must run no codec?

By another process, `engine.speech.decode_worker`, started clean (fork and exec, an environment of five lines, no
descriptor but one socket), which forks a sandboxed decoder for every file. Here is only asyncio: the file goes out
through a socket, blocks of PCM come back, and closing the generator kills the decoder.

Files take turns, block by block. A decoder waits for its consumer, which may be as slow as recognition is, and while it
waits it holds memory and no turn: many long files make a short one wait for a block of each, not for their ends.

Whose fault it is when a decoder ends early: the file's, if the decoder died by itself (a signal, its limits, a lie
about lengths); ours, if the server died with it, no process could be forked, or a minute passed in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator
from pathlib import Path

from engine.errors import BackendError, ErrorCode, RequestError
from engine.speech.frames import (
    CONTROL,
    EXIT_UNSANDBOXED,
    FRAME,
    JOB,
    NOT_FORKED,
    SOCKET_BUFFER_BYTES,
    WINDOW_BYTES,
    Kind,
    Message,
    check_audio_frame,
)
from engine.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, AudioBlock, RawSamples

MAX_AUDIO_S = 4 * 3600

STALL_S = 60.0
"""A decoder from which nothing comes for so long is killed. Its own limit counts processor time and strikes far
earlier, so this is a machine too busy to run it."""

START_S = 60.0
"""How long the decoder server may take to load."""

CPU_BASE_S = 60
CPU_SPEED = 20
"""A file may use `CPU_BASE_S` and one processor second for every `CPU_SPEED` seconds of the longest audio allowed;
measured, decoding and voice activity need one for every 120 to 300."""

SEND_BYTES = 1 << 20
"""How much of a file is sent under one `STALL_S`."""

_REFUSALS = {Kind.UNSUPPORTED: ErrorCode.UNSUPPORTED_FILE, Kind.TOO_SHORT: ErrorCode.AUDIO_TOO_SHORT}

_log = logging.getLogger(__name__)


class AudioDecoder:
    """Turns files into PCM and speech probabilities, each file in a process of its own.

    max_audio_s: longer files are refused, while they are decoded.
    max_files: how many decoders may be at work at a time, beside what each does ahead, `SOCKET_BUFFER_BYTES`; how many
        there are is for whoever admits requests to say. By default one for each processor.
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
        self._slots = asyncio.Semaphore(max_files or len(os.sched_getaffinity(0)))
        self._allow_unsandboxed = allow_unsandboxed_decoder
        self._server: _Server | None = None
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

    async def decode(
        self, audio: bytes | bytearray | memoryview, raw: RawSamples | None = None
    ) -> AsyncGenerator[AudioBlock, None]:
        """Decode a file. Closing the generator, or cancelling the task in it, kills the file's decoder.

        audio: the whole file, in any container FFmpeg knows that refers to nothing outside itself. Not copied.
        raw: what it is if it has no container.
        Raises RequestError, before or between blocks: UNSUPPORTED_FILE, AUDIO_TOO_LONG (`limit_s`), AUDIO_TOO_SHORT,
        TIMEOUT. Raises BackendError if the decoder server is at fault; the next file gets a new one.
        """
        file = memoryview(audio).cast("B")
        if not file:
            raise RequestError(ErrorCode.AUDIO_TOO_SHORT, "file")
        async with contextlib.AsyncExitStack() as stack:
            # A slot is held while the decoder owes something, never while its consumer does: not across a yield.
            async with self._slots:
                job = (await self._running_server()).fork(self._max_audio_s)
                stack.push_async_callback(job.end)
                await job.send(file, raw)
                block = await job.receive()
            while block is not None:
                yield block
                async with self._slots:
                    block = await job.receive()

    async def _running_server(self) -> _Server:
        async with self._launching:
            if self._closed:
                raise BackendError("the audio decoder is closed")
            if self._server is None or not self._server.alive:
                if self._server is not None:
                    await self._server.close()
                self._server = await _Server.launch(allow_unsandboxed=self._allow_unsandboxed)
            return self._server


class _Job:
    """The engine's end of one file's decoder.

    ended: the decoder's wait status once it is gone, None if its server went with it.
    """

    def __init__(self, server: _Server, number: int, channel: socket.socket, max_audio_s: int) -> None:
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._number = number
        self._channel = channel
        self._max_audio_s = max_audio_s
        self._received_bytes = 0

    async def send(self, file: memoryview, raw: RawSamples | None) -> None:
        """Send the file. A decoder that stops listening has something to say: see `receive`."""
        loop = asyncio.get_running_loop()
        cpu_s = CPU_BASE_S + self._max_audio_s // CPU_SPEED
        form = (raw.rate_hz, raw.channels, raw.big_endian) if raw else (0, 0, False)
        try:
            await loop.sock_sendall(
                self._channel, JOB.pack(len(file), self._max_audio_s * SAMPLE_RATE_HZ, cpu_s, *form)
            )
            for start in range(0, len(file), SEND_BYTES):
                async with _patience():
                    await loop.sock_sendall(self._channel, file[start : start + SEND_BYTES])
        except (BrokenPipeError, ConnectionResetError):
            return

    async def receive(self) -> AudioBlock | None:
        """The next block, or None after the last. Raises RequestError, BackendError."""
        try:
            async with _patience():
                kind, pcm_bytes, speech_bytes = FRAME.unpack(await self._read(FRAME.size))
                if kind != Kind.AUDIO:
                    self._heed(Kind(kind))
                    return None
                self._check(pcm_bytes, speech_bytes)
                return AudioBlock(await self._read(pcm_bytes), await self._read(speech_bytes))
        except ValueError as exc:
            # Only a decoder that its file has taken over speaks like this.
            _log.warning("the decoder of a file broke the protocol and was killed")
            raise RequestError(ErrorCode.UNSUPPORTED_FILE, "file") from exc
        except (EOFError, ConnectionResetError) as exc:
            raise await self._cause_of_death() from exc

    def _check(self, pcm_bytes: int, speech_bytes: int) -> None:
        check_audio_frame(pcm_bytes, speech_bytes)
        if self._received_bytes % WINDOW_BYTES:
            raise ValueError("only the last block may end in a short window")
        self._received_bytes += pcm_bytes
        # The decoder counts too; this is for one that no longer does.
        if self._received_bytes > self._max_audio_s * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE:
            self._heed(Kind.TOO_LONG)

    def _heed(self, verdict: Kind) -> None:
        if verdict is Kind.TOO_LONG:
            limit = {"limit_s": self._max_audio_s}
            raise RequestError(ErrorCode.AUDIO_TOO_LONG, "file", numbers=limit)
        if verdict is Kind.UNSANDBOXED:
            raise BackendError("a decoder could not enter its sandbox")
        if verdict in _REFUSALS:
            raise RequestError(_REFUSALS[verdict], "file")

    async def _read(self, size: int) -> bytes:
        # By hand and not through asyncio's streams: nothing is read that nobody asked for.
        loop = asyncio.get_running_loop()
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = await loop.sock_recv_into(self._channel, view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(data)

    async def _cause_of_death(self) -> RequestError | BackendError:
        self._server.kill(self._number)  # should it have closed its socket only
        status = await asyncio.shield(self.ended)
        if status is None:
            return BackendError("the decoder server ended")
        if status == NOT_FORKED:
            return BackendError("no process could be forked to decode a file")
        # A negative code is a signal's number: 9 and 11 suggest an attack or a bug, 24 and 27 the CPU limits.
        _log.warning("the decoder of a file ended early: code %d", os.waitstatus_to_exitcode(status))
        return RequestError(ErrorCode.UNSUPPORTED_FILE, "file")

    async def end(self) -> None:
        """Kill the decoder unless it has ended, and wait until it is gone."""
        self._channel.close()
        if not self.ended.done():
            self._server.kill(self._number)
            await asyncio.wait([self.ended])


@contextlib.asynccontextmanager
async def _patience() -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(STALL_S):
            yield
    except TimeoutError as exc:
        raise RequestError(ErrorCode.TIMEOUT) from exc


class _Server:
    """The engine's end of one decoder server process."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count(1)
        self._ready: asyncio.Future[bool] = loop.create_future()
        self.alive = True
        loop.add_reader(control, self._on_packet)

    @classmethod
    async def launch(cls, *, allow_unsandboxed: bool) -> _Server:
        try:
            process, control = await _spawn(allow_unsandboxed=allow_unsandboxed)
        except OSError as exc:  # no descriptor, process or memory is left
            raise BackendError("the decoder server could not be started") from exc
        server = cls(process, control)
        try:
            await server._until_ready()
        except BaseException:
            await server.close()
            raise
        return server

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                if await self._ready:
                    return
                code = await self._process.wait()
        except TimeoutError as exc:
            raise BackendError("the decoder server did not start in time") from exc
        if code == EXIT_UNSANDBOXED:
            raise BackendError("the decoder's sandbox (seccomp filters) is not available on this kernel")
        raise BackendError("the decoder server did not start")

    def fork(self, max_audio_s: int) -> _Job:
        """Have a decoder forked. Raises BackendError if the server is gone, or no descriptor is left."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise BackendError("there is no socket for another decoder") from exc
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        number = next(self._numbers)
        with theirs:
            try:
                socket.send_fds(self._control, [CONTROL.pack(Message.START, number, 0)], [theirs.fileno()])
            except OSError as exc:
                ours.close()
                raise BackendError("the decoder server takes no orders") from exc
        job = self._jobs[number] = _Job(self, number, ours, max_audio_s)
        return job

    def kill(self, number: int) -> None:
        """Have a decoder killed, if it runs. A server that is gone has taken its decoders with it."""
        # An order that hundreds before it leave no room for is lost; the decoder then ends at its next word, unheard.
        with contextlib.suppress(OSError):
            self._control.send(CONTROL.pack(Message.KILL, number, 0))

    async def close(self) -> None:
        """Stop the server, and with it every decoder; safe to call twice."""
        self._bury()
        if self._process.returncode is None:
            # Not Process.kill(), which polls first and may take the exit status that asyncio waits for.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def _on_packet(self) -> None:
        try:
            packet = self._control.recv(CONTROL.size)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._bury()
            return
        message, number, status = CONTROL.unpack(packet)
        if message == Message.READY:
            self._ready.set_result(True)
        elif message == Message.ENDED:
            self._jobs.pop(number).ended.set_result(status)

    def _bury(self) -> None:
        if not self.alive:
            return
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if not self._ready.done():
            self._ready.set_result(False)
        for job in self._jobs.values():
            job.ended.set_result(None)
        self._jobs.clear()


async def _spawn(*, allow_unsandboxed: bool) -> tuple[Process, socket.socket]:
    """Start a decoder server: its process, and our end of the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        command = [sys.executable, "-P", "-s", "-B", "-m", "engine.speech.decode_worker", str(theirs.fileno())]
        if allow_unsandboxed:
            command.append("--allow-unsandboxed")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=DEVNULL,  # stderr stays ours until the server serves; it then drops it
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def _environment() -> dict[str, str]:
    """All that the decoder server sees of the engine's environment, which may hold secrets: nothing."""
    return {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LC_ALL": "C.UTF-8",
        # Threads do not survive fork(2).
        "OPENBLAS_NUM_THREADS": "1",
        # onnxruntime otherwise writes an identifier to the home directory and reports to its makers.
        "ORT_DISABLE_TELEMETRY": "1",
        # FFmpeg's TLS library, never used here, otherwise looks for its settings below /tmp.
        "GNUTLS_NO_IMPLICIT_INIT": "1",
    }
