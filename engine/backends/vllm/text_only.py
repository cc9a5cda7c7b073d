"""How does the engine talk to a vLLM whose model is no Whisper? By its transcription API, which tells text alone.

vLLM serves by the same routes whatever implements its `SupportsTranscription` (0.32: Qwen3-ASR, Voxtral, Cohere
Transcribe, Granite Speech, FunASR, ...). What Whisper's decoder tells beside the text those have not: times within a
clip, log probabilities, how likely a language or silence is. Voice activity detection, cutting, the search for loops,
speakers and subtitles (a segment is a clip) are the shared stages'; words, log probabilities, a language that is to be
detected and translations are refused by name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from core.errors import BackendError
from core.transcript.types import Task
from engine.backends.vllm.answers import text_fields, transcript_from_text
from engine.backends.vllm.client import ROUTES, SILENCE, VllmClient
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta

_CODES: Final = (
    "af ar hy az be bs bg ca zh hr cs da nl en et fi fr gl de el he hi hu is id it ja kn kk ko lv lt mk ms mr mi ne no "
    "fa pl pt ro ru sr sk sl es sw sv tl ta th tr uk ur vi cy"
)
LANGUAGES: Final = frozenset(_CODES.split())
"""The languages that vLLM lets through to those models (`ISO639_1_SUPPORTED_LANGS`); a model may know fewer."""

MAX_PROMPT_CHARS: Final = 800
"""What is kept of a prompt: the end. Of a Whisper's our plugin keeps the last tokens; a long one is refused here."""


class TextOnlyClient(VllmClient):
    """Calls one vLLM server whose model tells text alone."""

    async def transcribe(self, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        """Turn one clip into one segment. Raises BackendError."""
        answer = await self._ask(ROUTES[options.task], clip, text_fields(_shortened(options)))
        return transcript_from_text(_text(answer), clip)

    async def stream(self, clip: Clip, options: DecodingOptions) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        """Yield the text of one clip token by token, then the whole. Raises BackendError."""
        async with aclosing(super().stream(clip, _shortened(options))) as pieces:
            async for piece in pieces:
                # What the sound of a clip costs is each family's own affair, and cannot be taken off its prompt.
                yield replace(piece, prompt_tokens=0) if isinstance(piece, ClipTranscript) else piece

    async def languages(self, clip: Clip) -> Mapping[str, float]:  # noqa: ARG002 - nobody can tell
        """Raises BackendError: a request that names no language is refused before it comes here."""
        raise BackendError("this model tells no languages")

    async def greet(self) -> None:
        """As of every server. Raises BackendError where it cannot even hear silence.

        Our plugin has no part in what this model says, and is not asked for.
        """
        _text(await self._ask(ROUTES[Task.TRANSCRIBE], SILENCE, text_fields(DecodingOptions("en"))))
        self.served = False


def _text(answer: Mapping[str, object]) -> str:
    text = answer.get("text")
    if not isinstance(text, str):
        raise BackendError("vLLM gave an answer that cannot be read")
    return text


def _shortened(options: DecodingOptions) -> DecodingOptions:
    return replace(options, prompt=options.prompt[-MAX_PROMPT_CHARS:] if options.prompt else None)
