"""What the engine, its decoder server and one file's decoder say to each other.

Two sockets, both of this machine and of this program, so native byte order::

    engine <-> server    SOCK_SEQPACKET, one message a packet
        READY                            the server has loaded and tested everything and forks from now on
        START job  + one descriptor      decode the file that comes through this socket
        KILL job                         end that file's process; unknown jobs are ignored
        ENDED job wait_status            that file's process is gone and reaped

    engine <-> decoder   SOCK_STREAM, one pair a file
        engine:   JOB header, then the file
        decoder:  FRAME header, pcm, speech   as often as needed; then one VERDICT header and the end of the stream

The engine believes no number a decoder sends: by then the decoder has read a stranger's file (`check_audio_frame`).
"""

from __future__ import annotations

import struct
from enum import IntEnum

from engine.types import BYTES_PER_SAMPLE, WINDOW_SAMPLES

WINDOW_BYTES = WINDOW_SAMPLES * BYTES_PER_SAMPLE

BLOCK_WINDOWS = 64
"""A block holds 2.048 s, 65,536 bytes: beyond that the speech model gains nothing from larger batches."""

BLOCK_BYTES = BLOCK_WINDOWS * WINDOW_BYTES

SOCKET_BUFFER_BYTES = 2 * BLOCK_BYTES
"""How far a decoder runs ahead of whoever consumes its blocks: the kernel doubles this for its own bookkeeping."""


EXIT_UNSANDBOXED = 77
"""The server's exit status where the sandbox is not available; EX_NOPERM of sysexits.h."""


class Message(IntEnum):
    """Kinds of packets between the engine and the decoder server."""

    READY = 1
    START = 2
    KILL = 3
    ENDED = 4


class Kind(IntEnum):
    """What a decoder says: a block of audio, or its last word."""

    AUDIO = 1
    DONE = 2
    UNSUPPORTED = 3
    TOO_LONG = 4
    TOO_SHORT = 5
    UNSANDBOXED = 6


CONTROL = struct.Struct("=BQi")
"""Message, job, wait status (0 unless ENDED)."""

NOT_FORKED = -1
"""The wait status of a job for which the kernel gave no process; no real one is negative."""

JOB = struct.Struct("=QQQIB?")
"""File size in bytes, most samples to decode, most CPU seconds to use; then, for a file that is raw samples, their rate
in Hz (0 for any other file), how many channels, and whether they are big-endian."""

FRAME = struct.Struct("=BII")
"""Kind, bytes of PCM that follow, bytes of speech probabilities after them (both 0 unless AUDIO)."""


def check_audio_frame(pcm_bytes: int, speech_bytes: int) -> None:
    """Check the lengths a decoder announces before anything is allocated for them.

    Raises ValueError unless they describe 1 to `BLOCK_WINDOWS` windows, of which the last may be short.
    """
    if not 0 < pcm_bytes <= BLOCK_BYTES or pcm_bytes % BYTES_PER_SAMPLE:
        raise ValueError("a block of audio has an impossible length")
    if speech_bytes != -(-pcm_bytes // WINDOW_BYTES):
        raise ValueError("a block of audio must have one probability a window")
