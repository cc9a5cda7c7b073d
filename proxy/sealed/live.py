"""How does a live session reach an engine, and only an engine, and how do we know that its answers are its answers?

As `relay` does it for requests, over a WebSocket: sealed frames (`core.channel.live`) whose times and sizes tell
nothing of what is said (`core.channel.pacing`). The first frame holds the head alone; what the app says waits until the
first answer has opened. What comes in the clear before that decides this much and no more:

============================== ======================================================================
422, or close code 4422        another engine that is ready; else verify this one again and, only under a
                               new key, call once more; else 502
429, 502, 503, 504, 1013, cut  nobody took the call: another engine
anything else                  another engine, or 502
============================== ======================================================================

An engine's own 503, sealed, leads to another engine too. Afterwards nothing in the clear decides anything: a connection
that ends without an authenticated end was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NoReturn

import aiohttp
import structlog
from pydantic import SecretStr

from attestation.receipt import RECEIPT_HEADER
from core.channel.bhttp import RequestHead
from core.channel.client_secrets import issuer_in, shown_secret
from core.channel.gateway import LIVE_REQUEST_HEADERS, LIVENESS_S, CloseCode, OuterStatus, live_path
from core.channel.live import UP_BYTES, DownOpener, UpSealer, decode_response_head, encode_request_head
from core.channel.pacing import Pace, Shaping
from core.channel.records import EndRecord, EventRecord, FrameWriter, HeadRecord, ReceiptRecord, Record
from core.errors import ChannelError
from core.program.metronome import MakeMetronome
from core.program.together import first_of
from proxy.engines.lease import Engines, Lease
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed.envelope import Headers, inner_head
from proxy.sealed.failover import UNAVAILABLE, Attempt, Busy, Failover, Failure, Lost, Refused, Unreachable
from proxy.sealed.receipts import LiveWitness, Receipts
from proxy.telemetry import Telemetry

_log = structlog.get_logger(__name__)

MAX_WAITING_BYTES: Final = 5_760_000
"""Two minutes of audio: what an app may be ahead of its frames, before no more is read of it."""
MAX_MESSAGE_BYTES: Final = 8_192
CLOSING_S: Final = 1.0
RECEIPT_S: Final = 5.0
"""How long a receipt is waited for that the app has left behind."""
OVER: Final = EndRecord(CloseCode.OVER)


class Spoken:
    """What an app has said and no frame has taken yet."""

    def __init__(self) -> None:
        self._writer = FrameWriter(UP_BYTES, begun=True)
        self._less = asyncio.Event()
        self._more = asyncio.Event()
        self._audio = False
        self._over = False

    @property
    def waiting_frames(self) -> int:
        return self._writer.waiting_frames

    @property
    def ended(self) -> bool:
        return self._writer.ended

    def event(self, event: bytes) -> None:
        if self._over:
            return
        self._writer.event(event)
        self._more.set()

    def audio(self, data: bytes) -> None:
        if self._over:
            return
        self._writer.audio(data)
        self._audio = True
        self._more.set()

    def end(self) -> None:
        """Say that this is all; an app that has not heard of it yet goes on to talk, to nobody."""
        self._over = True
        self._writer.end(OVER)

    def frame(self) -> bytes:
        self._less.set()
        return self._writer.frame()

    def heard_audio(self) -> bool:
        """Whether audio came since this was last asked."""
        came, self._audio = self._audio, False
        return came

    async def room(self) -> None:
        """Return when more may be said."""
        while self._writer.held_bytes > MAX_WAITING_BYTES:
            self._less.clear()
            await self._less.wait()

    async def more(self) -> None:
        """Return when something was said since this last returned."""
        await self._more.wait()
        self._more.clear()


class LiveCall:
    """A session with an engine.

    is_open: whether it has answered, and does not refuse it. is_busy: whether it takes none now. witness: of what
    passes, where a receipt is asked for.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        sealer: UpSealer,
        lease: Lease,
        telemetry: Telemetry,
        *,
        shaping: Shaping,
        metronome: MakeMetronome,
        witness: LiveWitness | None = None,
    ) -> None:
        self._socket = socket
        self.witness = witness
        self._sealer = sealer
        self._opener: DownOpener = sealer.down_opener()
        self.lease = lease
        self._telemetry = telemetry
        self._pace = Pace(shaping)
        self._at_once = shaping is Shaping.OFF
        self._metronome = metronome()
        self._first: list[Record] = []
        self.is_open = False
        self.is_busy = False

    async def greet(self, head: bytes) -> Failure | None:
        """Say the head and wait for its answer; what came in place of one."""
        hello = FrameWriter(UP_BYTES)
        hello.head(head)
        try:
            await self._send(hello.frame())
            async with asyncio.timeout(LIVENESS_S):
                message = await self._socket.receive()
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Unreachable()
        if message.type is aiohttp.WSMsgType.CLOSE and message.data == CloseCode.KEY_MISMATCH:
            return Refused(OuterStatus.KEY_MISMATCH)
        if message.type is aiohttp.WSMsgType.CLOSE and message.data == CloseCode.MALFORMED:
            return Refused(OuterStatus.MALFORMED)
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            return Unreachable()
        try:
            self._begin(self._opened(message))
        except ProxyError as exc:
            return Lost(exc)
        return None

    def _begin(self, records: list[Record]) -> None:
        self.lease.accepted()
        match records:
            case [HeadRecord(data), *others]:
                try:
                    status = decode_response_head(data).status
                except ChannelError as exc:
                    raise _broken(exc) from exc
                self.is_open, self.is_busy = status == 101, status == 503
                self._first = others

    async def speak(self, spoken: Spoken) -> NoReturn:
        """Send what is said, frame by frame at their pace, for ever. Raises ProxyError."""
        while True:
            await self._tick(spoken)
            if not self.lease.stands:
                raise ProxyError(ErrorCode.ATTESTATION_REFUSED)
            for _ in range(self._pace.frames(spoken.waiting_frames, spoken=spoken.heard_audio())):
                try:
                    await self._send(spoken.frame())
                except (aiohttp.ClientError, OSError) as exc:
                    raise self._cut(type(exc).__name__) from None

    async def _tick(self, spoken: Spoken) -> None:
        if self._at_once:
            await first_of(self._metronome.beat(), spoken.more())
        else:
            await self._metronome.beat()

    async def answers(self) -> AsyncGenerator[bytes | EndRecord, None]:
        """The events of the engine as they open, and last its end. Raises ProxyError."""
        records, self._first = self._first, []
        while True:
            for record in records:
                match record:
                    case EventRecord(event):
                        yield event
                    case EndRecord():
                        yield record
                        return
                    case ReceiptRecord(text) if self.witness is not None:
                        self.witness.receipted(text)
                    case _:
                        raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
            records = self._opened(await self._received())

    async def _received(self) -> aiohttp.WSMessage:
        try:
            async with asyncio.timeout(LIVENESS_S):
                message = await self._socket.receive()
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise self._cut(type(exc).__name__) from None
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            raise self._cut(message.type.name)
        return message

    def _opened(self, message: aiohttp.WSMessage) -> list[Record]:
        try:  # a message that is no frame is none of its size either
            records = self._opener.open(message.data if message.type is aiohttp.WSMsgType.BINARY else b"")
        except ChannelError as exc:
            raise _broken(exc) from exc
        if self.witness is not None:
            self.witness.received(message.data)
            if any(isinstance(record, HeadRecord | EventRecord) for record in records):
                self.witness.told()
        self._telemetry.live_frame("down")
        return records

    def _cut(self, detail: str) -> ProxyError:
        self._telemetry.truncated()
        _log.warning("answer_truncated", detail=detail)
        return ProxyError(ErrorCode.STREAM_TRUNCATED)

    async def _send(self, plain: bytes) -> None:
        message = self._sealer.seal(plain)
        if self.witness is not None:
            self.witness.sent(message)
        await self._socket.send_bytes(message)
        self._telemetry.live_frame("up")

    async def hang_up(self, spoken: Spoken) -> None:
        """End our direction, where that takes one frame, and close; a backlog would show, and means nothing now."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(CLOSING_S):
                if spoken.waiting_frames == 0 and not self._socket.closed:
                    spoken.end()
                    await self._send(spoken.frame())
            await self._hear_out()
            async with asyncio.timeout(CLOSING_S):
                await self._socket.close(code=CloseCode.OVER)

    async def _hear_out(self) -> None:
        """Wait for the receipt of a session that its app has left; what else still comes is for nobody."""
        if self.witness is None or not self.is_open or not self.lease.stands:
            return
        with suppress(TimeoutError, ProxyError):
            async with asyncio.timeout(RECEIPT_S):
                while not (self._opener.ended or self._socket.closed):
                    for record in self._opened(await self._received()):
                        if isinstance(record, ReceiptRecord):
                            self.witness.receipted(record.text)


def _broken(exc: ChannelError) -> ProxyError:
    _log.warning("answer_refused", detail=str(exc))
    return ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)


def _issuer(head: RequestHead) -> bytes | None:
    """Who issued the client secret that a session shows; None for one that shows a key."""
    secret = shown_secret(dict(head.headers).get("authorization"))
    return issuer_in(secret) if secret else None


class LiveRelay:
    """Calls `engines`. api_key: replaces the one of apps."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        engines: Engines,
        telemetry: Telemetry,
        *,
        shaping: Shaping,
        metronome: MakeMetronome,
        api_key: SecretStr | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        """session: from `core.program.http.client.open_session`. receipts: where those are kept that are asked for."""
        self._session = session
        self._engines = engines
        self._failover = Failover(engines, telemetry, live=True)
        self._telemetry = telemetry
        self._shaping = shaping
        self._metronome = metronome
        self._api_key = api_key
        self._receipts = receipts

    @property
    def holds_key(self) -> bool:
        """Whether the API key of apps is replaced."""
        return self._api_key is not None

    def head(self, path: str, headers: Headers, replaced: dict[str, str]) -> RequestHead:
        """The head of a session, as `envelope.inner_head`; it has to fit into a frame. Raises ProxyError."""
        if self._api_key is not None:
            replaced = replaced | {"authorization": f"Bearer {self._api_key.get_secret_value()}"}
        if headers.getall(RECEIPT_HEADER, ()) and self._receipts is None:
            raise ProxyError(ErrorCode.INVALID_REQUEST)  # it would be lost
        head = inner_head("GET", path, headers, replaced, names=LIVE_REQUEST_HEADERS)
        try:
            FrameWriter(UP_BYTES).head(encode_request_head(head))
        except ValueError:
            raise ProxyError(ErrorCode.INVALID_REQUEST) from None
        return head

    @asynccontextmanager
    async def calling(self, head: RequestHead, spoken: Spoken) -> AsyncIterator[LiveCall]:
        """A session while the context is open. spoken: to which its end is said when it is left. Raises ProxyError."""
        fields = dict(head.headers)
        call = await self._answered(encode_request_head(head), _issuer(head), witnessed=RECEIPT_HEADER in fields)
        try:
            with call.lease.carried():
                yield call
        finally:
            await call.hang_up(spoken)
            if self._receipts and call.witness and call.is_open:
                await self._receipts.keep_live(fields.get("x-request-id", "unknown"), call.witness)

    async def _answered(self, head: bytes, issuer: bytes | None, *, witnessed: bool) -> LiveCall:
        """A call that an engine took; one that is busy only where no other takes it. Raises ProxyError."""
        lease = await self._engines.lease(issuer=issuer)
        attempt, busy = Attempt(lease, incremental=False, issuer=issuer), list[LiveCall]()
        while True:
            outcome = await self._called(attempt.lease, head, LiveWitness() if witnessed else None)
            if isinstance(outcome, LiveCall) and not (outcome.is_busy and attempt.lease.has_spare):
                attempt.lease.answered(0.0)
                break
            if isinstance(outcome, LiveCall):
                busy.append(outcome)
            try:
                attempt = await self._failover.following(attempt, Busy() if isinstance(outcome, LiveCall) else outcome)
            except ProxyError:
                if not busy:
                    raise
                outcome = busy.pop()
                break
        for call in busy:
            await call.hang_up(Spoken())
        return outcome

    async def _called(self, lease: Lease, head: bytes, witness: LiveWitness | None) -> LiveCall | Failure:
        """Raises ProxyError for what another engine would make no better."""
        if lease.live_key is None:
            raise ProxyError(ErrorCode.LIVE_NOT_SERVED)
        try:
            sealer = UpSealer(lease.live_key)
            socket = await self._session.ws_connect(
                lease.way.url + live_path(lease.live_key.path_digest),
                compress=0,
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSING_S),
                **lease.way.asking({}),
            )
        except aiohttp.WSServerHandshakeError as exc:
            _log.warning("outer_refusal", status=exc.status)
            return Unreachable() if exc.status in UNAVAILABLE else Refused(exc.status)
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            _log.warning("engine_unreachable", error=type(exc).__name__)
            return Unreachable()
        call = LiveCall(
            *(socket, sealer, lease, self._telemetry),
            shaping=self._shaping,
            metronome=self._metronome,
            witness=witness,
        )
        outcome: Failure | None = Unreachable()
        try:
            outcome = await call.greet(head)
        finally:
            if outcome is not None:
                await socket.close()
        return outcome or call
