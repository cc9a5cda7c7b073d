"""What is told of a measurement of hearing: a table for each part, and which aims were missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.listeners import BACKENDS, BARE, FASTER_WHISPER
from benchmarks.results import (
    LONG,
    MEETINGS,
    QUIET,
    SHORT,
    SILENCE,
    WORDS,
    Result,
    Results,
    in_language,
    inventions,
    pooled,
)
from benchmarks.scores import word_time_errors

LANGUAGE_POINTS = 0.5
"""So much more than bare may a language of short files have: a single word of some."""
BACKENDS_POINTS = 1.0
NEAR_S = 0.2


def table(results: Results, part: str) -> Iterator[str]:
    """One part of the report, line by line."""
    match part:
        case "short" | "quiet":
            yield from _by_language(results, part)
        case "long":
            yield from _by_file(results)
        case "meetings":
            yield from _meetings(results)
        case "silence":
            yield from _inventions(results)
        case _:
            yield from _word_times(results)


def _row(first: str, cells: Iterable[str]) -> str:
    return f"  {first:<18}" + "".join(f"{cell:>22}" for cell in cells)


def _by_language(results: Results, part: str) -> Iterator[str]:
    count = len(results.recordings(part))
    yield f"{part}: {count} files, word errors in % (languages right; s of speech without text)"
    yield _row("", results.systems)
    languages = sorted({one.language for one in results.recordings(part)})
    for language in languages:
        yield _row(language, (_spoken(in_language(results.of(part, name), language)) for name in results.systems))
    yield _row("all", (_spoken(results.of(part, name)) for name in results.systems))


def _spoken(results: Sequence[Result]) -> str:
    right = sum(one.heard.language == one.recording.language for one in results)
    return f"{pooled(results).rate:.1f} ({right}/{len(results)}; {sum(one.unheard_s for one in results):.1f})"


def _by_file(results: Results) -> Iterator[str]:
    yield "long: word errors in % (substituted-deleted-inserted; stretches missed; s of speech without text)"
    yield _row("", results.systems)
    for recording in results.recordings(LONG):
        found = [results.find(LONG, name, recording.name) for name in results.systems]
        yield _row(recording.name, (_long(results, one) if one else "" for one in found))


def _long(results: Results, one: Result) -> str:
    errors = one.errors
    counts = f"{errors.substitutions}-{errors.deletions}-{errors.insertions}"
    return f"{errors.rate:.1f} ({counts}; {len(results.missed(one))}; {one.unheard_s:.0f})"


def _meetings(results: Results) -> Iterator[str]:
    yield "meetings: s of speech without text, of all speech (stretches missed)"
    yield _row("", results.systems)
    for recording in results.recordings(MEETINGS):
        found = [results.find(MEETINGS, name, recording.name) for name in results.systems]
        speech_s = sum(end - start for start, end in recording.speech)
        cells = (f"{one.unheard_s:.1f}/{speech_s:.1f} ({len(results.missed(one))})" if one else "" for one in found)
        yield _row(recording.name, cells)


def _inventions(results: Results) -> Iterator[str]:
    yield f"silence: {len(results.recordings(SILENCE))} clips in which nobody speaks, those with text"
    yield _row("", results.backends)
    for kind in sorted({one.name.partition("-")[0] for one in results.recordings(SILENCE)}):
        yield _row(kind, (str(len(inventions(results, name, kind))) for name in results.backends))


def _word_times(results: Results) -> Iterator[str]:
    yield f"words: {len(results.recordings(WORDS))} files, error of times (s) at the median, share within {NEAR_S} s"
    yield _row("", results.systems)
    errors = [
        [error for one in results.of(WORDS, name) for error in word_time_errors(one.recording.words, one.heard.words)]
        for name in results.systems
    ]
    yield _row("all", (f"{median(one):.3f} {_near(one):.1f} % of {len(one)}" if one else "" for one in errors))
    lengthless = [
        sum(word.end_s <= word.start_s for one in results.of(WORDS, name) for word in one.heard.words)
        for name in results.systems
    ]
    yield _row("of no length", map(str, lengthless))


def _near(errors: Sequence[float]) -> float:
    return 100 * sum(error <= NEAR_S for error in errors) / len(errors)


# --- the aims


@dataclass(frozen=True, slots=True)
class Aim:
    sentence: str
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"  {'missed' if self.failures else 'met':<7} {self.sentence}" + "".join(
            f"\n            {one}" for one in self.failures
        )


def aims(results: Results) -> Iterator[Aim]:
    """What is aimed at, and what of it is missed; nothing of what was not measured."""
    for name in results.backends:
        if BARE in results.systems:
            for part in (SHORT, QUIET):
                if results.of(part, name):
                    yield _languages_aim(results, part, name)
            if results.of(LONG, name):
                yield Aim(
                    f"{name}: in every long file at most bare's errors and deletions",
                    tuple(_worse_files(results, name)),
                )
            yield Aim(
                f"{name}: no stretch of speech without text for which bare has some", tuple(_stretches(results, name))
            )
        if results.of(SILENCE, name):
            made_up = tuple(f"{one.recording.name}: {one.heard.text}" for one in inventions(results, name))
            yield Aim(f"{name}: no text where nobody speaks", made_up)
    if set(results.backends) == set(BACKENDS) and results.of(SHORT, FASTER_WHISPER):
        one, other = (pooled(results.of(SHORT, name)).rate for name in BACKENDS)
        apart = (f"{one:.1f} and {other:.1f} %",) if abs(one - other) > BACKENDS_POINTS else ()
        yield Aim(f"short: both backends within {BACKENDS_POINTS} point of each other", apart)


def _languages_aim(results: Results, part: str, name: str) -> Aim:
    failures = []
    for language in sorted({one.language for one in results.recordings(part)}):
        ours, bare = (pooled(in_language(results.of(part, one), language)).rate for one in (name, BARE))
        if ours > bare + LANGUAGE_POINTS:
            failures.append(f"{language}: {ours:.1f} against {bare:.1f} %")
    ours, bare = (pooled(results.of(part, one)).rate for one in (name, BARE))
    if ours > bare:
        failures.append(f"all: {ours:.1f} against {bare:.1f} %")
    return Aim(f"{name}: {part} at most bare's errors, in each language {LANGUAGE_POINTS} points more", tuple(failures))


def _worse_files(results: Results, name: str) -> Iterator[str]:
    for one in results.of(LONG, name):
        bare = results.find(LONG, BARE, one.recording.name)
        if bare and one.errors.total > bare.errors.total:
            yield f"{one.recording.name}: {one.errors.total} errors against {bare.errors.total}"
        if bare and one.errors.deletions > bare.errors.deletions:
            yield f"{one.recording.name}: {one.errors.deletions} deletions against {bare.errors.deletions}"


def _stretches(results: Results, name: str) -> Iterator[str]:
    for one in results.all:
        if one.system == name and one.recording.speech:
            for start, end in results.missed(one):
                yield f"{one.part} {one.recording.name}: {start:.1f} to {end:.1f} s"
