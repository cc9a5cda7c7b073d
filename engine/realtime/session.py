"""What is one live session? Events and audio in, in the app's order; events out; and one task that does the work.

The task takes what has arrived one by one: audio it has heard by an ear (`core.media.ear`), whose windows make turns;
a turn is an `Item`, which becomes text beside it. Whatever the app has to wait for, it is not the next event: taking
returns at once, and who appends faster than texts come is told to slow down by `behind_s`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Protocol

from core.errors import BackendError
from core.media.frames import Sound
from core.media.types import AudioBlock
from core.program.run import unwrapped
from core.transcript.faults import Fault, FaultKind
from core.transcript.types import TokenLogprob, Transcript
from engine.access.authority import Visit
from engine.gateway.live import End, Heard, SessionExpiredError
from engine.openai.models import ModelCatalogue
from engine.realtime.events import Append, Clear, ClientEvent, Commit, Events, NewId, Update, new_id, parse
from engine.realtime.item import Item
from engine.realtime.order import Order
from engine.realtime.refusals import Named, Refusal, nothing_to_commit, of_fault
from engine.realtime.settings import SessionSettings, Shape
from engine.realtime.stretch import Stretch
from engine.realtime.turns import WINDOW_MS, Change, Rule
from engine.realtime.updates import updated
from engine.speech.attention import Attention
from engine.types import MAX_PREFIX_PADDING_MS, Hearing, VoiceActivity

MAX_SESSION_S: Final = 3_600.0
"""What an app is told; the gateway sees to it."""

MAX_IDLE_S: Final = 900.0
MAX_TURN_MS: Final = 300_000
"""A turn that nobody ends is ended."""

MIN_COMMIT_MS: Final = 100.0

MAX_PENDING_CLIPS: Final = 4
"""So many clips of a session may wait for their text; its audio waits meanwhile."""

MAX_PIECE_BYTES: Final = 1 << 16
"""Audio that arrives faster than it is heard is put together up to this."""

BEHIND_S: Final = 0.5
"""Who is behind by more has what comes next at hand: nothing is begun that it may prove to be in vain."""

EVENT_BYTES: Final = 64
"""What an event takes while it waits, however little it says."""

MAX_UNREAD_BYTES: Final = 1 << 20


class Ear(Protocol):
    """`core.media.decode.LiveEar`."""

    async def hear(self, sound: Sound, rate_hz: int, samples: bytes | bytearray) -> AudioBlock: ...

    async def end(self) -> AudioBlock: ...


class Ears(Protocol):
    """`core.media.decode.AudioDecoder`, as far as it is used here."""

    def listen(self) -> AbstractAsyncContextManager[Ear]: ...


class Recogniser(Protocol):
    """`engine.speech.pipeline.SpeechPipeline`, as far as it is used here."""

    def attend(self, hearing: Hearing, *, caller: Hashable) -> Attention: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of an engine share. clock: Unix seconds."""

    ears: Ears
    recogniser: Recogniser
    models: ModelCatalogue
    clock: Callable[[], float]
    new_id: NewId = new_id


class _OverError(Exception):
    """The session has said its last; what still runs is to end."""


class RealtimeSession:
    """Implements `engine.gateway.live.LiveSession`, and `engine.realtime.item.Told` for its items.

    held: what `close` gives back.
    """

    def __init__(
        self, around: Surroundings, visit: Visit, held: ExitStack, settings: SessionSettings, shape: Shape
    ) -> None:
        self._around = around
        self._visit = visit
        self._held = held
        self._settings = settings
        self._events = Events(shape, around.new_id)
        self._id = around.new_id("sess")
        self._expires_at = round(around.clock() + MAX_SESSION_S)
        self._inbox: deque[bytes | bytearray] = deque()
        """Events, and audio between them."""
        self._arrived = asyncio.Event()
        self._waiting_bytes = 0
        self._unread_bytes = 0
        self._outbox: asyncio.Queue[bytes | End | Exception] = asyncio.Queue()
        self._order = Order(self._send)
        self._item: Item | None = None
        self._items: set[Item] = set()
        """Those without their last event."""
        self._previous: str | None = None
        self._taken_ms = 0.0
        self._models = set[str]()
        """That items of the session were heard by."""
        self._uncommitted_ms = 0.0
        self._stretch = Stretch(0.0, _rule(settings))
        self._progress = asyncio.Event()
        self._tell_session("created")
        # It is awaited by nobody: what it raises goes out by `answers`.
        self._work = asyncio.create_task(unwrapped(self._serve()))  # noqa: TID251
        self._work.add_done_callback(self._worked)

    # --- what the gateway calls

    def event(self, event: bytes) -> None:
        self._waiting_bytes += EVENT_BYTES + len(event)
        self._inbox.append(event)
        self._arrived.set()

    def audio(self, data: bytes) -> None:
        if not data:
            return
        self._waiting_bytes += len(data)
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, bytearray) and len(last) + len(data) <= MAX_PIECE_BYTES:
            last += data
        else:
            self._inbox.append(bytearray(data))
        self._arrived.set()

    @property
    def behind_s(self) -> float:
        return self._waiting_bytes / self._settings.format.bytes_per_s

    @property
    def processed(self) -> Heard:
        return Heard(self._taken_ms / 1000, next(iter(self._models)) if len(self._models) == 1 else None)

    async def answers(self) -> AsyncGenerator[bytes | End, None]:
        while True:
            answer = await self._outbox.get()
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, bytes):
                self._unread_bytes -= len(answer)
            yield answer
            if isinstance(answer, End):
                return

    def close(self) -> None:
        self._work.cancel()
        self._held.close()

    # --- the task

    def _worked(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled() and (error := work.exception()) is not None:
            self._outbox.put_nowait(error if isinstance(error, Exception) else BackendError("a live session ended"))

    async def _serve(self) -> None:
        try:
            async with self._around.ears.listen() as ear, asyncio.TaskGroup() as group:
                self._ear, self._group = ear, group
                await self._take_all()
        except* _OverError:
            pass

    async def _take_all(self) -> None:
        while True:
            try:
                async with asyncio.timeout(MAX_IDLE_S):
                    await self._something()
            except TimeoutError:
                self._end(SessionExpiredError("Your session was closed after 15 minutes without an event."))
            entry = self._inbox.popleft()
            if isinstance(entry, bytearray):
                await self._hear(entry)
            else:
                self._waiting_bytes -= EVENT_BYTES + len(entry)
                await self._follow(parse(entry))

    async def _something(self) -> None:
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()

    def _end(self, why: Exception) -> NoReturn:
        """Say the last of the session, behind all that has been said. Raises _OverError."""
        self._outbox.put_nowait(why)
        raise _OverError

    # --- what the app says

    async def _follow(self, event: ClientEvent) -> None:
        match event:
            case Append(audio):
                self._waiting_bytes += len(audio)
                for start in range(0, len(audio), MAX_PIECE_BYTES):
                    await self._hear(bytearray(audio[start : start + MAX_PIECE_BYTES]))
            case Update():
                self._update(event)
            case Commit():
                await self._commit(event)
            case Clear():
                await self._clear()
            case Named():
                self._send(self._events.error(event))

    def _update(self, event: Update) -> None:
        if event.shape is Shape.BETA:
            self._events.shape = Shape.BETA
        try:
            self._settings = updated(self._settings, event.session, event.shape, self._around.models)
        except Refusal as refusal:
            self._send(self._events.error(Named(refusal, event.event_id)))
            return
        self._stretch.detector.rule = _rule(self._settings)
        self._tell_session("updated")

    async def _commit(self, event: Commit) -> None:
        if self._uncommitted_ms < MIN_COMMIT_MS or (self._settings.turn_detection and self._item is None):
            buffered_ms = 0.0 if self._settings.turn_detection else self._uncommitted_ms
            self._send(self._events.error(Named(nothing_to_commit(buffered_ms), event.event_id)))
            return
        length_ms = self._length_ms()
        self._listen(await self._ear.end())
        if self._settings.turn_detection is None or self._item is not None:  # it may just have ended by itself
            item = self._item or self._begin()
            if self._settings.turn_detection is not None:
                self._send(self._events.speech_stopped(item.id, round(self._taken_ms)))
            self._commit_item(item, length_ms)
        self._begin_stretch()

    def _length_ms(self) -> float:
        """How long the open turn is by now."""
        if self._settings.turn_detection is None or self._stretch.detector.start is None:
            return self._uncommitted_ms
        return self._taken_ms - self._stretch.ms(self._stretch.detector.start)

    async def _clear(self) -> None:
        await self._ear.end()
        self._drop()
        self._begin_stretch()
        self._send(self._events.cleared())

    def _drop(self) -> None:
        if self._item is not None:
            self._item.drop()
            self._leave(self._item)
            self._item = None

    def _begin_stretch(self) -> None:
        self._uncommitted_ms = 0.0
        self._stretch = Stretch(self._taken_ms, _rule(self._settings))

    # --- what is heard

    async def _hear(self, data: bytearray) -> None:
        form = self._settings.format
        while sum(item.pending for item in self._items) > MAX_PENDING_CLIPS:
            self._progress.clear()
            await self._progress.wait()
        block = await self._ear.hear(form.sound, form.rate_hz, data)
        self._waiting_bytes -= len(data)
        duration_s = len(data) / form.bytes_per_s
        self._taken_ms += duration_s * 1000
        self._uncommitted_ms += duration_s * 1000
        self._visit.hear(duration_s)
        self._listen(block)
        if (why := self._visit.over) is not None:
            await self._end_early(why)

    async def _end_early(self, why: FaultKind) -> None:
        """What was committed is still told."""
        self._drop()
        while not self._order.settled:
            self._progress.clear()
            await self._progress.wait()
        self._end(Fault(why))

    def _listen(self, block: AudioBlock) -> None:
        """Give windows to the turn that they belong to, as the app or their silence says."""
        by_itself = self._settings.turn_detection is not None
        early = self.behind_s < BEHIND_S
        for window, change in self._stretch.push(block):
            if self._item is not None:
                self._item.hear(window, look=early)
            elif not by_itself:
                self._begin().hear(window, look=early)
            if change is Change.BEGAN and by_itself:
                self._start_speech()
            elif self._item is not None:
                self._turn(self._item, change, early=early)

    def _turn(self, item: Item, change: Change | None, *, early: bool) -> None:
        detector = self._stretch.detector
        match change:
            case Change.PAUSED:
                item.pause(look=early)
            case Change.WENT_ON:
                item.go_on()
            case Change.ENDED:
                self._stop_speech(item)
            case _ if self._settings.turn_detection is not None and detector.length_ms >= MAX_TURN_MS:
                self._stop_speech(item)
                detector.begin_again()
                self._start_speech()

    def _start_speech(self) -> None:
        start = self._stretch.detector.start or 0
        if self._item is None:
            item = self._begin()
            item.hear(self._stretch.since(start), look=False)
        else:  # of an app that has just stopped to say itself where turns end
            item = self._item
        self._send(self._events.speech_started(item.id, self._stretch.ms(start)))

    def _stop_speech(self, item: Item) -> None:
        detector = self._stretch.detector
        self._send(self._events.speech_stopped(item.id, self._stretch.ms(detector.now)))
        self._commit_item(item, (detector.now - detector.last_start) * WINDOW_MS)
        self._uncommitted_ms = 0.0

    def _begin(self) -> Item:
        settings = self._settings
        item = Item(
            self._around.new_id("item"),
            self._around.recogniser.attend(settings.hearing, caller=self._visit.caller.holder),
            self,
            self._group,
            activity=_activity(settings),
            interval_s=settings.interim_interval_s,
            eager=settings.turn_detection is not None,
            logprobs=settings.logprobs,
        )
        self._order.begin(item.id)
        self._models.add(settings.hearing.model)
        self._items.add(item)
        self._item = item
        return item

    def _commit_item(self, item: Item, length_ms: float) -> None:
        for event in self._events.committed(item.id, self._previous):
            self._send(event)
        self._previous, self._item = item.id, None
        item.end(length_ms / 1000)

    # --- what is told

    def delta(self, item: Item, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        self._order.say(item.id, self._events.delta(item.id, text, logprobs if item.logprobs else None))

    def completed(self, item: Item, transcript: Transcript) -> None:
        self._leave(item, self._events.completed(item.id, transcript, logprobs=item.logprobs))

    def failed(self, item: Item) -> None:
        self._leave(item, self._events.failed(item.id, of_fault(Fault(FaultKind.UNAVAILABLE), "item")))

    def advanced(self) -> None:
        self._progress.set()

    def _leave(self, item: Item, last: bytes | None = None) -> None:
        """last: its last event; None for one that is given up."""
        self._order.end(item.id, last)
        self._items.discard(item)
        self._progress.set()

    def _tell_session(self, what: str) -> None:
        told = self._events.session(what, self._settings, session_id=self._id, expires_at=self._expires_at)
        self._send(told)

    def _send(self, event: bytes) -> None:
        self._unread_bytes += len(event)
        if self._unread_bytes <= MAX_UNREAD_BYTES:
            self._outbox.put_nowait(event)
            return
        while not self._outbox.empty():
            self._outbox.get_nowait()
        self._outbox.put_nowait(End(1008, "The session's events were not read."))
        self._work.cancel()


def _rule(settings: SessionSettings) -> Rule:
    detection = settings.turn_detection
    if detection is None:
        return Rule()
    return Rule(detection.threshold, detection.prefix_padding_ms, detection.silence_duration_ms)


def _activity(settings: SessionSettings) -> VoiceActivity:
    """How a turn is cut into clips: its own threshold, and the pauses of files."""
    detection = settings.turn_detection
    usual = VoiceActivity()
    if detection is None:
        return usual
    padding_ms = min(max(detection.prefix_padding_ms, usual.prefix_padding_ms), MAX_PREFIX_PADDING_MS)
    return replace(usual, threshold=detection.threshold, prefix_padding_ms=padding_ms)
