"""What is said, in which voice, and what is never said in training?

Nothing but the standard library, so that tests can ask for the held-out sentences too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from vocabulary import LANGUAGES, WORDS

SEED = 20261121
HELD_OUT = 300
VOICES = {
    "en": ("gmw/en", "gmw/en-US", "gmw/en-US", "gmw/en-GB-x-rp", "gmw/en-GB-scotland"),
    "de": ("gmw/de",),
    "es": ("roa/es", "roa/es-419"),
    "fr": ("roa/fr", "roa/fr", "roa/fr-BE"),
}
"""Voice files of espeak-ng, as often as they are drawn."""
VARIANTS = ("",) * 6 + tuple("+m1 +m2 +m3 +m4 +m5 +m6 +m7 +f1 +f2 +f3 +f4 +Annie +Andy +Alex".split())


@dataclass(frozen=True, slots=True)
class Sentence:
    """What to say, and how."""

    language: str
    words: tuple[str, ...]
    voice: str
    rate: int
    pitch: int


def draw(chance: random.Random, language: str, shortest: int = 1) -> Sentence:
    """Draw a sentence of `shortest` to 9 words."""
    words = [chance.choice(WORDS[language]) for _ in range(chance.randint(shortest, 9))]
    voice = chance.choice(VOICES[language]) + chance.choice(VARIANTS)
    return Sentence(language, tuple(words), voice, chance.randint(120, 190), chance.randint(30, 70))


@cache
def held_out() -> tuple[Sentence, ...]:
    """Return the sentences of three words and more that are only ever evaluated, all languages alike often."""
    chance = random.Random(f"{SEED} held out")
    return tuple(draw(chance, LANGUAGES[index % len(LANGUAGES)], shortest=3) for index in range(HELD_OUT))
