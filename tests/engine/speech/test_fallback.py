from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment
from engine.speech.fallback import (
    LADDER,
    RepetitionGuard,
    avg_logprob,
    compression_ratio,
    decode_with_fallback,
    drop_silence,
    is_credible,
)
from engine.types import ClipTranscript

GOOD = " all is well that ends well"
LOOP = " thank you" * 30


def segment(
    text: str, logprob: float = -0.3, *, no_speech: float = 0.0, tokens: int = 4, ratio: float = 1.0
) -> Segment:
    return Segment(
        start_s=0,
        end_s=1,
        text=text,
        tokens=tuple(range(tokens)),
        avg_logprob=logprob,
        no_speech_prob=no_speech,
        compression_ratio=ratio,
    )


def transcript(*segments: Segment) -> ClipTranscript:
    return ClipTranscript("".join(one.text for one in segments), segments, output_tokens=9)


class Script:
    """Gives one transcript after another; remembers the temperatures."""

    def __init__(self, *transcripts: ClipTranscript) -> None:
        self._transcripts = list(transcripts)
        self.temperatures: list[float] = []

    async def __call__(self, temperature: float) -> ClipTranscript:
        self.temperatures.append(temperature)
        return self._transcripts.pop(0)


async def test_credible_text_is_decoded_once() -> None:
    script = Script(transcript(segment(GOOD)))
    outcome = await decode_with_fallback(script, LADDER, speech_s=0.0)
    assert outcome.transcript.text == GOOD
    assert (outcome.fallbacks, script.temperatures) == (0, [0.0])


@pytest.mark.parametrize("bad", [segment(LOOP), segment(GOOD, -1.01), segment(GOOD, ratio=2.41)])
async def test_doubtful_text_is_decoded_again_at_the_next_temperature(bad: Segment) -> None:
    script = Script(transcript(bad), transcript(bad), transcript(segment(GOOD)))
    outcome = await decode_with_fallback(script, LADDER, speech_s=0.0)
    assert outcome.transcript.text == GOOD
    assert (outcome.fallbacks, script.temperatures) == (2, [0.0, 0.2, 0.4])


async def test_the_ladder_ends_at_one_with_the_likeliest_text_that_does_not_loop() -> None:
    steady = transcript(segment(GOOD, -1.4))
    worse = [transcript(segment(LOOP, -1.1)), *[transcript(segment(GOOD + " no", -2.0)) for _ in range(4)]]
    script = Script(*worse, steady)
    outcome = await decode_with_fallback(script, LADDER, speech_s=5.0)
    assert outcome.transcript == steady
    assert (outcome.fallbacks, script.temperatures) == (5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


async def test_what_is_repeated_no_faster_than_anybody_speaks_is_kept() -> None:
    script = Script(transcript(segment(LOOP, -0.9)), transcript(segment(LOOP + " so", -0.2)))
    outcome = await decode_with_fallback(script, LADDER[:2], speech_s=15.0)
    assert outcome.transcript.text == LOOP + " so"
    assert not outcome.looped


async def test_a_likely_loop_is_cut_rather_than_taken_for_nonsense() -> None:
    loop = transcript(segment(GOOD), segment(LOOP, -0.1), segment(" never reached"))
    script = Script(loop, *[transcript(segment(" nonsense", -2.5)) for _ in LADDER[1:]])
    outcome = await decode_with_fallback(script, LADDER, speech_s=5.0)
    assert outcome.looped
    assert outcome.transcript.text == "".join(one.text for one in outcome.transcript.segments)
    assert outcome.transcript.text.startswith(GOOD + " thank you thank you")
    assert outcome.transcript.text.count("thank you") < 12


async def test_the_loop_of_a_backend_without_segments_is_cut_too() -> None:
    script = Script(ClipTranscript(LOOP, (), output_tokens=90))
    outcome = await decode_with_fallback(script, (0.7,), speech_s=5.0)
    assert outcome.looped
    assert outcome.transcript.text.count("thank you") < 12


async def test_no_text_is_not_believed_where_somebody_speaks() -> None:
    silence = transcript(segment(" Thanks for watching!", -1.5, no_speech=0.9))
    script = Script(silence, ClipTranscript("", (), 0), transcript(segment(GOOD)))
    assert (await decode_with_fallback(script, LADDER, speech_s=1.1)).transcript.text == GOOD


@pytest.mark.parametrize(
    ("text", "speech_s", "is_rest", "times"),
    [(GOOD, 1.9, True, 1), (GOOD, 2.0, True, 2), (GOOD, 1.9, False, 2), (LOOP, 1.9, True, 2), ("", 1.9, True, 2)],
)
async def test_a_word_or_two_that_an_earlier_text_left_out_may_be_unlikely(
    text: str, speech_s: float, is_rest: bool, times: int
) -> None:
    script = Script(transcript(segment(text, -1.4)), transcript(segment(GOOD)))
    await decode_with_fallback(script, LADDER, speech_s=speech_s, is_rest=is_rest)
    assert len(script.temperatures) == times


async def test_unlikely_text_is_better_than_none_where_somebody_speaks() -> None:
    unlikely = transcript(segment(GOOD, -1.2))
    script = Script(*[ClipTranscript("", (), 0)] * 3, unlikely, *[ClipTranscript("", (), 0)] * 2)
    assert (await decode_with_fallback(script, LADDER, speech_s=1.1)).transcript == unlikely


async def test_what_a_stream_would_end_a_whole_answer_does_not_believe() -> None:
    yeahs = " I said that it was his, and she told me" + " yeah," * 15
    assert compression_ratio(yeahs) < 2.4
    script = Script(transcript(segment(yeahs, -0.1)), transcript(segment(GOOD)))
    assert (await decode_with_fallback(script, LADDER, speech_s=9.0)).transcript.text == GOOD


async def test_one_temperature_is_not_questioned() -> None:
    script = Script(transcript(segment(LOOP, -3.0)))
    assert (await decode_with_fallback(script, (0.7,), speech_s=0.0)).fallbacks == 0
    assert script.temperatures == [0.7]


async def test_silence_is_dropped_and_not_decoded_again() -> None:
    script = Script(transcript(segment(" Thanks for watching!", -1.5, no_speech=0.9)))
    outcome = await decode_with_fallback(script, LADDER, speech_s=0.0)
    assert (outcome.transcript.text, outcome.transcript.segments) == ("", ())
    assert script.temperatures == [0.0]


@pytest.mark.parametrize(("logprob", "no_speech"), [(-1.5, 0.5), (-0.5, 0.9)])
def test_a_segment_is_silence_only_if_it_is_unlikely_and_probably_no_speech(logprob: float, no_speech: float) -> None:
    kept = transcript(segment(GOOD, logprob, no_speech=no_speech))
    assert drop_silence(kept) is kept


def test_the_text_of_what_remains_is_kept_beside_dropped_silence() -> None:
    mixed = transcript(segment(" one"), segment(" hm", -2, no_speech=0.9), segment(" two"))
    assert drop_silence(mixed).text == " one two"


def test_log_probabilities_are_weighed_by_tokens() -> None:
    assert avg_logprob(transcript(segment(" a", -2.0, tokens=1), segment(" b", -0.5, tokens=9))) == pytest.approx(-0.65)


def test_a_backend_without_figures_is_judged_by_its_text() -> None:
    assert is_credible(ClipTranscript(GOOD, (), output_tokens=6))
    assert not is_credible(ClipTranscript(LOOP, (), output_tokens=6))


@given(st.text())
def test_the_compression_ratio_is_that_of_openais_whisper(text: str) -> None:
    plain = text.encode("utf-8", "surrogatepass")
    if plain.decode("utf-8", "ignore") == text:
        assert compression_ratio(text) == len(plain) / len(zlib.compress(plain))


@pytest.mark.parametrize("unit", [" thank you", "ha", "谢谢", "0", " and then he said that it was"])
def test_a_loop_is_seen_after_a_few_repeats(unit: str) -> None:
    guard = RepetitionGuard()
    admitted = "".join(guard.admit(piece) for piece in [GOOD, *[unit] * 200])
    assert guard.looping
    assert admitted.startswith(GOOD + 5 * unit)
    assert len(admitted) <= len(GOOD) + max(6 * len(unit), RepetitionGuard.MIN_LOOP_CHARS + len(unit))


def test_a_loop_within_one_piece_is_cut_at_the_same_place() -> None:
    text = GOOD + LOOP * 5
    by_piece, at_once = RepetitionGuard(), RepetitionGuard()
    assert at_once.admit(text) == "".join(by_piece.admit(letter) for letter in text)


def test_nothing_is_admitted_once_a_clip_loops() -> None:
    guard = RepetitionGuard()
    guard.admit(LOOP * 3)
    assert guard.admit(" and so on") == ""


@pytest.mark.parametrize(
    "text",
    [
        " no, no, no, no, no!",
        " 555 0199, I repeat 555 0199, 555 0199",
        " We shall fight on the beaches, we shall fight on the landing grounds, we shall fight in the fields",
        " row row row your boat gently down the stream" * 3,
    ],
)
def test_what_people_repeat_is_no_loop(text: str) -> None:
    guard = RepetitionGuard()
    assert guard.admit(text) == text
    assert not guard.looping
