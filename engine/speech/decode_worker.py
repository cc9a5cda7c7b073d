"""The decoder server: loads the codecs and the speech model once, then forks a process for every file.

`python -m engine.speech.decode_worker FD [--allow-unsandboxed]`, started by `engine.speech.decode`, which shares
nothing with it but the socket FD and speaks `engine.speech.frames` over it. A fork takes milliseconds where loading
takes most of a second, and a process that has served one file is never given another.

The server itself never sees a file: what comes through FD are numbers and sockets, and the sockets it only hands on.
It stays single-threaded, as fork(2) asks, ends when FD is closed, and its children end with it.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from io import BytesIO, FileIO
from typing import Any, NoReturn

from engine.errors import BackendError
from engine.speech import sandbox
from engine.speech.frames import (
    BLOCK_BYTES,
    CONTROL,
    EXIT_UNSANDBOXED,
    FRAME,
    JOB,
    NOT_FORKED,
    WINDOW_BYTES,
    Kind,
    Message,
)
from engine.speech.media import UnreadableMediaError, pcm_of, pcm_of_samples
from engine.speech.vad import VoiceActivityDetector, load_model
from engine.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, RawSamples

CHANNEL_FD = 3
"""The one descriptor of a decoder beside the standard three, which are the null device."""

MIN_SAMPLES = SAMPLE_RATE_HZ // 10
"""OpenAI refuses less than 0.1 s of audio."""

MEMORY_BYTES = 256 << 20
"""What decoding may allocate beside the file itself. Ordinary files need 20 to 40 MB of addresses, of which they fill
less than 16; the rest is room for the indexes of large containers, and the most that a hostile file takes."""

STALL_CPU_S = 20.0
"""A decoder that computes so long without completing a block (2 s of audio, some 10 ms) is going nowhere."""

SILENT_WAV = (
    b"RIFF\x24\x20\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00"
    b"data\x00\x20\x00\x00" + b"\x80" * 0x2000
)
"""A second of 8 kHz silence for the rehearsal."""


class DecoderServer:
    """Forks decoders, kills them when told, and reports their ends."""

    def __init__(self, control: socket.socket, model: Any, *, allow_unsandboxed: bool) -> None:
        self._control = control
        self._model = model
        self._allow_unsandboxed = allow_unsandboxed
        self._pids: dict[int, int] = {}
        """Job to process, from its fork until it is reaped: no pid in here can belong to anybody else by now."""

    def serve(self) -> None:
        """Serve until the engine closes its end."""
        wake_read, wake_write = socket.socketpair()
        wake_write.setblocking(False)
        # A signal without a handler is not delivered at all; the wakeup descriptor does what there is to do.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            self._say(Message.READY, 0)
            serving = True
            while serving:
                ready = {key.fileobj for key, _ in selector.select()}
                if wake_read in ready:
                    wake_read.recv(4096)
                    self._reap()
                if self._control in ready:
                    serving = self._take_order()

    def _take_order(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self._control, CONTROL.size, 1)
        if not packet:
            return False
        message, job, _ = CONTROL.unpack(packet)
        if message == Message.START:
            self._fork(job, fds[0])
        elif message == Message.KILL and job in self._pids:
            os.kill(self._pids[job], signal.SIGKILL)
        return True

    def _fork(self, job: int, channel: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._say(Message.ENDED, job, NOT_FORKED)
        else:
            if pid == 0:
                run_and_exit(
                    lambda: decode_one(
                        channel, self._model, server_pid=server, allow_unsandboxed=self._allow_unsandboxed
                    )
                )
            self._pids[job] = pid
        os.close(channel)

    def _reap(self) -> None:
        # One signal may stand for several children: ask after each.
        for job, pid in list(self._pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._pids[job]
                self._say(Message.ENDED, job, status)

    def _say(self, message: Message, job: int, status: int = 0) -> None:
        self._control.send(CONTROL.pack(message, job, status))


def run_and_exit(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process and end it, however the work ends: never return into the server's loop."""
    status = 1
    try:
        work()
        status = 0
    except Exception:  # noqa: BLE001 - the process ends here: this is its outermost frame
        # For a rehearsal's installer to read. A file's decoder writes it to the null device.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def decode_one(channel: int, model: Any, *, server_pid: int, allow_unsandboxed: bool) -> None:
    """Serve one file, in a process forked for it."""
    sandbox.die_with_parent(server_pid)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(channel, CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    engine = FileIO(CHANNEL_FD, "r+", closefd=False)
    size, max_samples, cpu_s, rate_hz, *form = JOB.unpack(_received(engine, JOB.size).getvalue())
    try:
        limits = sandbox.Limits(memory_bytes=size + MEMORY_BYTES, cpu_s=cpu_s)
        sandbox.enter(limits, allow_unsandboxed=allow_unsandboxed)
    except BackendError:
        verdict = Kind.UNSANDBOXED
    else:
        file = _received(engine, size)
        raw = RawSamples(rate_hz, *form) if rate_hz else None
        verdict = decode(file, VoiceActivityDetector(model), max_samples, lambda data: _send(engine, data), raw)
    _send(engine, FRAME.pack(verdict, 0, 0))


def decode(
    file: BytesIO,
    detector: VoiceActivityDetector,
    max_samples: int,
    send: Callable[[bytes], None],
    raw: RawSamples | None = None,
) -> Kind:
    """Send a file's blocks as they are decoded, and say how it ended."""
    samples = 0
    _expect_progress()
    try:
        for pcm in _blocks(pcm_of_samples(file, raw) if raw else pcm_of(file)):
            samples += len(pcm) // BYTES_PER_SAMPLE
            if samples > max_samples:
                return Kind.TOO_LONG
            if samples < MIN_SAMPLES:
                return Kind.TOO_SHORT
            speech = detector.probabilities(pcm.ljust(-(-len(pcm) // WINDOW_BYTES) * WINDOW_BYTES, b"\0"))
            send(FRAME.pack(Kind.AUDIO, len(pcm), len(speech)) + pcm + speech)
            _expect_progress()
    except (UnreadableMediaError, MemoryError):
        return Kind.UNSUPPORTED
    return Kind.DONE if samples else Kind.TOO_SHORT


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= BLOCK_BYTES:
            yield bytes(pending[:BLOCK_BYTES])
            del pending[:BLOCK_BYTES]
    if pending:
        yield bytes(pending)


def _expect_progress() -> None:
    # SIGPROF ends the process; waiting for a slow engine costs no processor time and does not count.
    signal.setitimer(signal.ITIMER_PROF, STALL_CPU_S)


def _received(engine: FileIO, size: int) -> BytesIO:
    """Read exactly `size` bytes into memory, once: a file is as large as the engine lets it be."""
    file = BytesIO(bytes(size))
    have = 0
    with file.getbuffer() as view:
        while have < size:
            got = engine.readinto(view[have:])
            if not got:
                raise EOFError("the engine hung up")
            have += got
    return file


def _send(engine: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[engine.write(view) or 0 :]


def rehearse(model: Any) -> None:
    """Decode silence, samples and rubbish: everything is imported that is ever imported. Raises BackendError."""
    raw = RawSamples(8_000)
    for file, form, expected in (
        (SILENT_WAV, None, Kind.DONE),
        (SILENT_WAV, raw, Kind.DONE),
        (b"rubbish", None, Kind.UNSUPPORTED),
    ):
        detector = VoiceActivityDetector(model)
        if decode(BytesIO(file), detector, 2 * SAMPLE_RATE_HZ, lambda _: None, form) is not expected:
            raise BackendError("the rehearsal of the audio decoder failed")
    signal.setitimer(signal.ITIMER_PROF, 0)


def rehearse_in_sandbox(model: Any, *, allow_unsandboxed: bool) -> None:
    """Rehearse as a decoder would, so that a kernel or library that does not fit shows before the first file.

    Ends the process with `EXIT_UNSANDBOXED` where the sandbox is not available or not tight. Raises BackendError.
    """
    try:
        sandbox.enter(sandbox.Limits(MEMORY_BYTES, cpu_s=60), allow_unsandboxed=allow_unsandboxed)
        if not allow_unsandboxed:
            _refuse_open_doors()
    except BackendError:
        os._exit(EXIT_UNSANDBOXED)
    rehearse(model)


def _refuse_open_doors() -> None:
    try:
        os.open(os.devnull, os.O_RDONLY)
    except PermissionError:
        return
    raise BackendError("the decoder's sandbox lets files be opened")


def main(arguments: list[str]) -> None:
    """Load, rehearse, serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to answer; it then closes the socket
    sandbox.die_first()  # a file that takes all memory takes its own decoder, not the engine
    sandbox.forbid_dumps()
    allow_unsandboxed = "--allow-unsandboxed" in arguments
    model = load_model()
    rehearse(model)
    _rehearse_in_a_child(model, allow_unsandboxed=allow_unsandboxed)
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 - names are all that is wanted
        sys.exit("a library started a thread in the decoder server, which must not have any when it forks")
    # Until here a message on stderr is about the installation; from here on it could be about somebody's file.
    with open(os.devnull, "r+b") as null_device:  # noqa: PTH123
        os.dup2(null_device.fileno(), sys.stderr.fileno())
    gc.freeze()  # what is loaded stays: children need not copy pages to mark it
    with socket.socket(fileno=int(arguments[0])) as control:
        DecoderServer(control, model, allow_unsandboxed=allow_unsandboxed).serve()


def _rehearse_in_a_child(model: Any, *, allow_unsandboxed: bool) -> None:
    pid = os.fork()
    if pid == 0:
        run_and_exit(lambda: rehearse_in_sandbox(model, allow_unsandboxed=allow_unsandboxed))
    if (code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) != 0:
        sys.exit(code if code == EXIT_UNSANDBOXED else "the decoder's rehearsal in its sandbox failed")


if __name__ == "__main__":
    main(sys.argv[1:])
