"""What does somebody on the way recover from the sizes and times of a streamed answer, with and without shaping?

Sentences are "recognised" a word at a time, at a pace of their own, and leave as the engine's gateway sends them:
events coalesced and padded, a chunk each. The observer sees each chunk's size and moment, and knows how the engine
works. Of each sentence it guesses, by what half of the sentences taught it:

    length    how many letters there are in all                 median error
    words     how long each word is                             share told right
    rhythm    when each word was recognised                     share told to within 10 ms
    tenant    which of 16 API keys asked, by the answer's head  different sizes of it

Without shaping an event is a chunk of its own size, sent when its word is there. Delay is what shaping costs: how long
after its word an event leaves.

Usage: python -m benchmarks.observer [--sentences 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from core.channel.bhttp import ResponseEncoder, ResponseHead
from core.channel.padding import pad_event, stream_filler
from engine.gateway.coalesce import coalesced

WINDOWS_MS: Final = (0, 25, 50, 100)
NEAR_S: Final = 0.010
TENANTS: Final = 16
SEED: Final = 20_261_130
TEXT: Final = (
    "four score and seven years ago our fathers brought forth on this continent a new nation conceived in liberty and "
    "dedicated to the proposition that all men are created equal now we are engaged in a great civil war testing "
    "whether that nation or any nation so conceived and so dedicated can long endure"
)
"""Lincoln at Gettysburg, 1863."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, and how long after the one before it is recognised: most at once, some after a while."""

    text: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is seen of one. words: which of them are in it, which is not seen."""

    at_s: float
    size: int
    words: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A sentence, when each of its words was recognised, and what went by."""

    words: list[Word]
    said_at_s: list[float]
    chunks: list[Chunk]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an observer has of it, and what hiding it cost."""

    shaping: str
    length_error: float
    words_told: float
    rhythm_told: float
    head_sizes: int
    delay_ms: float
    bytes_a_word: float


def event_of(word: str) -> bytes:
    return b"data: " + json.dumps({"type": "transcript.text.delta", "delta": f" {word}"}).encode() + b"\n\n"


def sentences(count: int) -> list[list[Word]]:
    draw = random.Random(SEED)

    vocabulary = TEXT.split(" ")

    def word() -> Word:
        pause = draw.random() < 0.2
        return Word(draw.choice(vocabulary), draw.uniform(0.08, 0.4) if pause else draw.uniform(0.004, 0.04))

    return [[word() for _ in range(draw.randint(5, 40))] for _ in range(count)]


async def seen(words: list[Word], window_s: float | None) -> Seen:
    """window_s: None without any shaping."""
    said_at_s: list[float] = []
    chunks: list[Chunk] = []

    async def events() -> AsyncGenerator[bytes, None]:
        for word in words:
            await asyncio.sleep(word.after_s)
            said_at_s.append(time.perf_counter())
            yield event_of(word.text)

    async with aclosing(coalesced(events(), window_s or 0.0)) as batches:
        async for batch in batches:
            size = len(batch if window_s is None else pad_event(batch))
            chunks.append(Chunk(time.perf_counter(), size, batch.count(b"data: ")))
    return Seen(words, said_at_s, chunks)


def recovered(shaping: str, window_s: float | None, every: list[Seen]) -> Recovered:
    half = len(every) // 2
    learnt, judged = every[:half], every[half:]
    words = sum(len(each.words) for each in judged)
    return Recovered(
        shaping,
        _length_error(learnt, judged),
        _words_told(learnt, judged) / words,
        sum(_rhythm_told(each, window_s or 0.0) for each in judged) / words,
        len({_head_bytes(tenant, shaped=window_s is not None) for tenant in range(TENANTS)}),
        statistics.median(delay for each in judged for delay in _delays_ms(each)),
        sum(chunk.size for each in judged for chunk in each.chunks) / words,
    )


def _letters(each: Seen) -> int:
    return sum(len(word.text) for word in each.words)


def _length_error(learnt: list[Seen], judged: list[Seen]) -> float:
    """By a line through bytes and chunks of what was learnt, the better of the two."""

    def error(measure: dict[int, int], lines: tuple[float, float]) -> float:
        slope, start = lines
        return statistics.median(
            abs(slope * measure[id(each)] + start - _letters(each)) / _letters(each) for each in judged
        )

    errors = []
    for of in (lambda each: sum(chunk.size for chunk in each.chunks), lambda each: len(each.chunks)):
        measure = {id(each): of(each) for each in (*learnt, *judged)}
        xs, ys = [measure[id(each)] for each in learnt], [_letters(each) for each in learnt]
        errors.append(error(measure, tuple(statistics.linear_regression(xs, ys))))  # type: ignore[arg-type]
    # Bytes of unpadded events less their constant parts are the letters themselves.
    overhead = len(event_of(""))
    exact = [abs(sum(chunk.size - overhead for chunk in each.chunks) - _letters(each)) for each in judged]
    return min(*errors, statistics.median(error / _letters(each) for error, each in zip(exact, judged, strict=True)))


def _words_told(learnt: list[Seen], judged: list[Seen]) -> int:
    """Each chunk is taken for what chunks of its size were most often: one word of that length, and no more."""
    lengths: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for each in learnt:
        for chunk, first in zip(each.chunks, _firsts(each), strict=True):
            lengths[chunk.size][len(each.words[first].text)] += 1
    told = 0
    for each in judged:
        for chunk, first in zip(each.chunks, _firsts(each), strict=True):
            guess = lengths[chunk.size].most_common(1)
            told += bool(guess) and guess[0][0] == len(each.words[first].text)
    return told


def _firsts(each: Seen) -> list[int]:
    """Which word is the first of each chunk."""
    firsts, at = [], 0
    for chunk in each.chunks:
        firsts.append(at)
        at += chunk.words
    return firsts


def _rhythm_told(each: Seen, window_s: float) -> int:
    """Words that were recognised within NEAR_S of when some chunk says, knowing the window."""
    moments = [chunk.at_s - window_s for chunk in each.chunks]
    return sum(any(abs(said - moment) <= NEAR_S for moment in moments) for said in each.said_at_s)


def _delays_ms(each: Seen) -> list[float]:
    delays = []
    for chunk, first in zip(each.chunks, _firsts(each), strict=True):
        delays += [(chunk.at_s - said) * 1000 for said in each.said_at_s[first : first + chunk.words]]
    return delays


def _head_bytes(tenant: int, *, shaped: bool) -> int:
    """The first chunk of an answer to a key with limits of its own."""
    limit = 10 ** (1 + tenant % 6) + tenant
    headers = (
        ("content-type", "text/event-stream; charset=utf-8"),
        ("x-request-id", "req_" + "0" * 32),
        ("x-ratelimit-limit-requests", str(limit)),
        ("x-ratelimit-remaining-requests", str(limit - tenant)),
        ("x-ratelimit-reset-requests", f"{tenant * 7}s"),
    )
    encoder = ResponseEncoder()
    head = encoder.head(ResponseHead(200, headers))
    return len(head + encoder.content(stream_filler(len(head)))) if shaped else len(head)


async def measure(count: int) -> list[Recovered]:
    rows = []
    for window_ms in (None, *WINDOWS_MS):
        window_s = None if window_ms is None else window_ms / 1000
        every = await asyncio.gather(*(seen(words, window_s) for words in sentences(count)))
        rows.append(recovered("none" if window_ms is None else f"{window_ms} ms", window_s, every))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.sentences))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}\n")
    print(f"{'shaping':<8} {'length':>8} {'words':>7} {'rhythm':>7} {'heads':>6} {'delay ms':>9} {'bytes a word':>13}")
    for row in rows:
        shares = f"{row.length_error:>8.1%} {row.words_told:>7.0%} {row.rhythm_told:>7.0%} {row.head_sizes:>6}"
        print(f"{row.shaping:<8} {shares} {row.delay_ms:>9.1f} {row.bytes_a_word:>13.0f}")
    if options.json:
        options.json.write_text(json.dumps([{name: getattr(row, name) for name in row.__slots__} for row in rows]))


if __name__ == "__main__":
    main()
