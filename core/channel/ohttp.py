"""How does a request reach only the gateway, piece by piece? Chunked Oblivious HTTP.

draft-ietf-ohai-chunked-ohttp-08 over RFC 9458. A request and its response (sections 4 to 6)::

    request  = key_id (1)  kem_id (2)  kdf_id (2)  aead_id (2)  enc (Nenc)  chunk ...  final
    response = response_nonce (max(Nn, Nk))                                 chunk ...  final

    chunk    = length (varint, 1 ..)  sealed (length)          aad = ""        plaintext not empty
    final    = 0 (varint)             sealed (to the end)      aad = "final"   plaintext may be empty

Request chunks are the messages of one HPKE context, whose info names the header::

    info = "message/bhttp chunked request" || 00 || key_id kem_id kdf_id aead_id

The response key comes out of that context, so an answer opens only where its own request was sealed::

    secret = context.Export("message/bhttp chunked response", max(Nn, Nk))
    prk    = Extract(salt = enc || response_nonce, secret)
    key    = Expand(prk, "key", Nk)     nonce of chunk i = Expand(prk, "nonce", Nn) XOR i

Nothing here reads or writes: bytes go in, bytes come out, in pieces of any size. What an opener checks:

1. The header names a key that we hold and a suite which that key offers.
2. A length is refused by its value alone, before its chunk is awaited: too short for a tag and the least a chunk
   may hold, or longer than the most and a tag. By default that is one byte and MAX_CHUNK_BYTES_ACCEPTED; a gateway
   asks for more, and takes no more than it told. The final chunk has no length and may be short; it is refused as
   soon as more than the most has arrived.
3. Plaintext leaves only after its chunk has authenticated, in its place: swapped, dropped and repeated chunks
   meet the wrong nonce.
4. The end of the body is the end of the message only if the final chunk opens.

A failure is final. Failures of 1, and of the first chunk, are KeyMismatchError: the sender may hold an old key,
and nothing has been acted on (RFC 9458 section 5.3). All others are ChannelError. Left out on purpose: a limit on
the whole message (draft section 7.3). It belongs where bytes are counted, before they get here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from core.channel import varint
from core.channel.hpke import (
    NN,
    NT,
    Aead,
    Opener,
    RecipientContext,
    Sealer,
    SenderContext,
    Suite,
    setup_recipient,
    setup_sender,
)
from core.channel.kdf import expand, extract
from core.channel.keyconfig import NAMES_BYTES, GatewayKey, KeyConfig, find_key
from core.errors import ChannelError, KeyMismatchError

REQUEST_MEDIA_TYPE: Final = "message/ohttp-chunked-req"
RESPONSE_MEDIA_TYPE: Final = "message/ohttp-chunked-res"
MAX_CHUNK_BYTES_ACCEPTED: Final = 262_144
MIN_REQUEST_CHUNK_BYTES: Final = 1_024
"""In every chunk of a request but the last, where a gateway asks for it: a body of tiny chunks would take seconds."""

_NOT_FINAL: Final = b""
_FINAL: Final = b"final"


class _Sealing(ABC):
    """Frames sealed chunks, for either direction; nothing follows the final one."""

    def __init__(self) -> None:
        self._ended = False

    @abstractmethod
    def _seal(self, plaintext: bytes | memoryview, aad: bytes) -> bytes: ...

    def seal(self, chunk: bytes | memoryview) -> bytes:
        """Seal and frame a chunk of 1 .. MAX_CHUNK_BYTES_ACCEPTED bytes that is not the last."""
        if not chunk:
            raise ValueError("only the final chunk may be empty")
        self._check(chunk)
        return varint.encode(len(chunk) + NT) + self._seal(chunk, _NOT_FINAL)

    def seal_final(self, chunk: bytes | memoryview = b"") -> bytes:
        """Seal and frame the last chunk, which may be empty; the body ends with it."""
        self._check(chunk)
        self._ended = True
        return varint.encode(0) + self._seal(chunk, _FINAL)

    def _check(self, chunk: bytes | memoryview) -> None:
        if self._ended:
            raise RuntimeError("the final chunk has been sealed")
        if len(chunk) > MAX_CHUNK_BYTES_ACCEPTED:
            raise ValueError(f"a chunk of {len(chunk)} bytes would be refused")


class _State(Enum):
    CHUNKS = auto()  # the header, then chunks that say their length
    FINAL = auto()  # the chunk that runs to the end of the body
    DONE = auto()
    FAILED = auto()


class Digest(Protocol):
    """A hash that is fed, of `hashlib`."""

    def update(self, data: bytes, /) -> None: ...


class _Opens(Protocol):
    """`hpke.Opener` for a response, `hpke.RecipientContext` for a request."""

    def open(self, ciphertext: bytes | memoryview, aad: bytes = b"") -> bytes: ...


class _Opening(ABC):
    """Cuts a body into header and sealed chunks, for either direction, and opens them in turn."""

    def __init__(self, *, min_chunk_bytes: int = 1, max_chunk_bytes: int = MAX_CHUNK_BYTES_ACCEPTED) -> None:
        self._min_sealed_bytes = min_chunk_bytes + NT
        self._max_sealed_bytes = max_chunk_bytes + NT
        self._state = _State.CHUNKS
        self._opener: _Opens | None = None  # None until the header is complete
        self._buffer = bytearray()  # arrived and not consumed: less than one chunk between calls
        self.covered: Digest | None = None
        """Fed with header and chunks as they arrived, but for the final one: what a receipt in it covers."""

    @abstractmethod
    def _take_header(self) -> _Opens | None:
        """Drop the header from the buffer once it is complete: what opens the chunks after it."""

    def _open(self, opener: _Opens, sealed: bytes | memoryview, aad: bytes) -> bytes:
        return opener.open(sealed, aad)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the body: the plaintext of each chunk, not the final, that they complete."""
        self._check_usable()
        self._buffer += data
        try:
            return self._advance()
        except ChannelError:
            self._end(_State.FAILED)
            raise

    def finish(self) -> bytes:
        """Say that the body has ended: the plaintext of the final chunk, which may be empty."""
        self._check_usable()
        try:
            plaintext = self._open_final()
        except ChannelError:
            self._end(_State.FAILED)
            raise
        self._end(_State.DONE)
        return plaintext

    def _check_usable(self) -> None:
        if self._state is _State.FAILED:
            raise ChannelError("the message has failed before")
        if self._state is _State.DONE:
            raise RuntimeError("the message has ended")

    def _end(self, state: _State) -> None:
        self._state = state
        self._buffer.clear()

    def _advance(self) -> list[bytes]:
        if self._opener is None:
            header = bytes(self._buffer) if self.covered else b""
            self._opener = self._take_header()
            if self.covered and self._opener is not None:
                self.covered.update(header[: len(header) - len(self._buffer)])
        if self._opener is None:
            return []
        opened = self._open_chunks(self._opener) if self._state is _State.CHUNKS else []
        if self._state is _State.FINAL and len(self._buffer) > self._max_sealed_bytes:
            raise ChannelError("the final chunk is too long")
        return opened

    def _open_chunks(self, opener: _Opens) -> list[bytes]:
        """Open every complete chunk in the buffer, then drop their bytes in one go."""
        opened: list[bytes] = []
        offset = covered = 0
        while (prefix := varint.decode(self._buffer, offset)) is not None:
            length, start = prefix
            if length == 0:
                self._state = _State.FINAL
                offset = start
                break
            self._check_length(length)
            if start + length > len(self._buffer):
                break
            offset = start + length
            with memoryview(self._buffer) as view, view[start:offset] as sealed:  # not copied
                opened.append(self._open(opener, sealed, _NOT_FINAL))
            covered = offset
        if self.covered:
            self.covered.update(bytes(self._buffer[:covered]))
        del self._buffer[:offset]
        return opened

    def _open_final(self) -> bytes:
        if self._opener is None:
            raise ChannelError("the body ends inside its header")
        if self._state is _State.CHUNKS:
            raise ChannelError("the body ends inside a chunk" if self._buffer else "the final chunk is missing")
        if len(self._buffer) < NT:
            raise ChannelError("the body ends inside the final chunk")
        with memoryview(self._buffer) as sealed:
            return self._open(self._opener, sealed, _FINAL)

    def _check_length(self, length: int) -> None:
        """Check 2 of the module, for a chunk that is not the final one."""
        if length < NT:
            raise ChannelError("a chunk is shorter than its tag")
        if length == NT:
            raise ChannelError("a chunk that is not the final one is empty")
        if length < self._min_sealed_bytes:
            raise ChannelError("a chunk is too short")
        if length > self._max_sealed_bytes:
            raise ChannelError("a chunk is too long")


def _info(names: bytes) -> bytes:
    """What the HPKE context is bound to (RFC 9458 section 4.3 with the label of the draft)."""
    return b"message/bhttp chunked request\x00" + names


def _nonce_length(aead: Aead) -> int:
    """Length of the response nonce, and of the secret exported for the response."""
    return max(NN, aead.nk)


@dataclass(frozen=True, slots=True, repr=False)
class _ResponseSecret:
    """What a request leaves behind for its response (RFC 9458 section 4.4)."""

    aead: Aead
    enc: bytes
    secret: bytes

    @classmethod
    def export(cls, aead: Aead, enc: bytes, context: SenderContext | RecipientContext) -> _ResponseSecret:
        return cls(aead, enc, context.export(b"message/bhttp chunked response", _nonce_length(aead)))

    def keys(self, response_nonce: bytes) -> tuple[Aead, bytes, bytes]:
        """The AEAD of the response, its key and its first nonce."""
        prk = extract(self.enc + response_nonce, self.secret)
        return self.aead, expand(prk, b"key", self.aead.nk), expand(prk, b"nonce", NN)


class RequestSealer(_Sealing):
    """The client's end of a request: `header` goes first, then chunks, then the final chunk."""

    def __init__(self, config: KeyConfig, suite: Suite | None = None, *, ephemeral: bytes | None = None) -> None:
        """Encapsulate a fresh key to `config`.

        suite: the config's preferred one unless given. ephemeral: for published vectors only.
        Raises ChannelError when the config offers nothing that we support, or an unusable public key.
        """
        super().__init__()
        suite = suite or config.preferred_suite()
        names = config.key_id.to_bytes(1, "big") + suite.code_points
        enc, self._context = setup_sender(suite, config.public_key, _info(names), ephemeral=ephemeral)
        self._response = _ResponseSecret.export(suite.aead, enc, self._context)
        self._opener_given = False
        self.header = names + enc

    def _seal(self, plaintext: bytes | memoryview, aad: bytes) -> bytes:
        return self._context.seal(plaintext, aad)

    def response_opener(self) -> ResponseOpener:
        """What opens the answer to this request; there is one answer, so it can be had once."""
        if self._opener_given:
            raise RuntimeError("the response opener has been given out")
        self._opener_given = True
        return ResponseOpener(self._response)


class ResponseOpener(_Opening):
    """The client's end of a response; `RequestSealer.response_opener` makes it."""

    def __init__(self, secret: _ResponseSecret) -> None:
        super().__init__()
        self._secret = secret

    def _take_header(self) -> Opener | None:
        length = _nonce_length(self._secret.aead)
        if len(self._buffer) < length:
            return None
        response_nonce = bytes(self._buffer[:length])
        del self._buffer[:length]
        return Opener(*self._secret.keys(response_nonce))


class RequestOpener(_Opening):
    """The gateway's end of a request.

    enc: the encapsulated key, once the header was read; it names the request for replay defence.
    authenticated: whether a chunk has opened, that is, whether the sender knew our key.
    """

    def __init__(
        self,
        keys: Sequence[GatewayKey],
        *,
        min_chunk_bytes: int = 1,
        max_chunk_bytes: int = MAX_CHUNK_BYTES_ACCEPTED,
    ) -> None:
        """Hold the live keys, one of which the request must be sealed to, until its header was read.

        min_chunk_bytes, max_chunk_bytes: of plaintext in a chunk; the final one may hold less.
        """
        super().__init__(min_chunk_bytes=min_chunk_bytes, max_chunk_bytes=max_chunk_bytes)
        self._keys = tuple(keys)
        self._response: _ResponseSecret | None = None
        self._sealer_given = False
        self.enc: bytes | None = None
        self.authenticated = False

    @property
    def response_nonce_length(self) -> int:
        """How many random bytes `response_sealer` wants; known once the header was read."""
        if self._response is None:
            raise RuntimeError("the header has not been read")
        return _nonce_length(self._response.aead)

    def response_sealer(self, response_nonce: bytes) -> ResponseSealer:
        """What seals the answer, once a chunk has opened; once only, since a nonce must never serve twice.

        response_nonce: `response_nonce_length` fresh random bytes.
        """
        if self._state is _State.FAILED:
            raise ChannelError("the message has failed before")
        if self._response is None or not self.authenticated:
            raise RuntimeError("no chunk of the request has opened")
        if self._sealer_given:
            raise RuntimeError("the response sealer has been given out")
        sealer = ResponseSealer(self._response, response_nonce)
        self._sealer_given = True
        return sealer

    def _take_header(self) -> RecipientContext | None:
        if len(self._buffer) < NAMES_BYTES:
            return None
        names = bytes(self._buffer[:NAMES_BYTES])
        key, suite = find_key(self._keys, names)  # check 1 of the module
        end = NAMES_BYTES + suite.kem.nenc
        if len(self._buffer) < end:
            return None
        self.enc = bytes(self._buffer[NAMES_BYTES:end])
        del self._buffer[:end]
        self._keys = ()  # a request may outlive its key
        try:
            context = setup_recipient(suite, key.private_key, self.enc, _info(names))
        except ChannelError as exc:
            raise KeyMismatchError("the encapsulated key is not usable") from exc
        self._response = _ResponseSecret.export(suite.aead, self.enc, context)
        return context

    def _open(self, opener: _Opens, sealed: bytes | memoryview, aad: bytes) -> bytes:
        try:
            plaintext = super()._open(opener, sealed, aad)
        except ChannelError as exc:
            if self.authenticated:
                raise
            raise KeyMismatchError("the first chunk does not open") from exc
        self.authenticated = True
        return plaintext


class ResponseSealer(_Sealing):
    """The gateway's end of a response: `header` goes first, then chunks, then the final chunk."""

    def __init__(self, secret: _ResponseSecret, response_nonce: bytes) -> None:
        super().__init__()
        if len(response_nonce) != _nonce_length(secret.aead):
            raise ValueError(f"the response nonce takes {_nonce_length(secret.aead)} bytes")
        self.header = response_nonce
        self._sealer = Sealer(*secret.keys(response_nonce))

    def _seal(self, plaintext: bytes | memoryview, aad: bytes) -> bytes:
        return self._sealer.seal(plaintext, aad)
