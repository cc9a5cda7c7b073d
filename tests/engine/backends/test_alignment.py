"""Words and their times in the nano checkpoint, for a text that somebody else has written."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from statistics import median

import pytest

from engine.backends.faster_whisper import FasterWhisperTranscriber
from engine.backends.faster_whisper_worker import MAX_FAILURES
from engine.errors import BackendError
from engine.speech.decode import AudioDecoder
from engine.speech.pipeline import SpeechPipeline
from engine.types import (
    Clip,
    ClipTranscript,
    DecodingOptions,
    Granularity,
    ResponseFormat,
    Segment,
    Task,
    TextDelta,
    TokenLogprob,
    TranscriptionRequest,
)
from tests.engine.backends.test_faster_whisper import CHECKPOINT, needs_checkpoint, needs_espeak, noise, pid_of, spoken
from tests.speaker import record

pytestmark = needs_checkpoint

SENTENCE = "open the green door"
TIMED = DecodingOptions("en", word_timestamps=True)
WEIGHED = DecodingOptions("en", logprobs=True)


@pytest.fixture
async def transcriber() -> AsyncIterator[FasterWhisperTranscriber]:
    transcriber = FasterWhisperTranscriber({"nano": CHECKPOINT}, cpu_threads=1)
    await transcriber.start()
    yield transcriber
    await transcriber.close()


def written(*texts: str, clip: Clip) -> ClipTranscript:
    """Text of another decoder, which has told neither tokens nor good times."""
    segments = tuple(Segment(0.0, clip.duration_s, text, avg_logprob=-0.2) for text in texts)
    return ClipTranscript("".join(texts), segments, output_tokens=7, prompt_tokens=3)


@needs_espeak
async def test_a_text_from_elsewhere_gets_the_times_that_the_backends_own_text_has(
    transcriber: FasterWhisperTranscriber,
) -> None:
    clip = spoken(SENTENCE)
    own = await transcriber.transcribe("nano", clip, TIMED)
    foreign = written(" open the", " green door", clip=clip)
    aligned = await transcriber.align("nano", clip, foreign, TIMED)
    assert [[word.text for word in segment.words] for segment in aligned.segments] == [
        [" open", " the"],
        [" green", " door"],
    ]
    times = [word.end_s for segment in aligned.segments for word in segment.words]
    assert times == pytest.approx([word.end_s for word in own.segments[0].words], abs=0.1)
    words_left_out = tuple(replace(segment, words=()) for segment in aligned.segments)
    assert replace(aligned, segments=words_left_out) == foreign, "nothing else is touched"


@needs_espeak
async def test_given_tokens_are_aligned_rather_than_those_of_the_text(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    own = await transcriber.transcribe("nano", clip, DecodingOptions("en"))
    other = replace(own, segments=tuple(replace(segment, text=" zero") for segment in own.segments))
    aligned = await transcriber.align("nano", clip, other, TIMED)
    assert [word.text for word in aligned.segments[0].words] == [f" {word}" for word in SENTENCE.split()]


@needs_espeak
async def test_a_text_that_was_not_said_is_unlikely(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    right = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), WEIGHED)
    wrong = await transcriber.align("nano", clip, written(" open the yellow cat", clip=clip), WEIGHED)
    assert [one.token for one in right.logprobs] == [" open", " the", " green", " door"]
    assert all(-0.5 < one.logprob <= 0 for one in right.logprobs)
    assert min(one.logprob for one in wrong.logprobs) < math.log(0.01)
    assert right.segments[0].words == ()


@needs_espeak
async def test_a_prompt_is_read_before_the_text(transcriber: FasterWhisperTranscriber) -> None:
    clip, options = spoken(SENTENCE), replace(WEIGHED, prompt="red green " * 300)
    plain = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), WEIGHED)
    prompted = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), options)
    assert len(prompted.logprobs) == len(plain.logprobs)
    assert prompted.logprobs != plain.logprobs


@needs_espeak
async def test_a_character_of_several_tokens_is_one_entry(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    aligned = await transcriber.align("nano", clip, written(" 日本", clip=clip), replace(WEIGHED, language="ja"))
    assert "".join(one.token for one in aligned.logprobs) == " 日本"
    assert not [one for one in aligned.logprobs if "�" in one.token]


async def test_no_text_needs_no_second_look(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)
    silent = written(clip=clip)
    assert await transcriber.align("nano", clip, silent, replace(TIMED, logprobs=True)) == silent


async def test_of_a_prompt_as_much_is_read_as_the_text_leaves_room_for(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)

    async def weighed(prompt: str, words: int) -> tuple[TokenLogprob, ...]:
        text = written(" red" * words, clip=clip)
        return (await transcriber.align("nano", clip, text, replace(WEIGHED, prompt=prompt))).logprobs

    for words in (219, 220, 440, 441, 442, 443):
        assert len(await weighed("green " * 300, words)) == words
    assert await weighed("green " * 300, 441) == await weighed("green", 441) != await weighed("", 441)
    assert await weighed("green " * 300, 442) == await weighed("", 442)


async def test_a_clip_with_more_text_than_the_decoder_has_positions_is_weighed_in_parts(
    transcriber: FasterWhisperTranscriber,
) -> None:
    clip = noise(1)
    texts = [" red green" * 100] * 3
    whole = (await transcriber.align("nano", clip, written(*texts, clip=clip), WEIGHED)).logprobs
    first = (await transcriber.align("nano", clip, written(*texts[:2], clip=clip), WEIGHED)).logprobs
    second = (await transcriber.align("nano", clip, written(*texts[2:], clip=clip), WEIGHED)).logprobs
    assert whole == first + second


@pytest.mark.parametrize(
    ("options", "texts"), [(TIMED, [" red" * 444]), (TIMED, [" red" * 200] * 3), (WEIGHED, [" red" * 444])]
)
async def test_a_text_that_is_too_long_fails_its_call_and_says_nothing_of_the_device(
    transcriber: FasterWhisperTranscriber, options: DecodingOptions, texts: list[str]
) -> None:
    clip, pid = noise(1), pid_of(transcriber)
    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(BackendError, match="could not decode"):
            await transcriber.align("nano", clip, written(*texts, clip=clip), options)
    assert pid_of(transcriber) == pid
    assert transcriber.ready


async def test_the_longest_text_that_can_be_aligned_is(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)
    options = replace(TIMED, prompt="green " * 300)
    aligned = await transcriber.align("nano", clip, written(" red" * 443, clip=clip), options)
    assert len(aligned.segments[0].words) == 443


# --- faster-whisper's own text


@needs_espeak
async def test_its_own_text_bears_log_probabilities_when_asked_for(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    transcript = await transcriber.transcribe("nano", clip, WEIGHED)
    assert "".join(one.token for one in transcript.logprobs) == transcript.text
    assert (await transcriber.transcribe("nano", clip, DecodingOptions("en"))).logprobs == ()


@needs_espeak
async def test_a_stream_waits_for_the_log_probabilities(transcriber: FasterWhisperTranscriber) -> None:
    pieces = [piece async for piece in transcriber.stream("nano", spoken(SENTENCE), WEIGHED)]
    assert not [piece for piece in pieces if isinstance(piece, TextDelta)]
    assert [piece.logprobs != () for piece in pieces] == [True]


@needs_espeak
async def test_a_lone_segment_begins_when_the_model_says_so(transcriber: FasterWhisperTranscriber) -> None:
    late = Clip(0.0, bytes(32_000) + spoken(SENTENCE).pcm)
    for options in (DecodingOptions("en"), TIMED):
        (segment,) = (await transcriber.transcribe("nano", late, options)).segments
        assert 0.9 < segment.start_s < 1.2


@needs_espeak
async def test_a_translation_is_aligned_as_one(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken("sieben schwarz katze", "de")
    text = written(" seven black cat", clip=clip)
    german = replace(WEIGHED, language="de")
    translated = await transcriber.align("nano", clip, text, replace(german, task=Task.TRANSLATE))
    transcribed = await transcriber.align("nano", clip, text, german)
    assert sum(one.logprob for one in translated.logprobs) > sum(one.logprob for one in transcribed.logprobs) + 3


# --- times, as an app gets them

SENTENCES = {
    "en": ("good morning my blue bird", "please open the garden door", "seven black horse", "open the window"),
    "de": ("sieben schwarz katze", "wasser brot tisch fenster", "fluss stadt berg nacht"),
    "es": ("uno dos tres cuatro", "agua pan mesa ventana", "perro río ciudad"),
    "fr": ("maison rouge fenêtre", "rivière ville oiseau cheval", "montagne nuit argent porte"),
}


@pytest.fixture
async def decoder() -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder()
    await decoder.start()
    yield decoder
    await decoder.close()


@needs_espeak
async def test_words_are_where_they_were_said(transcriber: FasterWhisperTranscriber, decoder: AudioDecoder) -> None:
    pipeline = SpeechPipeline(transcriber, decoder, slots=1)
    errors: list[float] = []
    for language, sentences in SENTENCES.items():
        recording = record(language, *sentences)
        request = TranscriptionRequest(
            "nano",
            language=language,
            response_format=ResponseFormat.VERBOSE_JSON,
            granularities=frozenset({Granularity.WORD}),
        )
        async with asyncio.timeout(120):
            heard = await pipeline.transcribe(recording.wav, request)
        words = [word for segment in heard.segments for word in segment.words]
        assert tuple(word.text for word in words) == recording.words
        for word, (start_s, end_s) in zip(words, recording.times_s, strict=True):
            errors.append(max(abs(word.start_s - start_s), abs(word.end_s - end_s)))
    assert sum(error <= 0.2 for error in errors) / len(errors) >= 0.95, f"median error {median(errors):.3f} s"
