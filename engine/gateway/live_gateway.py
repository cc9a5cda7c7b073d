"""How does a WebSocket become a live session? `GET /live/{digest}`, once its first frame has opened.

The order is that of a request (`gateway`): the first frame authenticates; its `enc` is claimed; the inner head opens,
and the application admits the session or refuses it, in the first frame down. Then frames are acted on as they open,
and one goes down at every tick of a clock that knows nothing of what is said.

Nothing that happens outside the envelope ends a session well. The codes with which the WebSocket is closed say no more
than whether to try again, and how; anybody on the way can say the same:

==== =================================================================================
1000  both ends have been said
1009  a message longer than any frame
1013  no room at the door; or, before the upgrade, 503
4422  the key, the suite or the first frame do not fit: verify us again (422 before it)
4400  anything else: a later frame, a replay, a silence
==== =================================================================================
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web

from attestation.receipt import ReceiptKey
from core.channel.gateway import AUTHORITY, LIVE_PERIOD_S, LIVENESS_S, SCHEME, CloseCode
from core.channel.live import UpOpener, decode_request_head
from core.channel.records import AudioRecord, EndRecord, EventRecord, HeadRecord, ReceiptRecord
from core.errors import ChannelError, KeyMismatchError
from core.program.http.listener import PeerGoneError
from core.program.metronome import MakeMetronome, Steady
from core.program.together import first_of
from core.transcript.faults import Fault, FaultKind
from engine.gateway.admission import RETRY_AFTER_S, source_of
from engine.gateway.exchange import Head
from engine.gateway.inbox import ReplayError, joined
from engine.gateway.keyring import KeyRing
from engine.gateway.live import End, Failure, LiveApplication, LiveSession, SessionExpiredError
from engine.gateway.live_line import CLOSING_S, LiveLine
from engine.gateway.lobby import CrowdedOutError, Lobby
from engine.gateway.outer import outer_error
from engine.gateway.receipts import LiveCoverage, asks
from engine.gateway.replay import ReplaySet
from engine.telemetry import GatewayMetrics, LiveMetrics

_FAULTS: tuple[tuple[type[Exception], str, int], ...] = (
    (CrowdedOutError, "crowded", CloseCode.TRY_AGAIN_LATER),
    (KeyMismatchError, "key_mismatch", CloseCode.KEY_MISMATCH),
    (ReplayError, "replay", CloseCode.MALFORMED),
    (ChannelError, "envelope", CloseCode.MALFORMED),
    (TimeoutError, "too_slow", CloseCode.MALFORMED),
)
"""What can go wrong with an envelope; the first that fits."""
STOPPING = End(1012, "The engine is about to stop.")
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """session_s: the longest session. liveness_s: the longest time without a frame that opens.

    ahead_s: audio that is taken and not heard yet, after which we stop reading. unread_bytes: events that wait for
    their frames, after which we stop asking for more.
    """

    session_s: float = 3_600.0
    liveness_s: float = LIVENESS_S
    ahead_s: float = 120.0
    unread_bytes: int = 262_144


class _Ended(StrEnum):
    """Why a session is over, for the metric."""

    ENGINE = "engine"
    APP = "app"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    STOPPED = "stopped"
    CUT = "cut"


class LiveGateway:
    """Serves live sessions with the keys of `ring` and the application behind them.

    max_sessions: at a time. max_arriving: whose head has not opened. receipt_key: signs receipts; without it none are
    given. clock: Unix seconds, for the keys.
    """

    def __init__(
        self,
        ring: KeyRing,
        application: LiveApplication,
        metrics: GatewayMetrics,
        live_metrics: LiveMetrics,
        *,
        max_sessions: int,
        max_arriving: int,
        receipt_key: ReceiptKey | None = None,
        limits: LiveLimits | None = None,
        metronome: MakeMetronome = lambda: Steady(LIVE_PERIOD_S),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._application = application
        self._metrics = metrics
        self._live_metrics = live_metrics
        live_metrics.sessions.set_function(lambda: float(self._sessions))
        self._max_sessions = max_sessions
        self._receipt_key = receipt_key
        self._limits = limits or LiveLimits()
        self._metronome = metronome
        self._clock = clock
        self._lobby = Lobby(max_arriving)
        self._sessions = 0
        self._connections = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._stopping = asyncio.Event()

    @property
    def sessions(self) -> int:
        """How many are admitted now."""
        return self._sessions

    async def get(self, request: web.Request) -> web.StreamResponse:
        if self._draining:
            return self._refused(503, "draining")
        held = self._ring.find_live(request.match_info["digest"], self._clock())
        if held is None:
            return self._refused(422, "unknown_key")
        opener, replays = UpOpener([held.key]), held.replays
        del held  # a session may outlive its key
        coverage = LiveCoverage(self._receipt_key, self._clock) if self._receipt_key else None
        line = LiveLine(request, opener, self._live_metrics, liveness_s=self._limits.liveness_s, coverage=coverage)
        if not line.is_asked_for:
            return self._refused(400, "not_an_envelope")
        with self._counted():
            await line.open()
            with suppress(PeerGoneError):  # then nobody is told
                await line.close(await self._serve(line, opener, replays, source_of(request.remote)))
            return line.socket

    def _refused(self, status: int, reason: str) -> web.Response:
        self._metrics.refused.labels(reason=reason).inc()
        return outer_error(status)

    async def drain(self, patience_s: float) -> None:
        """Take no new session; return when all are over that are here, of which those that last longer are ended."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._idle.wait()
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await self._idle.wait()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._connections += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._connections -= 1
            if not self._connections:
                self._idle.set()

    async def _serve(self, line: LiveLine, opener: UpOpener, replays: ReplaySet, source: str) -> int:
        """Whatever comes; the code to close with. Raises PeerGoneError."""
        try:
            await self._session(line, opener, replays, source)
        except tuple(kind for kind, _, _ in _FAULTS) as exc:
            reason, code = next((row[1], row[2]) for row in _FAULTS if isinstance(exc, row[0]))
            self._metrics.refused.labels(reason=reason).inc()
            return code
        return CloseCode.OVER

    async def _session(self, line: LiveLine, opener: UpOpener, replays: ReplaySet, source: str) -> None:
        """A session from its first frame to its end."""
        with ExitStack() as held:
            async with self._lobby.place() as place:
                head = await self._arrived(line, opener, replays)
                session = await self._admitted(head, source, held)
                if isinstance(session, Failure):  # who listens to that as slowly as they like still gives way
                    await self._refuse(line, opener, session)
                    return
                place.settle()
            if asks(head):
                line.sign(lambda: session.processed)
            else:
                line.coverage = None
            line.begin(101)
            await first_of(self._carried(line, opener, session, head), self._beat(line))

    async def _refuse(self, line: LiveLine, opener: UpOpener, why: Failure) -> None:
        self._ended(_Ended.REFUSED)
        line.begin(why.status)
        line.say(why.event)
        line.end(why.end)
        await first_of(self._heard_out(line, opener), self._beat(line))

    async def _arrived(self, line: LiveLine, opener: UpOpener, replays: ReplaySet) -> Head:
        """The head of a session whose first frame has opened. Raises what `LiveLine.receive` does, and ReplayError."""
        records = await line.receive()
        if not replays.claim(opener.enc or b""):
            raise ReplayError
        match records:
            case [HeadRecord(data)]:  # whoever holds a frame back that says more would have it heard later
                said = decode_request_head(data)
            case _:
                raise ChannelError("more than a head is said before the answer")
        if (said.scheme, said.authority) != (SCHEME, AUTHORITY):
            raise ChannelError("a head for somebody else")
        return Head(said.method, said.path, joined(said.headers))

    async def _admitted(self, head: Head, source: str, held: ExitStack) -> LiveSession | Failure:
        """A session, which `held` closes and whose place it gives back, or why there is none."""
        try:
            with ExitStack() as taken:  # whoever is refused holds no place while they are told
                taken.enter_context(self._place())
                session = await self._application.open_live(head, source=source)
                taken.callback(session.close)
                held.enter_context(taken.pop_all())
        except Exception as exc:  # noqa: BLE001 - the application's; what it was is logged by kind
            return self._application.live_failure(exc, head)
        return session

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._sessions >= self._max_sessions:
            raise Fault(FaultKind.OVERLOADED, retry_after_s=RETRY_AFTER_S)
        self._sessions += 1
        try:
            yield
        finally:
            self._sessions -= 1

    async def _carried(self, line: LiveLine, opener: UpOpener, session: LiveSession, head: Head) -> None:
        """An admitted session, until both ends have been said."""
        why = _Ended.CUT
        try:
            why, end = await first_of(
                self._hear(line, session), self._tell(line, session, head), self._expire(line, head), self._stop()
            )
        finally:
            self._ended(why)
        line.end(end)
        await self._heard_out(line, opener)

    async def _hear(self, line: LiveLine, session: LiveSession) -> tuple[_Ended, End]:
        """Hand on what the app says, until it has said all."""
        while True:
            while session.behind_s > self._limits.ahead_s:  # noqa: ASYNC110 - what is heard elsewhere tells nobody
                await asyncio.sleep(_POLL_S)
            for record in await line.receive():
                match record:
                    case EventRecord(event):
                        session.event(event)
                    case AudioRecord(audio):
                        session.audio(audio)
                    case EndRecord():
                        return _Ended.APP, End(CloseCode.OVER)
                    case ReceiptRecord():
                        raise ChannelError("a receipt of the caller's")

    async def _tell(self, line: LiveLine, session: LiveSession, head: Head) -> tuple[_Ended, End]:
        """Say what the session answers, until it ends."""
        try:
            async with aclosing(session.answers()) as answers:
                async for answer in answers:
                    if isinstance(answer, End):
                        return _Ended.ENGINE, answer
                    while line.waiting_bytes > self._limits.unread_bytes:  # noqa: ASYNC110 - it falls with every tick
                        await asyncio.sleep(_POLL_S)
                    line.say(answer)
        except Exception as exc:  # noqa: BLE001 - the application's; it is told to the other side, and logged by kind
            return self._failed(line, exc, head)
        return _Ended.ENGINE, End(CloseCode.OVER)

    async def _expire(self, line: LiveLine, head: Head) -> tuple[_Ended, End]:
        await asyncio.sleep(self._limits.session_s)
        return self._failed(line, SessionExpiredError(), head)

    async def _stop(self) -> tuple[_Ended, End]:
        await self._stopping.wait()
        return _Ended.STOPPED, STOPPING

    def _failed(self, line: LiveLine, error: Exception, head: Head) -> tuple[_Ended, End]:
        failure = self._application.live_failure(error, head)
        line.say(failure.event)
        return (_Ended.EXPIRED if isinstance(error, SessionExpiredError) else _Ended.FAILED), failure.end

    async def _heard_out(self, line: LiveLine, opener: UpOpener) -> None:
        """Wait until our end has left, then for the other's; what it says is not heard any more.

        Not for long, nor where it leaves without a word. Ours stands behind all that waits, whose frames have a pace.
        """
        with suppress(PeerGoneError, TimeoutError):
            while not (line.ended or opener.ended):
                await line.receive()
            async with asyncio.timeout(self._limits.liveness_s):
                while not opener.ended:
                    await line.receive()
                await line.left()

    async def _beat(self, line: LiveLine) -> None:
        """Send a frame at every tick, until one holds our end; never returns, for the other end is to be heard."""
        metronome = self._metronome()
        await line.send_frame()
        while not line.ended:
            await metronome.beat()
            await line.send_frame()
        await asyncio.Event().wait()

    def _ended(self, why: _Ended) -> None:
        self._live_metrics.ended.labels(reason=why.value).inc()
