"""How does a person read what is being said, as it is said? A client of the local proxy, like any app.

On a terminal the words of a turn that goes on are dim, until its text is final; elsewhere
only final texts are printed, a line for each turn.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.text import Text

from core.program.metronome import MakeMetronome, Metronome, Steady
from core.program.run import ExitCode, until_stopped
from core.program.together import first_of
from proxy.client.sources import PIECE_S, Pieces
from proxy.client.transcribe import ClientError, printable, session_of_client, unreachable

_TEXT: Final = "conversation.item.input_audio_transcription"
_LAST: Final = "last"  # names the commit after the last audio
_SHOWN_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A session to hold. rate_hz: of the audio. paced: it is sent no faster than it was said."""

    url: str
    rate_hz: int
    model: str | None
    language: str | None
    paced: bool
    headers: dict[str, str] = field(repr=False)


class Screen(Protocol):
    """Where words are shown."""

    def going_on(self, text: str) -> None:
        """What is known so far of turns that are not final; it replaces what was given before."""

    def final(self, text: str) -> None:
        """The text of a turn."""


@dataclass(slots=True)
class Turns:
    """What a session has told so far. failed: how many turns have no text."""

    failed: int = 0
    _words: dict[str, str] = field(default_factory=dict)
    _awaited: set[str] = field(default_factory=set)
    _last_taken: bool = False

    @property
    def complete(self) -> bool:
        """All audio was taken, and every turn of it has ended."""
        return self._last_taken and not self._awaited

    @property
    def going_on(self) -> str:
        return "".join(self._words.values()).strip()

    def take(self, event: dict[str, Any]) -> str | None:
        """The text of a turn, if this event has it. Raises ClientError for one that ends the session."""
        kind, item = event["type"], event.get("item_id", "")
        if kind == "error":
            _check_harmless(event["error"])
        elif kind == "input_audio_buffer.committed":
            self._awaited.add(item)
        elif kind == "input_audio_buffer.cleared":
            self._last_taken = True
        elif kind == f"{_TEXT}.delta":
            self._words[item] = self._words.get(item, "") + event["delta"]
        elif kind in (f"{_TEXT}.completed", f"{_TEXT}.failed"):
            self._words.pop(item, None)
            self._awaited.discard(item)
            self.failed += kind == f"{_TEXT}.failed"
            return event.get("transcript")
        return None


def _check_harmless(error: dict[str, Any]) -> None:
    """That nobody spoke after the last turn is the only error that was to be expected."""
    if error.get("event_id") == _LAST and error["code"] == "input_audio_buffer_commit_empty":
        return
    refused = error["code"] == "attestation_refused"
    raise ClientError(f"{error['code']}: {error['message']}", ExitCode.REFUSED if refused else ExitCode.INTERNAL)


async def transcribe_live(
    job: LiveJob,
    pieces: Pieces,
    *,
    terminal: bool,
    out: TextIO | None = None,
    make_metronome: MakeMetronome = lambda: Steady(PIECE_S),
) -> None:
    """Print what is said until the audio ends, or the program is asked to end. Raises ClientError."""
    query = {"intent": "transcription"} | ({"model": job.model} if job.model else {})
    try:
        async with (
            session_of_client() as session,
            session.ws_connect(f"{job.url}/v1/realtime", params=query, headers=job.headers, max_msg_size=0) as socket,
        ):
            with _screen(out or sys.stdout, terminal=terminal) as screen:
                turns = await _hold(socket, job, pieces, screen, make_metronome)
    except aiohttp.WSServerHandshakeError as exc:
        raise ClientError(f"the proxy answered {exc.status}") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise unreachable(exc) from exc
    if turns.failed:
        raise ClientError(f"the text of {turns.failed} turns is missing")


async def _hold(
    socket: aiohttp.ClientWebSocketResponse, job: LiveJob, pieces: Pieces, screen: Screen, make_metronome: MakeMetronome
) -> Turns:
    try:
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(_speak(socket, job, pieces, make_metronome))
            turns = await _listen(socket, screen)
            speaking.cancel()
            return turns
    except* ClientError as group_of_errors:
        error = group_of_errors.exceptions[0]
    raise error


async def _speak(
    socket: aiohttp.ClientWebSocketResponse, job: LiveJob, pieces: Pieces, make_metronome: MakeMetronome
) -> None:
    """Send everything, and then ask for what is not yet told. A lost connection is noticed by who listens."""
    heard: dict[str, Any] = {"format": {"type": "audio/pcm", "rate": job.rate_hz}}
    if job.language:
        heard["transcription"] = {"language": job.language}
    try:
        await socket.send_json(
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}}
        )
        await first_of(_send_audio(socket, pieces, make_metronome() if job.paced else None), until_stopped())
        await socket.send_json({"type": "input_audio_buffer.commit", "event_id": _LAST})
        await socket.send_json({"type": "input_audio_buffer.clear"})
    except (aiohttp.ClientError, ConnectionError):
        return


async def _send_audio(socket: aiohttp.ClientWebSocketResponse, pieces: Pieces, metronome: Metronome | None) -> None:
    async with aclosing(pieces):
        async for piece in pieces:
            if metronome is not None:
                await metronome.beat()
            await socket.send_json({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()})


async def _listen(socket: aiohttp.ClientWebSocketResponse, screen: Screen) -> Turns:
    """Show what is told until everything is."""
    turns = Turns()
    while not turns.complete:
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ClientError(f"the session ended too early ({message.extra or socket.close_code})")
        before = turns.going_on
        try:
            text = turns.take(json.loads(message.data))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ClientError("the proxy said something else than an event") from None
        if turns.going_on != before:
            screen.going_on(turns.going_on)
        if text:
            screen.final(text)
    return turns


@contextmanager
def _screen(out: TextIO, *, terminal: bool) -> Iterator[Screen]:
    if not terminal:
        yield _Lines(out)
        return
    console = Console(file=out, force_terminal=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Terminal(live)


@dataclass(frozen=True, slots=True)
class _Lines:
    out: TextIO

    def going_on(self, text: str) -> None:
        pass

    def final(self, text: str) -> None:
        print(text, file=self.out, flush=True)


@dataclass(frozen=True, slots=True)
class _Terminal:
    live: Live

    def going_on(self, text: str) -> None:
        # The end of it: rich cannot take back what has left the screen.
        room = self.live.console.width * _SHOWN_LINES
        self.live.update(Text(printable(text)[-room:], "dim"), refresh=True)

    def final(self, text: str) -> None:
        self.live.console.print(Text(printable(text)))
