"""What does Whisper's decoder read before it writes, when vLLM runs it?

::

    [<|startofprev|> the end of the prompt]  <|startoftranscript|> <|language|> <|task|> [<|notimestamps|>]

A checkpoint for English was trained without language and task, and has neither here.

vLLM passes its `hotwords` field through to the model class and Whisper has no use for it, so it carries what kind of
answer is wanted; the last token of the prompt then tells the logits processor the same. Read by both sides, the
engine's process and vLLM's, so there is no other library than the standard one here.

Layout and the tokens of the prompt: OpenAI's `whisper/decoding.py`, `_get_initial_tokens`. A stock vLLM 0.32 begins the
prompt with `<|startoftranscript|><|prev|>`, the one out of place and the other no token of Whisper's, keeps all of the
text, and honours special tokens written in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from engine.speech.language import OLDER_LANGUAGE
from engine.speech.whisper import PROMPT_TOKENS

TIMESTAMPS = 1501
"""`<|0.00|>` to `<|30.00|>`, in steps of 20 ms."""

UNTIMED = "the checkpoint's tokenizer lacks Whisper's timestamp tokens, <|0.00|> to <|30.00|>"


class Wanted(StrEnum):
    """The kinds of answers, as `hotwords` carries them; anything else wants text alone."""

    TIMESTAMPS = "sottovoce: timestamps"
    LANGUAGES = "sottovoce: languages"


class Tokenizer(Protocol):
    """What is used of the checkpoint's tokenizer (a `transformers` one)."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the tokens of `text`."""

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """Return the id of one token; of an unknown one, None or that of `<|endoftext|>`."""


def decoder_prompt(
    tokenizer: Tokenizer, *, text: str, language: str, task: str, wanted: str | None, english_only: bool = False
) -> list[int]:
    """The tokens the decoder begins with.

    text: what was said before, or how it should be written; its end is kept. Raises ValueError for a language or
    task that the checkpoint has no token for, or was not trained for.
    """
    start = _special(tokenizer, "startoftranscript")
    if wanted == Wanted.LANGUAGES:
        # With English only the start alone asks for timestamps; earlier text of no length tells this from that.
        return [_special(tokenizer, "startofprev"), start] if english_only else [start]
    opening = [start, *_language_and_task(tokenizer, language, task, english_only=english_only)]
    if wanted != Wanted.TIMESTAMPS:
        opening.append(_special(tokenizer, "notimestamps"))
    earlier = _text_tokens(tokenizer, text)[-PROMPT_TOKENS:]
    return [_special(tokenizer, "startofprev"), *earlier, *opening] if earlier else opening


def _language_and_task(tokenizer: Tokenizer, language: str, task: str, *, english_only: bool) -> list[int]:
    if not english_only:
        return [language_token(tokenizer, language), _special(tokenizer, task)]
    if (language, task) != ("en", "transcribe"):
        raise ValueError("the checkpoint is for English only")
    return []


def language_token(tokenizer: Tokenizer, language: str) -> int:
    """The token of a language. Raises ValueError if the checkpoint has none."""
    known = find_special(tokenizer, language)
    if known is None and language in OLDER_LANGUAGE:
        known = find_special(tokenizer, OLDER_LANGUAGE[language])
    if known is None:
        raise ValueError("the checkpoint has no token for this language")
    return known


def find_special(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of `<|name|>`, or None if the checkpoint has no such token."""
    found = tokenizer.convert_tokens_to_ids(f"<|{name}|>")
    return None if found == tokenizer.convert_tokens_to_ids("<|endoftext|>") else found


def refuse_without_timestamps(tokenizer: Tokenizer, first_timestamp: int) -> None:
    """Raises ValueError unless the tokenizer knows the timestamps that the model writes: vLLM cuts segments by them."""
    last_timestamp = first_timestamp + TIMESTAMPS - 1
    if (find_special(tokenizer, "0.00"), find_special(tokenizer, "30.00")) != (first_timestamp, last_timestamp):
        raise ValueError(UNTIMED)


def _special(tokenizer: Tokenizer, name: str) -> int:
    found = find_special(tokenizer, name)
    if found is None:
        raise ValueError("the checkpoint lacks a token that Whisper needs")
    return found


def _text_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a caller's text, without those that stand for more than text.

    Every special token and timestamp has a higher number than `<|endoftext|>`, and every piece of text a lower one.
    """
    if not text.strip():
        return []
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>") or 0
    return [token for token in tokenizer.encode(f" {text.strip()}", add_special_tokens=False) if token < end]
