"""What the measurement of hearing says of recordings made up for the purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.listeners import BARE, FASTER_WHISPER, VLLM, Heard
from benchmarks.quality import as_json, listen
from benchmarks.quality_report import aims, table
from benchmarks.recordings import (
    Plan,
    Recording,
    Span,
    TimedWord,
    as_wav,
    join,
    merged,
    quieter,
    read_corpus,
    read_meetings,
)
from benchmarks.results import LONG, SHORT, SILENCE, Result, Results
from benchmarks.scores import Errors, count_errors, missed, silent_speech, word_time_errors
from benchmarks.sounds import EACH, KINDS, sounds

RATE_HZ = 16_000


def voice(seconds: float, seed: int = 0) -> bytes:
    return as_wav(0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ)))


def recording(name: str, text: str = "a b c", *, language: str = "en", speech: Sequence[Span] = ()) -> Recording:
    return Recording(name, language, text, voice(2.0, len(name)), tuple(speech))


def heard(text: str, *spans: Span, language: str = "en") -> Heard:
    return Heard(language, text, tuple(TimedWord(text, start, end) for start, end in spans))


# --- errors


def test_spelling_and_punctuation_are_no_errors() -> None:
    assert count_errors("It's Mr. Smith, isn't it?", "it is mister smith, is not it", "en").total == 0
    assert count_errors("Größe, bitte!", "größe bitte", "de").total == 0


def test_each_kind_of_error_is_counted() -> None:
    assert count_errors("one red cat sleeps", "red dog sleeps now", "en") == Errors(4, 1, 1, 1)
    assert Errors(4, 1, 1, 1).rate == 75


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_characters_are_counted_where_no_spaces_are_written(language: str) -> None:
    assert count_errors("你好世界", "你好,世間", language) == Errors(4, 1, 0, 0)


def test_text_for_no_text_is_all_insertions() -> None:
    assert count_errors("", "thank you", "en") == Errors(0, 0, 0, 2)


# --- speech left out


def test_speech_that_no_segment_covers_is_found() -> None:
    one = recording("one", speech=[(1.0, 4.0), (6.0, 8.0)])
    segments = heard("x", (0.5, 2.0), (7.0, 9.0)).segments
    assert silent_speech(one, segments) == [(2.25, 4.0), (6.0, 6.75)]


def test_a_segment_without_text_covers_nothing() -> None:
    one = recording("one", speech=[(1.0, 4.0)])
    assert silent_speech(one, heard(" ", (0.0, 5.0)).segments) == [(1.0, 4.0)]


def test_a_stretch_is_missed_where_it_is_long_and_bare_has_text() -> None:
    one = recording("one", speech=[(0.0, 1.0), (2.0, 4.0), (6.0, 9.0)])
    bare = heard("x", (0.0, 4.0)).segments
    assert missed(one, (), bare) == [(2.0, 4.0)]
    assert missed(one, heard("x", (2.0, 4.0)).segments, bare) == []


# --- times of words


def test_the_times_of_words_that_were_heard_right_are_compared_at_the_worse_end() -> None:
    said = [TimedWord("One,", 0.0, 0.5), TimedWord("red", 0.5, 1.0), TimedWord("cat", 1.0, 1.5)]
    told = [TimedWord("one", 0.1, 0.5), TimedWord("bed", 0.5, 1.0), TimedWord("cat.", 1.0, 1.8)]
    assert word_time_errors(said, told) == [pytest.approx(0.1), pytest.approx(0.3)]
    assert word_time_errors(said, ()) == []


# --- what is listened to


def corpus(directory: Path) -> Path:
    entries: list[dict[str, object]] = [
        {"id": "en-a", "file": "a.wav", "language": "en", "text": "a", "words": [{"word": "a", "start": 0, "end": 1}]},
        {"id": "en-b", "file": "b.wav", "language": "en", "text": "b"},
        {"id": "two", "file": "a.wav", "language": "en", "text": "a", "speakers": 2},
        {"id": "quiet", "file": "a.wav", "language": "sv", "text": "be silent", "quality": "silence"},
        {"id": "untold", "file": "a.wav", "language": "en", "text": ""},
    ]
    (directory / "corpus.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for seed, name in enumerate(("a.wav", "b.wav")):
        (directory / name).write_bytes(voice(3.0, seed))
    return directory


def test_a_corpus_is_what_one_person_says(tmp_path: Path) -> None:
    one, other = read_corpus(corpus(tmp_path))
    assert (one.name, one.text, one.words) == ("en-a", "a", (TimedWord("a", 0, 1),))
    assert (other.name, other.words) == ("en-b", ())


def test_of_meetings_is_known_when_anybody_speaks(tmp_path: Path) -> None:
    (tmp_path / "turns").mkdir()
    (tmp_path / "turns" / "one.wav").write_bytes(voice(1.0))
    turns = [("one", 2.0, 1.0), ("one", 0.5, 1.0), ("one", 1.0, 0.7)]
    lines = [f"SPEAKER {name} 1 {start} {length} <NA> <NA> X <NA> <NA>\n" for name, start, length in turns]
    (tmp_path / "turns" / "turns.rttm").write_text("".join(lines))
    (one,) = read_meetings(tmp_path)
    assert one.speech == ((0.5, 1.7), (2.0, 3.0))


def test_a_join_depends_on_its_seed_alone(tmp_path: Path) -> None:
    pieces, plan = read_corpus(corpus(tmp_path)), Plan("en-1min", "en", 1)
    first = join(plan, pieces)
    assert first == join(plan, pieces)
    assert first.audio != join(plan, pieces, seed=1).audio
    assert sorted(first.text.split()[:2]) == ["a", "b"], "all before any comes again"
    assert 60 <= len(first.samples) / RATE_HZ < 65


def test_noise_and_levels_are_as_planned() -> None:
    pieces = [recording(name, name, speech=[(0.0, 2.0)]) for name in ("a", "bb")]
    plain, noisy = (join(Plan("same", "en", 1, noise_db=noise), pieces).samples for noise in (None, 10.0))
    added_db = 10 * np.log10(np.mean(np.square(plain)) / np.mean(np.square(noisy - plain)))
    assert added_db == pytest.approx(10, abs=0.2)

    levels = join(Plan("levels", "en", 1, levels_dbfs=(-20.0, -40.0)), pieces).samples
    first, *_ = np.flatnonzero(np.convolve(np.abs(levels) < 1e-6, np.ones(1000), "valid") == 1000)
    assert 20 * np.log10(np.sqrt(np.mean(np.square(levels[:first])))) == pytest.approx(-20, abs=0.5)


def test_the_quiet_ones_are_quieter() -> None:
    one = recording("one")
    quiet, quietest = quieter([one])
    loudness = [float(np.sqrt(np.mean(np.square(each.samples)))) for each in (one, quiet, quietest)]
    assert 20 * np.log10(loudness[0] / loudness[1]) == pytest.approx(30, abs=0.5)
    assert 20 * np.log10(loudness[0] / loudness[2]) == pytest.approx(45, abs=1)


def test_there_are_sounds_of_all_kinds_and_the_same_each_time() -> None:
    assert EACH * len(KINDS) >= 100
    first, again = list(sounds(3)), list(sounds(3))
    assert first == again
    assert {one.name for one in first} == {f"{kind}-{number:02}" for kind in KINDS for number in range(3)}
    for one in first:
        samples = one.samples
        assert 1 <= len(samples) / RATE_HZ <= 60
        assert np.abs(samples).max() > 0.0005 or one.name.startswith("silence")


def test_touching_stretches_are_one() -> None:
    assert merged([(3.0, 4.0), (0.0, 1.0), (1.0, 2.0)]) == ((0.0, 2.0), (3.0, 4.0))


# --- the report


class Parrot:
    """Says what it was told to."""

    at_once = 2

    def __init__(self, **texts: str) -> None:
        self._texts = texts

    async def hear(self, recording: Recording, *, words: bool) -> Heard:
        return heard(self._texts[recording.name])


async def test_what_is_heard_is_kept_with_who_heard_it() -> None:
    found = await listen(SHORT, BARE, Parrot(x="a b", yy="a b c"), [recording("x"), recording("yy")])
    assert [(one.system, one.recording.name, one.errors.deletions) for one in found] == [
        (BARE, "x", 1),
        (BARE, "yy", 0),
    ]


def results(part: str, one: Recording, **texts: Heard) -> Results:
    """What listeners heard in one recording; bare, faster-whisper and vLLM by their first letters."""
    names = {"b": BARE, "f": FASTER_WHISPER, "v": VLLM}
    return Results(Result(part, names[letter], one, text, 1.0) for letter, text in texts.items())


def failures(found: Results) -> list[str]:
    return [failure for aim in aims(found) for failure in aim.failures]


def test_a_language_worse_than_bare_is_a_failure() -> None:
    assert failures(results(SHORT, recording("x"), b=heard("a b c"), f=heard("a b c"))) == []
    assert failures(results(SHORT, recording("x"), b=heard("a b c"), f=heard("a b"))) == [
        "en: 33.3 against 0.0 %",
        "all: 33.3 against 0.0 %",
    ]


def test_more_errors_or_deletions_in_a_long_file_are_failures() -> None:
    one = recording("x", "a b c d")
    assert failures(results(LONG, one, b=heard("a b c e"), f=heard("a b c"))) == ["x: 1 deletions against 0"]
    assert failures(results(LONG, one, b=heard("a b c"), f=heard("a b e f"))) == ["x: 2 errors against 1"]


def test_a_stretch_that_was_missed_is_a_failure() -> None:
    one = recording("x", speech=[(0.0, 2.0)])
    found = results(SHORT, one, b=heard("a b c", (0.0, 2.0)), f=heard("a b c"))
    assert failures(found) == ["short x: 0.0 to 2.0 s"]


def test_text_where_nobody_speaks_is_a_failure() -> None:
    one = recording("hum-00", "", language="")
    assert failures(results(SILENCE, one, f=heard("Thank you."))) == ["hum-00: Thank you."]
    assert failures(results(SILENCE, one, f=heard(" "))) == []


def test_backends_that_differ_are_a_failure() -> None:
    found = results(SHORT, recording("x"), f=heard("a b c"), v=heard("a b"))
    assert failures(found) == ["0.0 and 33.3 %"]


def test_the_tables_and_the_json_hold_what_was_heard() -> None:
    one = recording("x", speech=[(0.0, 2.0)])
    found = results(SHORT, one, b=heard("a b c", (0.0, 2.0)), f=heard("a d", language="de"))
    lines = list(table(found, SHORT))
    assert lines[1].split() == [BARE, FASTER_WHISPER]
    assert lines[-1].split("  ")[-1].strip() == "66.7 (0/1; 2.0)"
    _, ours = json.loads(as_json(found, {"date": "today"}))["files"]
    assert (ours["heard"], ours["heard_language"], ours["unheard_s"]) == ("a d", "de", 2.0)
    assert ours["errors"] == {"words": 3, "substitutions": 1, "deletions": 1, "insertions": 0}
    assert ours["missed"] == [[0.0, 2.0]]


@pytest.mark.parametrize("part", ["quiet", "long", "meetings", "silence", "words"])
def test_every_part_has_its_table(part: str) -> None:
    assert len(list(table(results(part, recording("x-1"), b=heard("a b c"), f=heard("a b c")), part))) >= 2
