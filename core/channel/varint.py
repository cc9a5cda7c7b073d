"""How is a length written? QUIC variable-length integers (RFC 9000 section 16).

The two high bits of the first byte say how many bytes the integer takes; the rest is big-endian::

    00xxxxxx                          1 byte    0 .. 63
    01xxxxxx xxxxxxxx                 2 bytes   0 .. 16,383
    10xxxxxx xxxxxxxx x2              4 bytes   0 .. 1,073,741,823
    11xxxxxx xxxxxxxx x6              8 bytes   0 .. 2^62 - 1

Both Binary HTTP and chunked Oblivious HTTP count with it. We write the shortest form and read every form:
RFC 9000 section 16 does not ask for the shortest, and RFC 9292 leaves it there.
"""

from __future__ import annotations

MAX_VARINT = (1 << 62) - 1


def encode(value: int) -> bytes:
    """Write `value` (0 .. MAX_VARINT) in its shortest form; ValueError outside that range."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    for exponent in range(4):
        value_bits = (8 << exponent) - 2
        if value >> value_bits == 0:
            return ((exponent << value_bits) | value).to_bytes(1 << exponent, "big")
    raise ValueError(f"{value} needs more than 62 bits")


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Read the integer at `offset`: (value, offset after it), or None while bytes are still missing."""
    if offset >= len(data):
        return None
    first = data[offset]
    if first < 0x40:  # one byte, the form that comes in great numbers
        return first, offset + 1
    size = 1 << (first >> 6)
    end = offset + size
    if end > len(data):
        return None
    value_mask = (1 << (8 * size - 2)) - 1
    return int.from_bytes(data[offset:end], "big") & value_mask, end
