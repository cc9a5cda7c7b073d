"""How does a message stand on the stream between the engine and a process of a backend?

JSON, then audio if the message brings some; nothing that could name code to run::

    4 bytes JSON length, big-endian | 4 bytes PCM length | JSON object | PCM | what a kind of stream adds to its PCM

Read by other Pythons too, so that nothing of weight is imported here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, Generic, TypeAlias, TypeVar

PREFIX: Final = struct.Struct("!II")

Fields: TypeAlias = dict[str, Any]

K = TypeVar("K", bound=StrEnum)


class Framing(Generic[K]):
    """The messages of one stream. kinds: what a message may be, by its member `kind`."""

    def __init__(self, kinds: type[K], *, max_json_bytes: int, max_pcm_bytes: int) -> None:
        self._kinds = kinds
        self._max_json_bytes = max_json_bytes
        self._max_pcm_bytes = max_pcm_bytes

    def encode(self, kind: K, fields: Mapping[str, object], pcm: bytes = b"", added: bytes = b"") -> bytes:
        """Write one message. Raises ValueError if it is longer than a peer accepts, or holds a number JSON has not."""
        text = json.dumps({"kind": kind, **fields}, allow_nan=False).encode()
        self._check_lengths(len(text), len(pcm))
        return b"".join((PREFIX.pack(len(text), len(pcm)), text, pcm, added))

    def decode_prefix(self, prefix: bytes) -> tuple[int, int]:
        """Read how many bytes of JSON and of PCM follow. Raises ValueError if they are more than a message may have."""
        json_bytes, pcm_bytes = PREFIX.unpack(prefix)
        self._check_lengths(json_bytes, pcm_bytes)
        return json_bytes, pcm_bytes

    def decode_fields(self, text: bytes) -> Fields:
        """Read the JSON of a message. Raises ValueError."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("a message must be a JSON object")  # noqa: TRY004  one error for all that is no message
        fields["kind"] = self._kinds(str(fields.get("kind")))
        return fields

    def _check_lengths(self, json_bytes: int, pcm_bytes: int) -> None:
        if json_bytes > self._max_json_bytes or pcm_bytes > self._max_pcm_bytes:
            raise ValueError("a message is too long")


class MessageBuffer:
    """Puts a process's messages together from the pieces in which they arrive; they bring no PCM."""

    def __init__(self, framing: Framing[Any]) -> None:
        self._framing = framing
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Fields]:
        """Yield the messages that `data` completes. Raises ValueError for anything that is not a message."""
        self._bytes += data
        while len(self._bytes) >= PREFIX.size:
            json_bytes, pcm_bytes = self._framing.decode_prefix(bytes(self._bytes[: PREFIX.size]))
            if pcm_bytes:
                raise ValueError("a worker sends no audio")
            end = PREFIX.size + json_bytes
            if len(self._bytes) < end:
                return
            text = bytes(self._bytes[PREFIX.size : end])
            del self._bytes[:end]
            yield self._framing.decode_fields(text)
