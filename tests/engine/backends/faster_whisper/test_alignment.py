"""Words and their times in the nano checkpoint, for a text that somebody else has written."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from statistics import median

import pytest

from core.errors import BackendError
from core.media.decode import AudioDecoder
from core.transcript.types import Segment, Task, TokenLogprob
from engine.backends.faster_whisper.aligner import FasterWhisperAligner
from engine.backends.faster_whisper.transcriber import FasterWhisperTranscriber
from engine.backends.faster_whisper.worker import MAX_FAILURES
from engine.backends.weights import FileWeights
from engine.speech.pipeline import SpeechPipeline
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail, Hearing
from tests.engine.backends.faster_whisper.test_transcriber import (
    needs_checkpoint,
    needs_espeak,
    noise,
    pid_of,
    spoken,
)
from tests.speaker import record
from tests.waiting import GIVE_UP_S

pytestmark = needs_checkpoint

SENTENCE = "open the green door"
PLAIN = DecodingOptions("en")
TIMED = frozenset({Detail.WORDS})
WEIGHED = frozenset({Detail.LOGPROBS})


@pytest.fixture
async def transcriber(nano: dict[str, FileWeights]) -> AsyncIterator[FasterWhisperTranscriber]:
    transcriber = FasterWhisperTranscriber(nano, cpu_threads=1)
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
    own = await transcriber.align("nano", clip, await transcriber.transcribe("nano", clip, PLAIN), PLAIN, TIMED)
    foreign = written(" open the", " green door", clip=clip)
    aligned = await transcriber.align("nano", clip, foreign, PLAIN, TIMED)
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
    aligned = await transcriber.align("nano", clip, other, PLAIN, TIMED)
    assert [word.text for word in aligned.segments[0].words] == [f" {word}" for word in SENTENCE.split()]


@needs_espeak
async def test_a_text_that_was_not_said_is_unlikely(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    right = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), PLAIN, WEIGHED)
    wrong = await transcriber.align("nano", clip, written(" open the yellow cat", clip=clip), PLAIN, WEIGHED)
    assert [one.token for one in right.logprobs] == [" open", " the", " green", " door"]
    assert all(-0.5 < one.logprob <= 0 for one in right.logprobs)
    assert min(one.logprob for one in wrong.logprobs) < math.log(0.01)
    assert right.segments[0].words == ()


@needs_espeak
async def test_a_prompt_is_read_before_the_text(transcriber: FasterWhisperTranscriber) -> None:
    clip, options = spoken(SENTENCE), replace(PLAIN, prompt="red green " * 300)
    plain = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), PLAIN, WEIGHED)
    prompted = await transcriber.align("nano", clip, written(f" {SENTENCE}", clip=clip), options, WEIGHED)
    assert len(prompted.logprobs) == len(plain.logprobs)
    assert prompted.logprobs != plain.logprobs


@needs_espeak
async def test_a_character_of_several_tokens_is_one_entry(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    aligned = await transcriber.align("nano", clip, written(" 日本", clip=clip), replace(PLAIN, language="ja"), WEIGHED)
    assert "".join(one.token for one in aligned.logprobs) == " 日本"
    assert not [one for one in aligned.logprobs if "�" in one.token]


async def test_no_text_needs_no_second_look(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)
    silent = written(clip=clip)
    assert await transcriber.align("nano", clip, silent, PLAIN, frozenset(Detail)) == silent


async def test_of_a_prompt_as_much_is_read_as_the_text_leaves_room_for(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)

    async def weighed(prompt: str, words: int) -> tuple[TokenLogprob, ...]:
        text = written(" red" * words, clip=clip)
        return (await transcriber.align("nano", clip, text, replace(PLAIN, prompt=prompt), WEIGHED)).logprobs

    for words in (219, 220, 440, 441, 442, 443):
        assert len(await weighed("green " * 300, words)) == words
    assert await weighed("green " * 300, 441) == await weighed("green", 441) != await weighed("", 441)
    assert await weighed("green " * 300, 442) == await weighed("", 442)


async def test_a_clip_with_more_text_than_the_decoder_has_positions_is_weighed_in_parts(
    transcriber: FasterWhisperTranscriber,
) -> None:
    clip = noise(1)
    texts = [" red green" * 100] * 3
    whole = (await transcriber.align("nano", clip, written(*texts, clip=clip), PLAIN, WEIGHED)).logprobs
    first = (await transcriber.align("nano", clip, written(*texts[:2], clip=clip), PLAIN, WEIGHED)).logprobs
    second = (await transcriber.align("nano", clip, written(*texts[2:], clip=clip), PLAIN, WEIGHED)).logprobs
    assert whole == first + second


@pytest.mark.parametrize(
    ("wanted", "texts"), [(TIMED, [" red" * 444]), (TIMED, [" red" * 200] * 3), (WEIGHED, [" red" * 444])]
)
async def test_a_text_that_is_too_long_fails_its_call_and_says_nothing_of_the_device(
    transcriber: FasterWhisperTranscriber, wanted: frozenset[Detail], texts: list[str]
) -> None:
    clip, pid = noise(1), pid_of(transcriber)
    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(BackendError, match="could not decode"):
            await transcriber.align("nano", clip, written(*texts, clip=clip), PLAIN, wanted)
    assert pid_of(transcriber) == pid
    assert transcriber.ready


async def test_the_longest_text_that_can_be_aligned_is(transcriber: FasterWhisperTranscriber) -> None:
    clip = noise(1)
    options = replace(PLAIN, prompt="green " * 300)
    aligned = await transcriber.align("nano", clip, written(" red" * 443, clip=clip), options, TIMED)
    assert len(aligned.segments[0].words) == 443


# --- faster-whisper's own text


@needs_espeak
async def test_its_own_text_bears_log_probabilities_when_asked_for(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken(SENTENCE)
    transcript = await transcriber.transcribe("nano", clip, PLAIN)
    assert transcript.logprobs == ()
    weighed = await FasterWhisperAligner(transcriber).look("nano", clip, transcript, PLAIN, WEIGHED)
    assert "".join(one.token for one in weighed.logprobs) == transcript.text


@needs_espeak
async def test_a_lone_segment_begins_when_the_model_says_so(transcriber: FasterWhisperTranscriber) -> None:
    late = Clip(0.0, bytes(32_000) + spoken(SENTENCE).pcm)
    (segment,) = (await transcriber.transcribe("nano", late, PLAIN)).segments
    assert 0.9 < segment.start_s < 1.2


@needs_espeak
async def test_a_translation_is_aligned_as_one(transcriber: FasterWhisperTranscriber) -> None:
    clip = spoken("sieben schwarz katze", "de")
    text = written(" seven black cat", clip=clip)
    german = replace(PLAIN, language="de")
    translated = await transcriber.align("nano", clip, text, replace(german, task=Task.TRANSLATE), WEIGHED)
    transcribed = await transcriber.align("nano", clip, text, german, WEIGHED)
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
    pipeline = SpeechPipeline(transcriber, decoder, analysers=[FasterWhisperAligner(transcriber)])
    errors: list[float] = []
    for language, sentences in SENTENCES.items():
        recording = record(language, *sentences, pause_s=11)  # one a clip: the checkpoint knows no longer ones
        request = Hearing("nano", language=language, details=TIMED)
        async with asyncio.timeout(GIVE_UP_S):
            heard = await pipeline.transcribe(recording.wav, request)
        words = [word for segment in heard.segments for word in segment.words]
        assert tuple(word.text for word in words) == recording.words
        for word, (start_s, end_s) in zip(words, recording.times_s, strict=True):
            errors.append(max(abs(word.start_s - start_s), abs(word.end_s - end_s)))
    assert sum(error <= 0.2 for error in errors) / len(errors) >= 0.95, f"median error {median(errors):.3f} s"
