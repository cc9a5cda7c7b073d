"""What is a transcript about, where no model writes summaries? Its own sentences, and its own phrases.

The summary is extractive: the sentences that hold most of the frequent words close together, in their order (Luhn,
"The Automatic Creation of Literature Abstracts", 1958, as sumy has it). Topics are key phrases of one or two words
(Campos et al., "YAKE!", 2020). Both are in words that were said, and whoever shows them says how they were made.

Needs the extra `summaries`.
"""

from __future__ import annotations

import re
from typing import Final

from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.summarizers.luhn import LuhnSummarizer
from sumy.utils import get_stop_words
from yake import KeywordExtractor

from core.transcript.languages import name_of
from proxy.jobs.model import Summary, SummaryMethod

MAX_CHARS: Final = 500_000
"""Of a transcript that are read: ten hours of speech have about as many."""
MAX_SENTENCES: Final = 8
SENTENCES_TO_ONE: Final = 20
MAX_TOPICS: Final = 8

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")
_WORD: Final = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+")
"""A character of a script without spaces, or a word."""


def extract(text: str, language: str) -> Summary:
    """What can be taken out of a transcript. It takes seconds for hours of speech. language: Whisper's code."""
    read = text[:MAX_CHARS]
    return Summary(summary_of(read, language), topics_of(read, language), SummaryMethod.EXTRACTIVE)


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
