"""How does a process that holds keys have others work on bytes that it does not trust?

By `core.media.worker`, a server started clean (fork and exec, an environment of five lines, no descriptor but one
socket), which forks a sandboxed process for every file and every live session. Here is its end of each: a socket to
what was forked, and through the server its pauses and its death.

Whose fault it is when one ends early: the file's, if it died by itself (a signal, its limits, a lie about lengths);
ours, if the server died with it, no process could be forked, or a minute passed in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import AsyncGenerator

import structlog

from core.errors import BackendError
from core.media.frames import CONTROL, EXIT_UNSANDBOXED, NOT_FORKED, SOCKET_BUFFER_BYTES, Message
from core.program.isolation import IMPORT_PATH
from core.transcript.faults import AUDIO, Fault, FaultKind

STALL_S = 60.0
"""A process from which nothing comes for so long is killed. Its own limit counts processor time and strikes far
earlier, so this is a machine too busy to run it."""

START_S = 60.0
"""How long the server may take to load."""

_log = structlog.get_logger(__name__)


class Forked:
    """Our end of one process that the server forked.

    ended: its wait status once it is gone, None if the server went with it.
    """

    def __init__(self, server: ForkServer, number: int, channel: socket.socket) -> None:
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._number = number
        self._channel = channel
        self._deadline: asyncio.Timeout | None = None

    async def send(self, data: bytes | memoryview) -> None:
        """Raises Fault TIMED_OUT; ConnectionResetError or BrokenPipeError where nobody listens."""
        async with self.patience():
            await asyncio.get_running_loop().sock_sendall(self._channel, data)

    async def read(self, size: int) -> bytes:
        """Raises EOFError, ConnectionResetError. Under `patience`."""
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

    @contextlib.asynccontextmanager
    async def patience(self) -> AsyncGenerator[None, None]:
        """Give it `STALL_S`, in which its pauses do not count. Raises Fault TIMED_OUT."""
        try:
            async with asyncio.timeout(STALL_S) as self._deadline:
                yield
        except TimeoutError as exc:
            raise Fault(FaultKind.TIMED_OUT) from exc
        finally:
            self._deadline = None

    @contextlib.asynccontextmanager
    async def believed(self) -> AsyncGenerator[None, None]:
        """What of the conversation fails is somebody's fault: ValueError is what it may not say."""
        try:
            yield
        except ValueError as exc:
            # Only a decoder that its file has taken over speaks like this.
            _log.warning("decoder_broke_protocol")
            raise Fault(FaultKind.UNREADABLE, AUDIO) from exc
        except (EOFError, ConnectionResetError, BrokenPipeError) as exc:
            raise await self._cause_of_death() from exc

    async def _cause_of_death(self) -> Fault | BackendError:
        self._server.order(Message.KILL, self._number)  # should it have closed its socket only
        status = await asyncio.shield(self.ended)
        if status is None:
            return BackendError("the decoder server ended")
        if status == NOT_FORKED:
            return BackendError("no process could be forked to decode a file")
        # A negative code is a signal's number: 9 and 11 suggest an attack or a bug, 24 and 27 the CPU limits.
        _log.warning("decoder_ended_early", code=os.waitstatus_to_exitcode(status))
        return Fault(FaultKind.UNREADABLE, AUDIO)

    async def end(self) -> None:
        """Kill it unless it has ended, and wait until it is gone."""
        self._channel.close()
        if not self.ended.done():
            self._server.order(Message.KILL, self._number)
            await asyncio.wait([self.ended])

    def pause(self) -> None:
        """Have it wait; that time does not count as a stall."""
        self._server.order(Message.PAUSE, self._number)
        self._expect_within(None)

    def resume(self) -> None:
        """Let it go on."""
        self._server.order(Message.RESUME, self._number)
        self._expect_within(STALL_S)

    def _expect_within(self, patience_s: float | None) -> None:
        if self._deadline is not None and not self._deadline.expired():
            now_s = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if patience_s is None else now_s + patience_s)


class ForkServer:
    """Our end of one server process."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self._forked: dict[int, Forked] = {}
        self._numbers = itertools.count(1)
        self._orders: deque[bytes] = deque()
        self._ready: asyncio.Future[bool] = loop.create_future()
        self.alive = True
        loop.add_reader(control, self._on_packet)

    @classmethod
    async def launch(cls, *, allow_unsandboxed: bool) -> ForkServer:
        """Raises BackendError."""
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

    def fork(self, work: Message = Message.START) -> Forked:
        """Have a decoder forked, or an ear. Raises BackendError if the server is gone, or no descriptor is left."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise BackendError("there is no socket for another decoder") from exc
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        number = next(self._numbers)
        with theirs:
            try:
                socket.send_fds(self._control, [CONTROL.pack(work, number, 0)], [theirs.fileno()])
            except OSError as exc:
                ours.close()
                raise BackendError("the decoder server takes no orders") from exc
        forked = self._forked[number] = Forked(self, number, ours)
        return forked

    def order(self, message: Message, number: int) -> None:
        """Have a decoder killed, paused or resumed, if it runs. One whose server is gone has gone with it."""
        if self.alive:
            self._orders.append(CONTROL.pack(message, number, 0))
            self._send_orders()

    def _send_orders(self) -> None:
        loop = asyncio.get_running_loop()
        while self._orders:
            try:
                self._control.send(self._orders[0])
            except BlockingIOError:  # hundreds are on their way: none may be lost, or overtake another
                loop.add_writer(self._control, self._send_orders)
                return
            except OSError:
                break  # nobody takes orders any more; `_on_packet` will hear of it
            self._orders.popleft()
        self._orders.clear()
        loop.remove_writer(self._control)

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
            self._forked.pop(number).ended.set_result(status)

    def _bury(self) -> None:
        if not self.alive:
            return
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._control)
        asyncio.get_running_loop().remove_writer(self._control)
        self._control.close()
        if not self._ready.done():
            self._ready.set_result(False)
        for forked in self._forked.values():
            forked.ended.set_result(None)
        self._forked.clear()


async def _spawn(*, allow_unsandboxed: bool) -> tuple[Process, socket.socket]:
    """Start a decoder server: its process, and our end of the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        command = [sys.executable, "-P", "-s", "-B", "-m", "core.media.worker", str(theirs.fileno())]
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
        "PYTHONPATH": IMPORT_PATH,
        "LC_ALL": "C.UTF-8",
        # Threads do not survive fork(2).
        "OPENBLAS_NUM_THREADS": "1",
        # onnxruntime otherwise writes an identifier to the home directory and reports to its makers.
        "ORT_DISABLE_TELEMETRY": "1",
        # FFmpeg's TLS library, never used here, otherwise looks for its settings below /tmp.
        "GNUTLS_NO_IMPLICIT_INIT": "1",
    }
