"""Which language does a file speak?

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


OLDER_LANGUAGE = {"yue": "zh"}
"""Models before large-v3 have no token for Cantonese and were trained with it under Chinese."""


def elect(ballots: Iterable[Mapping[str, float]], candidates: Collection[str] = ()) -> str:
    """Return the likeliest language over all clips, among `candidates` if there are any.

    ballots: for each clip the probability of every language the model knows, or at least of the likeliest.
    """
    votes: defaultdict[str, float] = defaultdict(float)
    for ballot in ballots:
        for language in candidates or ballot:
            votes[language] += _share(language, ballot, candidates)
    if not votes:  # nothing to hear
        return next(iter(candidates), UNHEARD)
    return max(votes, key=lambda language: votes[language])  # the first of those that nobody heard


def _share(language: str, ballot: Mapping[str, float], candidates: Collection[str]) -> float:
    """A language's probability; that of its older one where the ballot has none, and nobody asks for the older."""
    older = OLDER_LANGUAGE.get(language, language)
    return ballot.get(language, 0.0 if older in candidates else ballot.get(older, 0.0))
