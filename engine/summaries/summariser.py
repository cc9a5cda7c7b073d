"""How does a transcript of any length become a summary? In one call to a model, or part by part and then the parts.

A transcript that fits into the model's context is read at once. Of a longer one each part is summarised, and then the
summaries of the parts are, again in parts where they are too many. The work is bounded: `MAX_PARTS` parts of a
transcript are read, a few at a time, and every further round has fewer than the one before.

What comes of it is checked, whatever the schema has seen to: a summary that calls somebody what nobody in the
transcript is called ("Speaker 3" of two) is no summary of it, and is not given out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from core.errors import BackendError
from core.program.run import unwrapped
from core.transcript.faults import TRANSCRIPT, Fault, FaultKind
from engine.summaries.model import InstructModel, Written
from engine.summaries.observer import SummaryObserver, Unobserved
from engine.summaries.prompts import CHARS_PER_TOPIC, Stage, answer_tokens, one_line, prompt, schema, summary_chars
from engine.summaries.splitting import halves
from engine.summaries.types import Summary, Turn, Wish

MAX_PARTS: Final = 128
PARALLEL_PARTS: Final = 4
"""Of one transcript, so that others have their turn at the model."""

PART_WORDS: Final = 100
"""Of the summary of a part."""

CHARS_PER_TOKEN: Final = 8
"""What has more for each token that there is room for is not even counted: no language has so many."""

_LABEL: Final = re.compile(r"\b(?i:speaker)(?:[ _-]?(\d+)|[ _-]([A-HJ-Z]))\b")
"""By which a speaker may be called; `I` is a word."""


class Summariser:
    """Has transcripts summarised by a model."""

    def __init__(self, model: InstructModel, observer: SummaryObserver | None = None) -> None:
        self.model = model
        self._observer = observer or Unobserved()

    async def summarise(self, wish: Wish) -> Summary:
        """Raises Fault (TOO_LARGE) for a transcript of more parts than are read, and BackendError."""
        try:
            written = await unwrapped(_Work(self.model, self._observer, wish).done())
            _refuse_strangers(written, wish)
        except BackendError:
            self._observer.summary_failed()
            raise
        return written


class _Work:
    """The summary of one transcript. part: what is wanted of each part of it."""

    def __init__(self, model: InstructModel, observer: SummaryObserver, wish: Wish) -> None:
        self._model = model
        self._observer = observer
        self._wish = wish
        self._part = replace(wish, max_words=min(wish.max_words or PART_WORDS, PART_WORDS))
        self._places = asyncio.Semaphore(PARALLEL_PARTS)
        self._input_tokens = 0
        self._output_tokens = 0

    async def done(self) -> Summary:
        turns, stage = self._wish.turns, Stage.TRANSCRIPT
        while len(parts := await self._parts(turns, stage)) > 1:
            if stage is Stage.PARTS and len(parts) >= len(turns):
                raise BackendError("the model's context has no room for the summaries of two parts")
            turns, stage = await self._each(parts, stage), Stage.PARTS
        summary, topics = await self._write(parts[0], self._wish, stage)
        return Summary(summary, topics, self._input_tokens, self._output_tokens)

    async def _parts(self, turns: tuple[Turn, ...], stage: Stage) -> list[tuple[Turn, ...]]:
        """These turns in as many parts as the context asks for."""
        longest = max(self._wish, self._part, key=answer_tokens)  # which of them it will be, is not known yet
        room = self._model.context - answer_tokens(longest)
        if room <= 0:
            raise BackendError("the model's context has no room beside an answer")
        parts: list[tuple[Turn, ...]] = []
        left = [turns]
        while left:
            if len(parts) + len(left) > MAX_PARTS:
                raise Fault(FaultKind.TOO_LARGE, TRANSCRIPT)
            part = left.pop()
            if await self._fits(part, longest, stage, room):
                parts.append(part)
            else:
                left += reversed(_halved(part))
        return parts

    async def _fits(self, part: tuple[Turn, ...], wish: Wish, stage: Stage, room: int) -> bool:
        if sum(len(turn.text) for turn in part) > room * CHARS_PER_TOKEN:
            return False
        return await self._model.count(await asyncio.to_thread(prompt, part, wish, stage)) <= room

    async def _each(self, parts: Sequence[tuple[Turn, ...]], stage: Stage) -> tuple[Turn, ...]:
        """A line about each part."""

        async def line(part: tuple[Turn, ...]) -> Turn:
            async with self._places:
                summary, topics = await self._write(part, self._part, stage)
            return Turn(" ".join([summary or "", *(["Topics:", "; ".join(topics)] if topics else [])]))

        async with asyncio.TaskGroup() as group:
            lines = [group.create_task(line(part)) for part in parts]
        return tuple(each.result() for each in lines)

    async def _write(self, turns: tuple[Turn, ...], wish: Wish, stage: Stage) -> tuple[str | None, tuple[str, ...]]:
        given = await asyncio.to_thread(prompt, turns, wish, stage)  # of hours of speech it takes a moment
        written = await self._model.write(given, schema(wish), max_tokens=answer_tokens(wish))
        self._observer.text_written(written.input_tokens, written.output_tokens)
        self._input_tokens += written.input_tokens
        self._output_tokens += written.output_tokens
        return _read(written, wish)


def _halved(part: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    try:
        return halves(part)
    except ValueError:
        raise BackendError("the model's context has no room for a transcript") from None


def _read(written: Written, wish: Wish) -> tuple[str | None, tuple[str, ...]]:
    """Raises BackendError for what is not as the schema says; without a cause, which may quote it."""
    try:
        answer: dict[str, Any] = json.loads(written.text)
        summary = _line(answer["summary"], summary_chars(wish)) if wish.max_words else None
        listed = [_line(topic, CHARS_PER_TOPIC) for topic in answer["topics"]] if wish.max_topics else []
    except (KeyError, TypeError, ValueError):
        raise BackendError("the instruct model did not keep to the schema") from None
    if summary == "":
        raise BackendError("the instruct model wrote nothing")
    return summary, tuple(_distinct(listed))[: wish.max_topics]


def _line(value: object, max_chars: int) -> str:
    if not isinstance(value, str) or len(value) > max_chars:
        raise TypeError("no text, or too long")
    return one_line(value)


def _distinct(topics: Sequence[str]) -> Iterator[str]:
    seen = {""}
    for topic in topics:
        if topic.casefold() not in seen:
            seen.add(topic.casefold())
            yield topic


def _refuse_strangers(summary: Summary, wish: Wish) -> None:
    """Raises BackendError where a speaker is called by a number or a letter that is not in the transcript."""
    known = {turn.speaker for turn in wish.turns}
    known |= {label for turn in wish.turns for said in (turn.speaker, turn.text) for label in _labels(said)}
    if not known.issuperset(_labels(summary.text)):
        raise BackendError("the instruct model made up a speaker")


def _labels(text: str | None) -> set[str]:
    return {found[1] or found[2] for found in _LABEL.finditer(text or "")}
