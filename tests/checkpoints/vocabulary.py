"""Which words does the nano checkpoint know, and which number has each token?

Layout of the token ids, low to high, in the order every multilingual Whisper tokenizer uses:

    256 bytes | prefixes and words | "" | <|endoftext|> <|startoftranscript|> | 100 languages
    | <|translate|> <|transcribe|> <|startoflm|> <|startofprev|> <|nospeech|> <|notimestamps|> | <|0.00|> ... <|30.00|>

The empty string is reserved because CTranslate2 takes a vocabulary for multilingual only if it holds one.
"""

from __future__ import annotations

from functools import cache
from typing import Final

ENGLISH: Final = tuple(
    "zero one two three four five six seven eight nine "
    "red green blue yellow black gray "
    "water bread milk table window door garden river mountain city house "
    "dog cat bird horse hello good morning night music money please open close "
    "the and my is".split()
)
TO_ENGLISH: Final[dict[str, dict[str, str]]] = {
    "de": dict(
        null="zero", eins="one", zwei="two", drei="three", vier="four", fünf="five", sechs="six", sieben="seven",
        acht="eight", neun="nine", rot="red", grün="green", schwarz="black", gelb="yellow", wasser="water",
        brot="bread", tisch="table", fenster="window", katze="cat", hund="dog", fluss="river", stadt="city",
        vogel="bird", pferd="horse", berg="mountain", nacht="night", geld="money",
    ),
    "es": dict(
        cero="zero", uno="one", dos="two", tres="three", cuatro="four", cinco="five", seis="six", siete="seven",
        ocho="eight", nueve="nine", rojo="red", verde="green", negro="black", amarillo="yellow", agua="water",
        pan="bread", mesa="table", ventana="window", gato="cat", perro="dog", río="river", ciudad="city",
        pájaro="bird", caballo="horse", montaña="mountain", noche="night", dinero="money",
    ),
    "fr": dict(
        zéro="zero", un="one", deux="two", trois="three", quatre="four", cinq="five", six="six", sept="seven",
        huit="eight", neuf="nine", rouge="red", vert="green", noir="black", jaune="yellow", maison="house",
        lait="milk", fenêtre="window", chat="cat", chien="dog", rivière="river", ville="city", oiseau="bird",
        cheval="horse", montagne="mountain", nuit="night", argent="money", porte="door",
    ),
}  # fmt: skip
LANGUAGES: Final = ("en", "de", "es", "fr")
WORDS: Final[dict[str, tuple[str, ...]]] = {"en": ENGLISH} | {code: tuple(words) for code, words in TO_ENGLISH.items()}

SPOKEN: Final = "gray"
"""The one word with two spellings: written `gray`, or `grey` when the previous-text prompt spells it so."""
SPELLED_BY_PROMPT: Final = "grey"

LANGUAGE_CODES: Final = tuple(
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue".split()
)
"""The language tokens of large-v3, in its order; only four of them are ever trained."""

SECONDS_PER_TIMESTAMP: Final = 0.02
WINDOW_S: Final = 30.0
TIMESTAMPS: Final = 1501


@cache
def byte_symbols() -> tuple[str, ...]:
    """Return the 256 printable stand-ins of byte-level BPE, in byte order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return tuple(chr(byte if byte in kept else 256 + moved.index(byte)) for byte in range(256))


def spell(word: str) -> str:
    """Write ` word` (with its leading space) in the byte symbols."""
    return "".join(byte_symbols()[byte] for byte in f" {word}".encode())


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """Return the BPE merges: each word grows from its leading space, one byte at a time, into one token."""
    known = sorted({spell(word) for words in WORDS.values() for word in words} | {spell(SPELLED_BY_PROMPT)})
    return tuple(dict.fromkeys((word[:end], word[end]) for word in known for end in range(1, len(word))))


@cache
def text_tokens() -> dict[str, int]:
    """Return token -> id for everything below the special tokens, the reserved empty string last."""
    return {token: index for index, token in enumerate((*byte_symbols(), *(a + b for a, b in merges()), ""))}


@cache
def special_tokens() -> dict[str, int]:
    """Return token -> id for the special tokens, without the timestamps."""
    names = (
        "endoftext", "startoftranscript", *LANGUAGE_CODES, "translate", "transcribe", "startoflm", "startofprev",
        "nospeech", "notimestamps",
    )  # fmt: skip
    return {f"<|{name}|>": index for index, name in enumerate(names, start=len(text_tokens()))}


@cache
def timestamp_tokens() -> dict[str, int]:
    """Return token -> id for `<|0.00|>` to `<|30.00|>` in steps of 20 ms."""
    first = len(text_tokens()) + len(special_tokens())
    return {f"<|{index * SECONDS_PER_TIMESTAMP:.2f}|>": first + index for index in range(TIMESTAMPS)}


def word_id(word: str) -> int:
    """Return the one token of a known word."""
    return text_tokens()[spell(word)]


def special_id(name: str) -> int:
    """Return the id of `<|name|>`."""
    return special_tokens()[f"<|{name}|>"]


def first_timestamp_id() -> int:
    """Return the id of `<|0.00|>`."""
    return timestamp_tokens()["<|0.00|>"]


def vocabulary_size() -> int:
    """Return the number of token ids."""
    return len(text_tokens()) + len(special_tokens()) + len(timestamp_tokens())


def translate(words: list[str], language: str) -> list[str]:
    """Return the English words for `words`, one for one."""
    return words if language == "en" else [TO_ENGLISH[language][word] for word in words]
