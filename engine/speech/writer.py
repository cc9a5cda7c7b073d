"""How does a stream send a file's text on, when nothing that was sent can be taken back?"""

from __future__ import annotations

from collections.abc import Callable

from core.transcript.types import TokenLogprob
from engine.speech.echo import EchoGuard
from engine.speech.stitch import TextJoiner
from engine.types import ClipTranscript, TextDelta


class TextWriter:
    """Sends a file's text on as deltas; remembers what the current clip has written.

    begun: whether anything was sent. clip_deltas: how many pieces of the current clip came.
    """

    def __init__(self, joiner: TextJoiner, send: Callable[[TextDelta], None]) -> None:
        self._joiner = joiner
        self._send = send
        self._echo = EchoGuard(None)
        self._clip_text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self.begun = False
        self.clip_deltas = 0

    @property
    def clip_begun(self) -> bool:
        """Whether any text of the current clip was sent."""
        return bool(self._clip_text)

    @property
    def held(self) -> bool:
        """Whether all text of the current clip is held back, since it may be the prompt."""
        return bool(self._echo.held.strip())

    def begin_clip(self, prompt: str | None) -> None:
        """Say what the next piece's clip was told before; None where its text is to be sent whatever it is."""
        self._echo = EchoGuard(prompt)

    def write(self, piece: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Send what `piece` adds to the text; log probabilities of a piece that adds nothing yet go with the next."""
        self.clip_deltas += 1
        self._logprobs.extend(logprobs)
        if text := self._joiner.add(self._echo.admit(piece)):
            self._send(TextDelta(text, tuple(self._logprobs)))
            self._clip_text.append(text)
            self._logprobs.clear()
            self.begun = True

    def cut_short(self) -> ClipTranscript:
        """Stand in for the transcript that a clip never gave; a backend sends at least one token a delta."""
        return ClipTranscript(text="".join(self._clip_text), segments=(), output_tokens=self.clip_deltas)

    def end_clip(self) -> str:
        """Return the clip's text as it was sent, and begin the next clip."""
        text = "".join(self._clip_text)
        self._joiner.end_clip()
        self._clip_text.clear()
        self._logprobs.clear()
        self.clip_deltas = 0
        return text
