"""How do two ends talk for an hour so that nobody on the way learns more than for how long? Sealed frames of one size.

A session is a stream of messages each way, over anything that keeps their borders and order: the binary messages of
a WebSocket. The caller's messages, and the answerer's::

    first  = 01  key_id (1) kem_id (2) kdf_id (2) aead_id (2)  enc (Nenc)  up-frame 0        5,176 or 6,264 bytes
    others = up-frame i                                                                      5,136 bytes

    first  = server_nonce (32)  down-frame 0                                                 1,072 bytes
    others = down-frame i                                                                    1,040 bytes

    up-frame i   = message i of an HPKE context, aad "up", of 5,120 bytes
    down-frame i = AEAD(key, nonce XOR i), aad "down", of 1,024 bytes

    info   = "sottovoce live v1"  00  key_id kem_id kdf_id aead_id
    secret = context.Export("sottovoce live v1 answer", 32)      prk   = Extract(enc || server_nonce, secret)
    key    = Expand(prk, "key", Nk)                              nonce = Expand(prk, "nonce", 12)

The plaintext of every frame is made of records (`core.channel.records`). The first one of either direction is a head,
in Binary HTTP (RFC 9292), of indeterminate length: framing indicator, control data, field section, and no more. The
answerer's has status 101 where the session is open, and any other where it is refused. No frame says its number, since
it is one more than that of the frame before: what was dropped, repeated, swapped, altered, or sealed for another
session or direction does not open, and then the session is over. It is whole, in each direction, where the end record
has opened; a connection that closes says nothing.

The first frame up is acted on before the answerer has said anything, so the caller says its head in it and nothing
that may not be heard late; and the answerer remembers `enc` for as long as it holds the key. Failures of the header,
and of up-frame 0, that a new key would mend are KeyMismatchError; all others are ChannelError. Each is final.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.channel.bhttp import (
    RequestDecoder,
    RequestEncoder,
    RequestHead,
    ResponseDecoder,
    ResponseEncoder,
    ResponseHead,
)
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
from core.channel.records import FrameReader, Record
from core.errors import ChannelError, KeyMismatchError

UP_BYTES: Final = 5_120
"""Plaintext of a frame up: 100 ms of 16-bit samples at 24 kHz are 4,800."""
DOWN_BYTES: Final = 1_024
UP_FRAME_BYTES: Final = UP_BYTES + NT
DOWN_FRAME_BYTES: Final = DOWN_BYTES + NT
SERVER_NONCE_BYTES: Final = 32

_VERSION: Final = b"\x01"
_LABEL: Final = b"sottovoce live v1"
_SECRET_BYTES: Final = 32
_UP: Final = b"up"
_DOWN: Final = b"down"


def _info(names: bytes) -> bytes:
    return _LABEL + b"\x00" + names


def _secret(context: SenderContext | RecipientContext) -> bytes:
    return context.export(_LABEL + b" answer", _SECRET_BYTES)


def _down_keys(aead: Aead, enc: bytes, server_nonce: bytes, secret: bytes) -> tuple[Aead, bytes, bytes]:
    """The AEAD of the frames down, their key and their first nonce."""
    prk = extract(enc + server_nonce, secret)
    return aead, expand(prk, b"key", aead.nk), expand(prk, b"nonce", NN)


class UpSealer:
    """The caller's end of its own direction."""

    def __init__(self, config: KeyConfig, suite: Suite | None = None, *, ephemeral: bytes | None = None) -> None:
        """Encapsulate a fresh key to `config`.

        suite: the config's preferred one unless given. ephemeral: for published vectors only.
        Raises ChannelError when the config offers nothing that we support, or an unusable public key.
        """
        suite = suite or config.preferred_suite()
        names = config.key_id.to_bytes(1, "big") + suite.code_points
        self._enc, self._context = setup_sender(suite, config.public_key, _info(names), ephemeral=ephemeral)
        self._hello = _VERSION + names + self._enc
        self._aead = suite.aead
        self._opener_given = False

    def seal(self, plain: bytes) -> bytes:
        """The next message: a frame of UP_BYTES, sealed; the first one behind what the answerer opens it with."""
        _check_plain(plain, UP_BYTES)
        hello, self._hello = self._hello, b""
        return hello + self._context.seal(plain, _UP)

    def down_opener(self) -> DownOpener:
        """What opens the other direction; there is one, so it can be had once."""
        if self._opener_given:
            raise RuntimeError("the opener has been given out")
        self._opener_given = True
        return DownOpener(self._aead, self._enc, _secret(self._context))


class DownOpener:
    """The caller's end of the other direction; `UpSealer.down_opener` makes it."""

    def __init__(self, aead: Aead, enc: bytes, secret: bytes) -> None:
        self._aead = aead
        self._enc = enc
        self._secret = secret
        self._opener: Opener | None = None
        self._failed = False
        self._reader = FrameReader(DOWN_BYTES)

    @property
    def ended(self) -> bool:
        """Whether the end has opened."""
        return self._reader.ended

    def open(self, message: bytes) -> list[Record]:
        """What the next message says. Raises ChannelError, now and ever after."""
        frame = message
        if self._opener is None:
            if self._failed or len(message) != SERVER_NONCE_BYTES + DOWN_FRAME_BYTES:
                self._failed = True
                raise ChannelError("the first message is of another size")
            server_nonce, frame = message[:SERVER_NONCE_BYTES], message[SERVER_NONCE_BYTES:]
            self._opener = Opener(*_down_keys(self._aead, self._enc, server_nonce, self._secret))
        return self._reader.read(self._opener.open(frame, _DOWN))


class UpOpener:
    """The answerer's end of the caller's direction.

    enc: the encapsulated key, once up-frame 0 opened; it names the session for replay defence.
    """

    def __init__(self, keys: Sequence[GatewayKey]) -> None:
        """Hold the live keys, one of which the session must be sealed to, until its first message has come."""
        self._keys = tuple(keys)
        self._context: RecipientContext | None = None
        self._aead: Aead | None = None
        self._failed = False
        self._sealer_given = False
        self._reader = FrameReader(UP_BYTES)
        self.enc: bytes | None = None

    @property
    def ended(self) -> bool:
        """Whether the end has opened."""
        return self._reader.ended

    def open(self, message: bytes) -> list[Record]:
        """What the next message says. Raises ChannelError (KeyMismatchError for the first), now and ever after."""
        if self._failed:
            raise ChannelError("the session has failed before")
        try:
            if self._context is None:
                return self._reader.read(self._open_first(message))
            return self._reader.read(self._context.open(message, _UP))
        except ChannelError:
            self._failed = True
            raise

    def _open_first(self, message: bytes) -> bytes:
        names_end = len(_VERSION) + NAMES_BYTES
        if len(message) < names_end or message[: len(_VERSION)] != _VERSION:
            raise ChannelError("the first message is of another kind")
        names = message[len(_VERSION) : names_end]
        key, suite = find_key(self._keys, names)
        self._keys = ()  # a session may outlive its key
        enc_end = names_end + suite.kem.nenc
        if len(message) != enc_end + UP_FRAME_BYTES:
            raise ChannelError("the first message is of another size")
        enc = message[names_end:enc_end]
        try:
            context = setup_recipient(suite, key.private_key, enc, _info(names))
            plain = context.open(message[enc_end:], _UP)
        except ChannelError as exc:
            raise KeyMismatchError("the first frame does not open") from exc
        self._context, self._aead, self.enc = context, suite.aead, enc
        return plain

    def down_sealer(self, server_nonce: bytes) -> DownSealer:
        """What seals the other direction, once up-frame 0 opened; once only, since a nonce must never serve twice.

        server_nonce: SERVER_NONCE_BYTES fresh random bytes.
        """
        if self._context is None or self._aead is None or self.enc is None or self._failed:
            raise RuntimeError("no frame of the session has opened, or it has failed")
        if self._sealer_given:
            raise RuntimeError("the sealer has been given out")
        if len(server_nonce) != SERVER_NONCE_BYTES:
            raise ValueError(f"the nonce takes {SERVER_NONCE_BYTES} bytes")
        self._sealer_given = True
        keys = _down_keys(self._aead, self.enc, server_nonce, _secret(self._context))
        return DownSealer(Sealer(*keys), server_nonce)


class DownSealer:
    """The answerer's end of its own direction; `UpOpener.down_sealer` makes it."""

    def __init__(self, sealer: Sealer, server_nonce: bytes) -> None:
        self._sealer = sealer
        self._server_nonce = server_nonce

    def seal(self, plain: bytes) -> bytes:
        """The next message: a frame of DOWN_BYTES, sealed; the first one behind the nonce."""
        _check_plain(plain, DOWN_BYTES)
        server_nonce, self._server_nonce = self._server_nonce, b""
        return server_nonce + self._sealer.seal(plain, _DOWN)


def _check_plain(plain: bytes, frame_bytes: int) -> None:
    if len(plain) != frame_bytes:
        raise ValueError(f"a frame holds {frame_bytes} bytes")


def encode_request_head(head: RequestHead) -> bytes:
    """The body of the caller's head record."""
    return RequestEncoder().head(head)


def decode_request_head(data: bytes) -> RequestHead:
    """Read the body of the caller's head record. Raises ChannelError for what `encode_request_head` does not write."""
    events = RequestDecoder().feed(data)
    match events:
        case [RequestHead() as head] if encode_request_head(head) == data:
            return head
    raise ChannelError("a head record is no head alone")


def encode_response_head(head: ResponseHead) -> bytes:
    """The body of the answerer's head record; 101 opens the session."""
    encoder = ResponseEncoder()
    return encoder.informational(head.status, head.headers) if head.informational else encoder.head(head)


def decode_response_head(data: bytes) -> ResponseHead:
    """Read the body of the answerer's head record. Raises ChannelError, as `decode_request_head`."""
    events = ResponseDecoder().feed(data)
    match events:
        case [ResponseHead() as head] if encode_response_head(head) == data:
            return head
    raise ChannelError("a head record is no head alone")
