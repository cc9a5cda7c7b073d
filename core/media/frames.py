"""What the engine, its decoder server and one file's decoder say to each other.

Two sockets, both of this machine and of this program, so native byte order::

    engine <-> server    SOCK_SEQPACKET, one message a packet
        READY                            the server has loaded and tested everything and forks from now on
        START job  + one descriptor      decode the file that comes through this socket
        LISTEN job + one descriptor      hear the samples that come through this socket, as they come
        PAUSE job, RESUME job            stop that file's process, and let it go on; unknown jobs are ignored
        KILL job                         end that file's process; likewise
        ENDED job wait_status            that file's process is gone and reaped

    engine <-> decoder   SOCK_STREAM, one pair a file
        engine:   JOB header, then the file; or, of a file that it keeps, each block when it is wanted
        decoder:  FRAME header, pcm, speech   as often as needed; then one VERDICT header and the end of the stream
                  (pcm, speech of both channels follow, of the same lengths, where they are to be kept)
                  WANT header                 wherever a block of the file is needed
                  PIECE header, bytes of FLAC instead of pcm, speech, when the file is cut into parts

    engine <-> ear       SOCK_STREAM, one pair a live session; the ear begins with a FRAME header, DONE or UNSANDBOXED
        engine:   SOUND header, samples       what comes next, in the order in which it was said
        ear:      FRAME header, pcm, speech   as often as needed; then one FRAME header, DONE: all of that was heard

The engine believes no number a decoder sends: by then the decoder has read a stranger's file (`check_audio_frame`).
"""

from __future__ import annotations

import struct
from enum import IntEnum

from core.media.types import BYTES_PER_SAMPLE, WINDOW_SAMPLES

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
    PAUSE = 5
    RESUME = 6
    LISTEN = 7


class Kind(IntEnum):
    """What a decoder says: a block of audio, or its last word."""

    AUDIO = 1
    DONE = 2
    UNSUPPORTED = 3
    TOO_LONG = 4
    TOO_SHORT = 5
    UNSANDBOXED = 6
    WANT = 7
    """A block of the file, by its number."""
    PIECE = 8
    """Bytes of the FLAC file of the part that is being made."""


CONTROL = struct.Struct("=BQi")
"""Message, job, wait status (0 unless ENDED)."""

NOT_FORKED = -1
"""The wait status of a job for which the kernel gave no process; no real one is negative."""

JOB = struct.Struct("=QQQ?IB?QBQQ")
"""File size in bytes, most samples to decode, most CPU seconds to use, whether to keep the channels; then, for a file
that is raw samples, their rate in Hz (0 for any other file), how many channels, and whether they are big-endian;
then, for a file that stays where it is and is cut into parts, the most samples of a part (0 for any other file), which
channel is cut (0 for the mix), the first sample, and the one before which it ends (0 for the end of the file)."""

SOUND = struct.Struct("=BII")
"""What follows (`Sound`), the samples' rate in Hz, and how many bytes of them follow. Another form, or another rate,
than before begins another stream of samples."""

MAX_SOUND_BYTES = 1 << 16
"""Heard at a time: of the slowest samples there are, eight seconds."""


class Sound(IntEnum):
    """What an ear is given."""

    PCM = 1
    """Signed 16-bit samples, little-endian."""
    PCMU = 2
    """G.711, mu-law."""
    PCMA = 3
    """G.711, A-law."""
    END = 4
    """Nothing: the stream of samples ends, and what the ear still holds of it is to be heard."""


FRAME = struct.Struct("=BII")
"""Kind, and two numbers, 0 where there is nothing to count. AUDIO: bytes of PCM that follow, and of speech
probabilities after them. WANT: number of the block. PIECE: bytes of FLAC that follow; how many samples the part has, if
it ends with them."""

MAX_PIECE_BYTES = 2 * BLOCK_BYTES
"""An encoder gives what it held back together with the next."""


def check_audio_frame(pcm_bytes: int, speech_bytes: int) -> None:
    """Check the lengths a decoder announces before anything is allocated for them.

    Raises ValueError unless they describe 1 to `BLOCK_WINDOWS` windows, of which the last may be short.
    """
    if not 0 < pcm_bytes <= BLOCK_BYTES or pcm_bytes % BYTES_PER_SAMPLE:
        raise ValueError("a block of audio has an impossible length")
    if speech_bytes != -(-pcm_bytes // WINDOW_BYTES):
        raise ValueError("a block of audio must have one probability a window")


def check_piece_frame(flac_bytes: int, samples: int, max_samples: int) -> None:
    """Likewise for a piece of a part, which has bytes, or ends it, or both. Raises ValueError."""
    if not (flac_bytes or samples) or flac_bytes > MAX_PIECE_BYTES or samples > max_samples:
        raise ValueError("a piece of a part has an impossible length")
