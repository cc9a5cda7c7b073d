"""Which language does a file speak, and does it put spaces between words?

Whisper guesses from one clip, and the first one is often a jingle or a name. The probabilities of the first few clips
are added up instead: a clip that is sure weighs more than one that is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

VOTERS = 3
"""How many clips vote; each costs one pass of the encoder."""

UNHEARD = "en"
"""The language of a file without speech; OpenAI's API calls it `english` as well."""


SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words, as in `split_to_word_tokens` of OpenAI's `whisper/tokenizer.py`."""


def elect(ballots: Iterable[Mapping[str, float]], candidates: Collection[str] = ()) -> str:
    """Return the likeliest language over all clips, among `candidates` if there are any.

    ballots: for each clip the probability of every language the model knows.
    """
    votes: defaultdict[str, float] = defaultdict(float)
    for ballot in ballots:
        for language, probability in ballot.items():
            if not candidates or language in candidates:
                votes[language] += probability
    if not votes:  # nothing to hear, or no candidate that the model knows
        return next(iter(candidates), UNHEARD)
    return max(votes, key=lambda language: votes[language])
