"""What is a summary made of, and what is one?"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WORDS = 150
MAX_WORDS = 300
DEFAULT_TOPICS = 8
MAX_TOPICS = 20


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody said at a stretch. speaker: what the caller calls them; None where nobody has told."""

    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a transcript.

    turns: in the order in which they were said. language: the Whisper code of what is written; None for the
    transcript's own. max_words: of the summary, about; 0 for none. max_topics: 0 for none.
    """

    turns: tuple[Turn, ...]
    language: str | None = None
    max_words: int = DEFAULT_WORDS
    max_topics: int = DEFAULT_TOPICS

    def __post_init__(self) -> None:
        if not 0 <= self.max_words <= MAX_WORDS or not 0 <= self.max_topics <= MAX_TOPICS:
            raise ValueError("more is wanted than is written")
        if not self.max_words and not self.max_topics:
            raise ValueError("nothing is wanted")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model wrote. text: None where only topics were wanted. topics: the most telling first.

    input_tokens, output_tokens: of all calls to the model.
    """

    text: str | None
    topics: tuple[str, ...]
    input_tokens: int
    output_tokens: int
