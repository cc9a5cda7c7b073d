"""What is a transcript about, where no model writes summaries? Its own sentences, and its own phrases.

The summary is extractive: the sentences that hold most of the frequent words close together, in their order (Luhn,
"The Automatic Creation of Literature Abstracts", 1958, as sumy has it). Topics are key phrases of one or two words
(Campos et al., "YAKE!", 2020). Both are in words that were said, and whoever shows them says how they were made.

Needs the extra `summaries`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.summarizers.luhn import LuhnSummarizer
from sumy.utils import get_stop_words
from yake import KeywordExtractor

from core.transcript.languages import name_of
from core.transcript.types import Transcript
from proxy.jobs.model import JobOptions, JobResult, PartPlan
from proxy.jobs.ports import Stitcher

MAX_CHARS: Final = 500_000
"""Of a transcript that are read: ten hours of speech have about as many."""
MAX_SENTENCES: Final = 8
SENTENCES_TO_ONE: Final = 20
MAX_TOPICS: Final = 8
EXTRACTIVE: Final = "extractive"
"""As answers call this way."""

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")
_WORD: Final = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+")
"""A character of a script without spaces, or a word."""


@dataclass(frozen=True, slots=True)
class Extracting:
    """A `Stitcher` that adds what can be taken out of a transcript, where a summary is wanted and there is none.

    It takes seconds for hours of speech, so it is not called where others wait.
    """

    stitcher: Stitcher

    def stitch(self, parts: Sequence[tuple[PartPlan, Transcript]], options: JobOptions) -> JobResult:
        made = self.stitcher.stitch(parts, options)
        if not options.summary or made.summary is not None:
            return made
        text, language = made.transcript.text[:MAX_CHARS], made.transcript.language
        summary, topics = summary_of(text, language), topics_of(text, language)
        return replace(made, summary=summary, topics=topics, summary_method=EXTRACTIVE)


def summary_of(text: str, language: str) -> str | None:
    """Sentences of `text`, one of twenty, eight at most; None for a text without any. language: Whisper's code."""
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip()]
    if not sentences:
        return None
    count = max(1, min(MAX_SENTENCES, len(sentences) // SENTENCES_TO_ONE))
    summarise = LuhnSummarizer()
    summarise.stop_words = _stop_words(language)
    words = _Words()
    document = ObjectDocumentModel([Paragraph([Sentence(sentence, words) for sentence in sentences])])
    return " ".join(str(sentence) for sentence in summarise(document, count))


def topics_of(text: str, language: str) -> tuple[str, ...]:
    """Key phrases of `text`, the most telling first."""
    found = KeywordExtractor(lan=language, n=2, top=MAX_TOPICS).extract_keywords(text)
    return tuple(str(phrase) for phrase, _ in found)


class _Words:
    """sumy's tokenizer, without the data that NLTK would fetch."""

    def to_words(self, sentence: str) -> tuple[str, ...]:
        return tuple(_WORD.findall(sentence.lower()))


def _stop_words(language: str) -> frozenset[str]:
    """Of the languages for which there is a list."""
    try:
        return frozenset(get_stop_words(name_of(language)))
    except LookupError:
        return frozenset()
