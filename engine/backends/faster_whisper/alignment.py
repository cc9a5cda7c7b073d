"""When was each word of a text said, and how likely is each token? A second look at a clip whose text is known.

OpenAI's `whisper/timing.py` as faster-whisper has it: the decoder reads the text instead of writing it, the heads that
the checkpoint names for it (`alignment_heads`) show where it listens, and dynamic time warping turns that into times.
The text may come from any decoder of the same checkpoint. Runs in a worker (`engine.backends.faster_whisper.worker`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer

from core.transcript.types import Segment, TokenLogprob, Word
from engine.speech.fallback import finite
from engine.types import ClipTranscript, DecodingOptions, Detail

DEFAULTS = inspect.signature(WhisperModel.transcribe).parameters
PUNCTUATION = [DEFAULTS[name].default for name in ("prepend_punctuations", "append_punctuations")]
"""What is part of the word behind it, and of the word before it."""

LOWEST_LOGPROB = -100.0
"""Of a token that the model finds impossible, though it stands in the text."""

FRAME_TOKENS = 2
"""What CTranslate2 puts around a text that it aligns: `<|notimestamps|>` and `<|endoftext|>`."""

Samples = np.ndarray[Any, np.dtype[np.float32]]


class TooLongError(ValueError):
    """A text has more tokens than the decoder has positions."""


class SecondLook:
    """A clip heard again, beside the tokens of its text. language: one that the checkpoint has a token for."""

    def __init__(
        self,
        whisper: WhisperModel,
        samples: Samples,
        segments: tuple[Segment, ...],
        options: DecodingOptions,
        *,
        language: str,
    ) -> None:
        self._whisper = whisper
        self._options = options
        self._segments = segments
        self._tokenizer = Tokenizer(
            whisper.hf_tokenizer, whisper.model.is_multilingual, task=options.task.value, language=language
        )
        written = [segment.tokens or self._tokenizer.encode(segment.text) for segment in segments]
        self._tokens = [[token for token in tokens if token < self._tokenizer.eot] for tokens in written]
        features = whisper.feature_extractor(samples)
        self._frames = min(features.shape[-1] - 1, whisper.feature_extractor.nb_max_frames)
        self._encoded = whisper.encode(pad_or_trim(features[:, : self._frames]))

    def timed_segments(self) -> tuple[Segment, ...]:
        """The segments with the times of their words; their own stay as they are. Raises TooLongError."""
        if sum(map(len, self._tokens)) > self._room:
            raise TooLongError
        timed: list[dict[str, Any]] = [
            {"seek": 0, "start": segment.start_s, "end": segment.end_s, "tokens": tokens}
            for segment, tokens in zip(self._segments, self._tokens, strict=True)
        ]
        self._whisper.add_word_timestamps(
            [timed], self._tokenizer, self._encoded, self._frames, *PUNCTUATION, last_speech_timestamp=0.0
        )
        return tuple(
            replace(segment, words=tuple(_word(word) for word in one["words"]))
            for segment, one in zip(self._segments, timed, strict=True)
        )

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """How likely each token is after the prompt and those before it; one entry where several make a character.

        A clip of several windows may have more text than the decoder has positions: it is then read in parts, each a
        beginning of its own. Raises TooLongError.
        """
        left = (probability for part in self._parts() for probability in self._probabilities(part))
        tokens = [token for some in self._tokens for token in some]
        pieces = zip(*self._tokenizer.split_tokens_on_unicode(tokens), strict=True)
        return tuple(TokenLogprob(text, sum(_logprob(next(left)) for _ in some)) for text, some in pieces)

    @property
    def _room(self) -> int:
        """How many tokens of a text the decoder has positions for, without a prompt."""
        return int(self._whisper.max_length) - len(self._tokenizer.sot_sequence) - FRAME_TOKENS

    def _parts(self) -> Iterator[list[int]]:
        """The tokens of as many segments as fit, again and again."""
        part: list[int] = []
        for tokens in self._tokens:
            if part and len(part) + len(tokens) > self._room:
                yield part
                part = []
            part = part + tokens
        yield part

    def _probabilities(self, tokens: list[int]) -> list[float]:
        """How likely each of `tokens` is after the prompt, whose end is kept as far as they leave room for it."""
        spare = self._room - len(tokens)
        if spare < 0:
            raise TooLongError
        prompt = self._tokenizer.encode(f" {self._options.prompt.strip()}") if self._options.prompt else []
        begin = max(len(prompt) - max(spare - 1, 0), 0)  # one for `<|startofprev|>`
        opening = self._whisper.get_prompt(self._tokenizer, prompt[begin:])
        [result] = self._whisper.model.align(self._encoded, opening, [tokens], self._frames)
        return list(result.text_token_probs)


def align(
    whisper: WhisperModel,
    samples: Samples,
    transcript: ClipTranscript,
    options: DecodingOptions,
    wanted: frozenset[Detail],
    *,
    language: str,
) -> ClipTranscript:
    """Add what is wanted to a transcript: the times of its words, the log probabilities of its tokens.

    Raises TooLongError for a text that no Whisper could have written of one clip.
    """
    if not transcript.text.strip():
        return transcript
    look = SecondLook(whisper, samples, transcript.segments, options, language=language)
    segments = look.timed_segments() if Detail.WORDS in wanted else transcript.segments
    logprobs = look.logprobs() if Detail.LOGPROBS in wanted else ()
    return replace(transcript, segments=segments, logprobs=logprobs)


def _word(word: dict[str, Any]) -> Word:
    probability = finite(float(word["probability"]), 0.0)
    return Word(str(word["word"]), float(word["start"]), float(word["end"]), probability)


def _logprob(probability: float) -> float:
    return max(math.log(probability), LOWEST_LOGPROB) if probability > 0 else LOWEST_LOGPROB
