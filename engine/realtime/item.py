"""How does one turn become text, from its first window to its `completed`?

::

    windows -> ClipCutter -> clips that are over -> finish  -> what is left of their text, as a delta
                   |
                   +-> the clip that goes on     -> glimpse, each second of speech -> words on which two looks agree
                                                 -> finish, at a pause; kept if nothing more is said, else given up

A clip is over when it is full, when a long silence follows, and at the end of the turn: then little is left to be
heard, however long the turn was. Looks are taken one at a time, never while a text of the turn that is final is
awaited, and only where a slot of the backend is free: they delay nobody's final text by more than one of them.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from core.errors import BackendError
from core.media.types import AudioBlock
from core.transcript.types import TokenLogprob, Transcript
from engine.realtime.agreement import Agreement
from engine.speech.attention import Attention, Spoken
from engine.speech.clips import HYSTERESIS, WINDOW_S, ClipCutter
from engine.speech.stitch import TextJoiner, join_texts
from engine.types import Clip, VoiceActivity

FIRST_WORDS_S = 1.5
"""Of less speech than this a model makes up words that nobody could take back."""

_Final: TypeAlias = "asyncio.Task[Spoken | BackendError]"


class Told(Protocol):
    """Whoever passes an item's texts on."""

    def delta(self, item: Item, text: str, logprobs: tuple[TokenLogprob, ...]) -> None: ...

    def completed(self, item: Item, transcript: Transcript) -> None: ...

    def failed(self, item: Item) -> None: ...

    def advanced(self) -> None:
        """A clip that was over has its text, or has none."""


@dataclass(slots=True)
class _Pause:
    """A clip as it was when nothing more was being said. text: of it, if that was begun at once."""

    clip: Clip
    text: _Final | None = None

    def is_end_of(self, clip: Clip) -> bool:
        """Whether `clip`, which is over, has become no more than longer."""
        return clip.start_s == self.clip.start_s and clip.duration_s >= self.clip.duration_s

    def good_text(self) -> _Final | None:
        """The text, unless it has failed."""
        if self.text is None or (self.text.done() and isinstance(self.text.result(), BackendError)):
            return None
        return self.text


class Item:
    """One turn. Its tasks belong to `group`; `drop` ends them.

    interval_s: how much new speech there is between the end of a look and the next; None for no look. eager: whether a
    text that may be in vain is begun at a pause even where no slot is free. logprobs: whether they are told.
    """

    def __init__(
        self,
        item_id: str,
        attention: Attention,
        told: Told,
        group: asyncio.TaskGroup,
        *,
        activity: VoiceActivity,
        interval_s: float | None,
        eager: bool,
        logprobs: bool,
    ) -> None:
        self.id = item_id
        self.logprobs = logprobs
        self._attention = attention
        self._told = told
        self._group = group
        self._cutter = ClipCutter(activity)
        self._soft = round(255 * max(activity.threshold - HYSTERESIS, 0.0))
        self._interval = None if interval_s is None else interval_s / WINDOW_S
        self._eager = eager
        self._spoken = self._looked_at = 0
        """How many windows held speech, and how many of them when a look last ended."""
        self._language = ""
        """Of the looks; a final text has one of its own."""
        self._agreement = Agreement()
        self._joiner: TextJoiner | None = None
        self._pause: _Pause | None = None
        self._look: asyncio.Task[None] | None = None
        self._over: asyncio.Queue[tuple[_Final, Agreement] | None] = asyncio.Queue()
        self._finals: list[_Final] = []
        self._ended_at = 0.0
        self._duration_s = 0.0
        self._writer = group.create_task(self._write())

    @property
    def pending(self) -> int:
        """How many clips that are over have no text yet."""
        return sum(not final.done() for final in self._finals)

    def hear(self, block: AudioBlock, *, look: bool) -> None:
        """Take the next windows. look: whether what is known by now may be looked at."""
        for clip in self._cutter.push(block):
            self._close(clip)
        self._spoken += sum(probability > self._soft for probability in block.speech)
        if look and self._interval is not None and self._spoken - self._looked_at >= self._interval:
            self._look_at_it()

    def pause(self, *, look: bool) -> None:
        """Nothing is being said; perhaps nothing more will be. look: as of `hear`."""
        self._stop_looking()
        clip = self._open_clip()
        if clip is not None:
            self._pause = _Pause(clip)
            if look and (self._eager or self._attention.idle):
                self._pause.text = self._group.create_task(self._finish(clip))

    def go_on(self) -> None:
        """More is being said after all."""
        if self._pause is not None and self._pause.text is not None:
            self._pause.text.cancel()
        self._pause = None

    def end(self, duration_s: float) -> None:
        """Nothing more belongs to this turn. duration_s: of all of it."""
        self._stop_looking()
        for clip in self._cutter.finish():
            self._close(clip)
        self.go_on()
        self._duration_s, self._ended_at = duration_s, asyncio.get_running_loop().time()
        self._over.put_nowait(None)

    def drop(self) -> None:
        """Forget the turn."""
        self._stop_looking()
        self.go_on()
        self._writer.cancel()
        for final in self._finals:
            final.cancel()

    # --- texts that are final

    def _close(self, clip: Clip) -> None:
        self._stop_looking()
        pause = self._pause
        if pause is None or not pause.is_end_of(clip):
            self.go_on()
            final = self._group.create_task(self._finish(clip))
        else:  # that clip and no longer one, so that a text does not hang on how fast its sound came
            self._pause = None
            final = pause.good_text() or self._group.create_task(self._finish(pause.clip))
        final.add_done_callback(lambda _: self._told.advanced())
        self._finals.append(final)
        self._over.put_nowait((final, self._agreement))
        self._agreement = Agreement()

    async def _finish(self, clip: Clip) -> Spoken | BackendError:
        # As a value: what goes wrong with one turn must not end the group.
        try:
            return await self._attention.finish(clip)
        except BackendError as exc:
            return exc

    async def _write(self) -> None:
        spoken: list[Spoken] = []
        failed = False
        while (over := await self._over.get()) is not None:
            final, agreement = over
            text = await final
            if isinstance(text, BackendError):
                failed = True
            elif not failed:
                spoken.append(text)
                self._attention.language = text.language
                self._show_rest(text, agreement)
        if failed:
            self._told.failed(self)
            return
        waited_s = asyncio.get_running_loop().time() - self._ended_at
        whole = self._attention.write_down(spoken, duration_s=self._duration_s, waited_s=waited_s)
        self._told.completed(self, whole)

    def _show_rest(self, text: Spoken, agreement: Agreement) -> None:
        self._show(agreement.rest(self._text_of(text), text.language), text)
        if self._joiner is not None:
            self._joiner.end_clip()

    def _show(self, piece: str, text: Spoken) -> None:
        if self._joiner is None:
            self._joiner = TextJoiner(text.language, self._attention.task)
        if added := self._joiner.add(piece):
            self._told.delta(self, added, text.logprobs)

    # --- looks at what goes on

    def _look_at_it(self) -> None:
        busy = self._look is not None and not self._look.done()
        if busy or self.pending or self._pause is not None or not self._attention.idle:
            return
        clip = self._open_clip()
        if clip is not None:
            self._look = self._group.create_task(self._glimpse(clip, self._agreement))

    async def _glimpse(self, clip: Clip, agreement: Agreement) -> None:
        show = self._spoken * WINDOW_S >= FIRST_WORDS_S
        try:
            text = await self._attention.glimpse(clip, self._language)
        except BackendError:
            return  # the final text is another attempt
        finally:
            # From its end: a final text waits for a look that cannot be stopped, so that there has to be time between.
            self._looked_at = self._spoken
        if text is not None and show:
            self._language = text.language
        if text is not None:
            self._show(agreement.look(self._text_of(text), text.language, show=show), text)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def _open_clip(self) -> Clip | None:
        """The clip that would be over if the turn were; None where it would be two, or nothing."""
        clips = list(deepcopy(self._cutter).finish())
        return clips[0] if len(clips) == 1 else None

    def _text_of(self, spoken: Spoken) -> str:
        texts = (part.transcript.text for part in spoken.heard)
        return join_texts(texts, language=spoken.language, task=self._attention.task)
