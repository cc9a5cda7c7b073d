"""The decoder server: loads the codecs and the speech model once, then forks a process for every file and live session.

`python -m core.media.worker FD [--allow-unsandboxed]`, started by `core.media.decode`, which shares
nothing with it but the socket FD and speaks `core.media.frames` over it. A fork takes milliseconds where loading
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
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO, FileIO
from typing import Any, NoReturn, Protocol

from core.errors import BackendError
from core.media import sandbox
from core.media.content import Content, InBlocks, InMemory, block_bytes
from core.media.cuts import PartCutter, Stretch
from core.media.ear import Ear, listen
from core.media.encoding import FlacEncoder
from core.media.frames import (
    BLOCK_BYTES,
    CONTROL,
    EXIT_UNSANDBOXED,
    FRAME,
    JOB,
    NOT_FORKED,
    WINDOW_BYTES,
    Kind,
    Message,
    Sound,
)
from core.media.media import pcm_of, pcm_of_samples
from core.media.sound import ALL, Samples, UnreadableMediaError, excerpt_of, is_silence
from core.media.tracks import most_spoken
from core.media.types import BYTES_PER_SAMPLE, KEPT_CHANNELS, SAMPLE_RATE_HZ, AudioBlock, RawSamples
from core.media.vad import VoiceActivityDetector, load_model
from core.program.memory import forbid_dumps

CHANNEL_FD = 3
"""The one descriptor of a decoder beside the standard three, which are the null device."""

MIN_SAMPLES = SAMPLE_RATE_HZ // 10
"""OpenAI refuses less than 0.1 s of audio."""

MEMORY_BYTES = 256 << 20
"""What decoding may allocate beside the file itself. Ordinary files need 20 to 40 MB of addresses, of which they fill
less than 16; the rest is room for the indexes of large containers, and the most that a hostile file takes."""

LIVE_MEMORY_BYTES = 64 << 20
"""What hearing a live session may allocate: a few megabytes, and the pages that allocators ask for at a time."""

LIVE_CPU_S = 1_800
"""An hour of sound takes some forty seconds of processor time, in the smallest pieces some minutes."""

STALL_CPU_S = 20.0
"""A decoder that computes so long without completing a block (2 s of audio, some 10 ms) is going nowhere."""

SCAN_BYTES_PER_CPU_S = 50_000_000
"""So fast a large file is looked through, before its first block (chains, indexes) and between two (pictures)."""

SILENT_WAV = (
    b"RIFF\x24\x20\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00"
    b"data\x00\x20\x00\x00" + b"\x80" * 0x2000
)
"""A second of 8 kHz silence for the rehearsal; taken for raw samples it is none."""


SIGNALS = {Message.KILL: signal.SIGKILL, Message.PAUSE: signal.SIGSTOP, Message.RESUME: signal.SIGCONT}


class DecoderServer:
    """Forks decoders, pauses and kills them when told, and reports their ends."""

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
        if message in WORK:
            self._fork(job, fds[0], WORK[Message(message)])
        elif message in SIGNALS and job in self._pids:
            os.kill(self._pids[job], SIGNALS[message])
        return True

    def _fork(self, job: int, channel: int, work: Work) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._say(Message.ENDED, job, NOT_FORKED)
        else:
            if pid == 0:
                run_and_exit(
                    lambda: work(_alone_with(channel, server), self._model, allow_unsandboxed=self._allow_unsandboxed)
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


def _alone_with(channel: int, server_pid: int) -> FileIO:
    """Leave what was inherited, in a process just forked, but for the way to the engine."""
    sandbox.die_with_parent(server_pid)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(channel, CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    return FileIO(CHANNEL_FD, "r+", closefd=False)


def decode_one(engine: FileIO, model: Any, *, allow_unsandboxed: bool) -> None:
    """Serve one file, in a process forked for it."""
    head = JOB.unpack(_received(engine, JOB.size).getvalue())
    size, max_samples, cpu_s, keep_channels, rate_hz, channels, big_endian, part_samples, *asked = head
    try:
        limits = sandbox.Limits(memory_bytes=MEMORY_BYTES + (0 if part_samples else size), cpu_s=cpu_s)
        sandbox.enter(limits, allow_unsandboxed=allow_unsandboxed)
    except BackendError:
        verdict = Kind.UNSANDBOXED
    else:
        raw = RawSamples(rate_hz, channels, big_endian) if rate_hz else None

        def send(data: bytes) -> None:
            _send(engine, data)

        if part_samples:
            verdict = split(_kept(engine, size), model, max_samples, part_samples, send, wanted=Samples(*asked))
        else:
            verdict = decode(_received(engine, size), model, max_samples, send, raw, keep_channels=keep_channels)
    _send(engine, FRAME.pack(verdict, 0, 0))


def _kept(engine: FileIO, size: int) -> InBlocks:
    """A file that stays where it is: each block comes when it is wanted."""

    def fetch(number: int) -> bytes:
        _send(engine, FRAME.pack(Kind.WANT, number, 0))
        return _received(engine, block_bytes(size, number)).getvalue()

    return InBlocks(size, fetch)


def hear_one(engine: FileIO, model: Any, *, allow_unsandboxed: bool) -> None:
    """Serve one live session, in a process forked for it."""
    try:
        limits = sandbox.Limits(memory_bytes=LIVE_MEMORY_BYTES, cpu_s=LIVE_CPU_S)
        sandbox.enter(limits, allow_unsandboxed=allow_unsandboxed)
    except BackendError:
        _send(engine, FRAME.pack(Kind.UNSANDBOXED, 0, 0))
        return
    _send(engine, FRAME.pack(Kind.DONE, 0, 0))
    _expect_progress()
    listen(model, lambda size: _read(engine, size), lambda data: _send(engine, data), _expect_progress)


class Work(Protocol):
    """What a forked process does."""

    def __call__(self, engine: FileIO, model: Any, *, allow_unsandboxed: bool) -> None: ...


WORK: Mapping[Message, Work] = {Message.START: decode_one, Message.LISTEN: hear_one}


def decode(
    file: BytesIO,
    model: Any,
    max_samples: int,
    send: Callable[[bytes], None],
    raw: RawSamples | None = None,
    *,
    keep_channels: bool = False,
) -> Kind:
    """Send a file's blocks as they are decoded, and say how it ended."""

    def use(block: AudioBlock) -> None:
        parts = [part for channel in (block, *block.channels) for part in (channel.pcm, channel.speech)]
        send(FRAME.pack(Kind.AUDIO, len(block.pcm), len(block.speech)) + b"".join(parts))

    def tracks() -> list[Iterator[bytes]]:
        if raw:
            return [pcm_of_samples(file, raw, keep_channels=keep_channels)]
        return pcm_of(InMemory(file.getvalue()), keep_channels=keep_channels)

    return _listened(tracks, model, max_samples, use, channels=KEPT_CHANNELS if keep_channels else 1)


def split(
    content: Content,
    model: Any,
    max_samples: int,
    part_samples: int,
    send: Callable[[bytes], None],
    *,
    wanted: Samples = ALL,
) -> Kind:
    """Send what is wanted of a file, cut into parts, each as a FLAC file, and say how it ended."""
    parts = _Parts(PartCutter(part_samples), send)

    def tracks() -> list[Iterator[bytes]]:
        whole = pcm_of(content, keep_channels=wanted.channel > 0)
        return [excerpt_of(pcm, wanted, skipped=_expect_progress) for pcm in whole]

    verdict = _listened(tracks, model, max_samples, parts.push, patience_bytes=content.size)
    if verdict is Kind.DONE:
        parts.finish()
    return verdict


class _Parts:
    """Encodes what the cutter cuts."""

    def __init__(self, cutter: PartCutter, send: Callable[[bytes], None]) -> None:
        self._cutter = cutter
        self._send = send
        self._encoder = FlacEncoder()

    def push(self, block: AudioBlock) -> None:
        for stretch in self._cutter.push(block):
            self._write(stretch)

    def finish(self) -> None:
        for stretch in self._cutter.finish():
            self._write(stretch)

    def _write(self, stretch: Stretch) -> None:
        for start in range(0, len(stretch.pcm), BLOCK_BYTES):
            if flac := self._encoder.push(stretch.pcm[start : start + BLOCK_BYTES]):
                self._send(FRAME.pack(Kind.PIECE, len(flac), 0) + flac)
        if stretch.ends:
            flac, samples = self._encoder.end(), self._encoder.samples
            self._send(FRAME.pack(Kind.PIECE, len(flac), samples) + flac)
            self._encoder = FlacEncoder()


def _listened(
    tracks: Callable[[], list[Iterator[bytes]]],
    model: Any,
    max_samples: int,
    use: Callable[[AudioBlock], None],
    *,
    channels: int = 1,
    patience_bytes: int = 0,
) -> Kind:
    """Decode, listen for speech, and have every block used. patience_bytes: so much may have to be looked through."""
    samples = 0
    stall_cpu_s = STALL_CPU_S + patience_bytes / SCAN_BYTES_PER_CPU_S
    _expect_progress(stall_cpu_s)
    try:
        for block in most_spoken([_blocks(pcm, model, channels) for pcm in tracks()]):
            samples += len(block.pcm) // BYTES_PER_SAMPLE
            if samples > max_samples:
                return Kind.TOO_LONG
            if samples < MIN_SAMPLES:
                return Kind.TOO_SHORT
            use(block)
            _expect_progress(stall_cpu_s)
    except (UnreadableMediaError, MemoryError):
        return Kind.UNSUPPORTED
    return Kind.DONE if samples else Kind.TOO_SHORT


def _blocks(pieces: Iterator[bytes], model: Any, channels: int) -> Iterator[AudioBlock]:
    """The blocks of a track. channels: 1, or `KEPT_CHANNELS`, each of which is listened to by itself."""
    detectors = [VoiceActivityDetector(model) for _ in range(channels)]
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= channels * BLOCK_BYTES:
            yield _block(bytes(pending[: channels * BLOCK_BYTES]), detectors)
            del pending[: channels * BLOCK_BYTES]
    if pending:
        yield _block(bytes(pending), detectors)


def _block(pcm: bytes, detectors: Sequence[VoiceActivityDetector]) -> AudioBlock:
    interleaved = array("h", pcm)
    tracks = (interleaved[number :: len(detectors)].tobytes() for number in range(len(detectors)))
    mix, *kept = (_listened_to(track, detector) for track, detector in zip(tracks, detectors, strict=True))
    return AudioBlock(mix.pcm, mix.speech, tuple(kept))


def _listened_to(pcm: bytes, detector: VoiceActivityDetector) -> AudioBlock:
    windows = -(-len(pcm) // WINDOW_BYTES)
    if is_silence(pcm):  # hours of it take a timestamp of eight bytes; they must not take the model's time
        return AudioBlock(pcm, bytes(windows))
    return AudioBlock(pcm, detector.probabilities(pcm.ljust(windows * WINDOW_BYTES, b"\0")))


def _expect_progress(within_cpu_s: float = STALL_CPU_S) -> None:
    # SIGPROF ends the process; waiting for a slow engine costs no processor time and does not count.
    signal.setitimer(signal.ITIMER_PROF, within_cpu_s)


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


def _read(engine: FileIO, size: int) -> bytes:
    """`size` bytes, or fewer where the engine has hung up."""
    data = bytearray()
    while len(data) < size and (piece := engine.read(size - len(data))):
        data += piece
    return bytes(data)


def _send(engine: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[engine.write(view) or 0 :]


def rehearse(model: Any) -> None:
    """Decode silence, samples and rubbish: everything is imported that is ever imported. Raises BackendError."""
    raw = RawSamples(8_000, channels=2)
    for file, form, expected in (
        (SILENT_WAV, None, Kind.DONE),
        (SILENT_WAV, raw, Kind.DONE),
        (b"rubbish", None, Kind.UNSUPPORTED),
    ):
        if decode(BytesIO(file), model, 2 * SAMPLE_RATE_HZ, lambda _: None, form) is not expected:
            raise BackendError("the rehearsal of the audio decoder failed")
    if split(InMemory(SILENT_WAV), model, 2 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, lambda _: None) is not Kind.DONE:
        raise BackendError("the rehearsal of the audio encoder failed")
    ear = Ear(model)
    for sound in (Sound.PCM, Sound.PCMU, Sound.PCMA, Sound.END):
        if not list(ear.hear(sound, 8_000, bytes(8_000))) and sound is not Sound.END:
            raise BackendError("the rehearsal of hearing live failed")
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
    forbid_dumps()
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
