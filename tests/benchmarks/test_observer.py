"""The observer recovers everything where nothing is hidden, and what hides it shows in the figures."""

from __future__ import annotations

from benchmarks.observer import Chunk, Seen, Word, event_of, recovered
from core.channel.padding import pad_event

WORDS = [Word("four", 0.0), Word("score", 0.0), Word("and", 0.0), Word("seven", 0.0)]
SAID_AT_S = [0.0, 0.02, 0.04, 0.5]


def plain() -> Seen:
    return Seen(
        WORDS, SAID_AT_S, [Chunk(at, len(event_of(word.text)), 1) for word, at in zip(WORDS, SAID_AT_S, strict=True)]
    )


def shaped() -> Seen:
    together = pad_event(b"".join(event_of(word.text) for word in WORDS[:3]))
    return Seen(WORDS, SAID_AT_S, [Chunk(0.05, len(together), 3), Chunk(0.55, len(pad_event(event_of("seven"))), 1)])


def longer() -> Seen:
    chunks = [*plain().chunks, Chunk(1.0, len(event_of("years")), 1)]
    return Seen([*WORDS, Word("years", 0.0)], [*SAID_AT_S, 1.0], chunks)


def test_without_shaping_nothing_is_hidden() -> None:
    row = recovered("none", None, [plain(), longer(), plain(), longer()])
    assert (row.length_error, row.words_told, row.rhythm_told) == (0.0, 1.0, 1.0)
    assert row.head_sizes > 1
    assert row.delay_ms == 0.0


def test_what_is_shaped_shows_one_moment_a_chunk_and_one_size_of_head() -> None:
    row = recovered("50 ms", 0.05, [shaped(), longer(), shaped(), shaped()])
    assert row.rhythm_told == 0.5
    assert row.words_told < 1.0
    assert row.head_sizes == 1
