from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from benchmarks.null_speech import NullTranscriber
from core.errors import BackendError, CoreError
from core.media.types import RawSamples
from core.transcript.faults import AUDIO, Fault, FaultKind
from core.transcript.types import Segment, Task, TokenLogprob, Transcript
from engine.speech.analyser import ClipAnalyser
from engine.speech.pipeline import Decoder, SpeechPipeline
from engine.speech.text_stream import TextStream
from engine.speech.transcriber import Capabilities, Transcriber
from engine.types import Clip, ClipTranscript, DecodingOptions, Detail, Hearing, TextDelta, VoiceActivity
from tests.engine.fakes import (
    WINDOWS_PER_S,
    FakeAnalyser,
    FakeDecoder,
    FakeTranscriber,
    Turnstile,
    scripted,
    silence,
    speech,
    transcript_of,
)
from tests.waiting import until

from .counts import Counts

REQUEST = Hearing(model="nano", language="en")
DETECT = Hearing(model="nano")
UTTERANCE = speech(3.2) + silence(12.8)
"""16 s that make one clip; several behind one another make as many."""


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def pipeline_of(
    transcriber: Transcriber,
    decoder: Decoder | None = None,
    *,
    analysers: Sequence[ClipAnalyser] = (),
    slots: int = 4,
    clips_per_file: int = 8,
) -> SpeechPipeline:
    if isinstance(transcriber, FakeTranscriber):
        transcriber.capabilities = Capabilities(slots)
    return SpeechPipeline(transcriber, decoder or FakeDecoder(), analysers=analysers, clips_per_file=clips_per_file)


async def read(stream: TextStream) -> tuple[list[str], Transcript]:
    """Read a stream to its end: the texts of its deltas, and its last piece."""
    async with aclosing(stream):
        pieces = [piece async for piece in stream]
    deltas = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    last = pieces[-1]
    assert isinstance(last, Transcript)
    assert len(deltas) == len(pieces) - 1
    return deltas, last


# --- whole files


async def test_the_clips_of_a_file_become_its_text_in_order() -> None:
    result = await pipeline_of(FakeTranscriber()).transcribe(UTTERANCE * 3, REQUEST)
    assert result.text == "clip at 0 clip at 157 clip at 317"
    assert [round(segment.start_s, 1) for segment in result.segments] == [0.0, 15.7, 31.7]
    assert result.duration_s == pytest.approx(48)
    assert (result.language, result.task, result.input_audio_tokens) == ("en", Task.TRANSCRIBE, 2400)


async def test_silence_is_no_text_and_asks_the_backend_nothing() -> None:
    fake = FakeTranscriber()
    result = await pipeline_of(fake).transcribe(silence(60), DETECT)
    assert (result.text, result.segments, result.language) == ("", (), "en")
    assert result.duration_s == pytest.approx(60)
    assert not fake.heard
    assert not fake.asked_for_language


async def test_the_backend_is_told_what_was_asked() -> None:
    fake = FakeTranscriber()
    request = Hearing(
        model="nano",
        language="de",
        task=Task.TRANSLATE,
        prompt="hello",
        temperature=0.4,
        max_tokens=7,
        sampling={"top_p": 0.9},
    )
    await pipeline_of(fake).transcribe(UTTERANCE, request)
    (call,) = fake.heard
    assert call.model == "nano"
    assert call.options == DecodingOptions("de", Task.TRANSLATE, "hello", 0.4, 7, {"top_p": 0.9})


async def test_without_voice_activity_detection_silence_is_heard_too() -> None:
    fake = FakeTranscriber()
    request = Hearing(model="nano", language="en", voice_activity=None)
    await pipeline_of(fake).transcribe(silence(64), request)
    assert sum(call.clip.duration_s for call in fake.heard) == pytest.approx(64)


async def test_voice_activity_options_of_the_request_are_used() -> None:
    fake = FakeTranscriber()
    request = Hearing(model="nano", language="en", voice_activity=VoiceActivity(prefix_padding_ms=0))
    await pipeline_of(fake).transcribe(silence(12.8) + speech(3.2), request)
    assert fake.heard[0].clip.start_s == pytest.approx(12.8)


async def test_clips_of_a_file_are_heard_at_once_but_no_more_than_there_are_slots() -> None:
    gate = asyncio.Event()
    fake = FakeTranscriber(gate=gate)
    work = pipeline_of(fake, slots=3).transcribe(UTTERANCE * 6, REQUEST)
    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        await until(lambda: fake.live == 3)
        gate.set()
    assert fake.most_live == 3
    assert len(fake.heard) == 6


async def test_a_file_is_read_no_further_ahead_than_its_clips_may_be() -> None:
    gate = asyncio.Event()
    fake, decoder = FakeTranscriber(gate=gate), FakeDecoder(block_windows=len(UTTERANCE))
    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline_of(fake, decoder, slots=1, clips_per_file=2).transcribe(UTTERANCE * 20, REQUEST))
        await until(lambda: decoder.blocks == 3)
        await settle()
        assert decoder.blocks == 3  # one heard, one waits, one is held until there is room
        gate.set()
    assert decoder.blocks == 20


async def test_a_short_file_beside_a_long_one_waits_for_about_one_clip() -> None:
    turnstile = Turnstile()
    fake = FakeTranscriber(gate=turnstile)
    pipeline = pipeline_of(fake, slots=1, clips_per_file=100)
    async with asyncio.TaskGroup() as group:
        long = group.create_task(pipeline.transcribe(UTTERANCE * 40, REQUEST))
        await until(lambda: pipeline.waiting == 39)
        short = group.create_task(pipeline.transcribe(speech(5), DETECT))
        await until(lambda: pipeline.waiting == 40)
        while not short.done():
            turnstile.admit_one()
            await settle()
        long.cancel()
    # Before it: one under way, the turn that was due, and one between the short file's language and its text.
    assert [call.clip.duration_s > 4 for call in fake.heard].index(True) == 3


async def test_one_file_beside_many_of_another_caller_waits_for_about_one_clip() -> None:
    turnstile = Turnstile()
    fake = FakeTranscriber(gate=turnstile)
    decoder = FakeDecoder()
    pipeline = pipeline_of(fake, decoder, slots=1)
    async with asyncio.TaskGroup() as group:
        many = [group.create_task(pipeline.transcribe(UTTERANCE, REQUEST, caller="many")) for _ in range(20)]
        await until(lambda: pipeline.waiting == 19)
        single = group.create_task(read(pipeline.stream(speech(5), REQUEST, caller="single")))
        await until(lambda: pipeline.waiting == 20)
        while not single.done():
            turnstile.admit_one()
            await settle()
        for task in many:
            task.cancel()
    assert decoder.callers == ["many"] * 20 + ["single"]
    assert [call.clip.duration_s > 4 for call in fake.heard].index(True) <= 2


# --- a second look


def doubtful_below(temperature: float) -> Callable[[Clip, DecodingOptions], ClipTranscript]:
    def say(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        sure = options.temperature >= temperature
        return transcript_of(" hello", clip, options, avg_logprob=-0.3 if sure else -1.5)

    return say


async def test_only_what_is_wanted_is_looked_for_and_only_in_texts_that_are_final() -> None:
    analyser = FakeAnalyser(adds=frozenset({Detail.WORDS}))
    fake = FakeTranscriber(transcripts=doubtful_below(0.2))
    pipeline = pipeline_of(fake, analysers=[analyser])
    plain = await pipeline.transcribe(UTTERANCE, REQUEST)
    assert not analyser.looked
    timed = await pipeline.transcribe(UTTERANCE, replace(REQUEST, details=frozenset(Detail)))
    ((seen, wanted),) = analyser.looked
    assert seen.segments[0].temperature == 0.2
    assert wanted == {Detail.WORDS}
    assert timed.text == plain.text
    assert [word.text for segment in timed.segments for word in segment.words] == [plain.text]


async def test_what_is_silence_is_not_looked_at() -> None:
    def said(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        spoken = transcript_of(" hello", clip, options)
        made_up = transcript_of(" thanks", clip, options, avg_logprob=-1.5, no_speech_prob=0.9)
        return replace(spoken, text=" hello thanks", segments=spoken.segments + made_up.segments)

    analyser = FakeAnalyser()
    pipeline = pipeline_of(FakeTranscriber(transcripts=said), analysers=[analyser])
    await pipeline.transcribe(UTTERANCE, replace(REQUEST, details=frozenset({Detail.LOGPROBS})))
    assert [transcript.text for transcript, _ in analyser.looked] == [" hello"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_text_that_cannot_be_looked_at_fails_its_request(streamed: bool) -> None:
    pipeline = pipeline_of(FakeTranscriber(), analysers=[FakeAnalyser(fail_at="look")])
    request = replace(REQUEST, details=frozenset({Detail.LOGPROBS}))
    with pytest.raises(BackendError, match="cannot look"):
        await (read(pipeline.stream(UTTERANCE, request)) if streamed else pipeline.transcribe(UTTERANCE, request))


async def test_a_streamed_clip_waits_for_its_details_and_has_the_ladder() -> None:
    fake = FakeTranscriber(transcripts=doubtful_below(0.2))
    pipeline = pipeline_of(fake, analysers=[FakeAnalyser()])
    request = replace(REQUEST, details=frozenset({Detail.LOGPROBS}))
    async with aclosing(pipeline.stream(UTTERANCE * 2, request)) as stream:
        *deltas, whole = [piece async for piece in stream]
    assert [len(delta.logprobs) for delta in deltas if isinstance(delta, TextDelta)] == [1, 1]
    assert isinstance(whole, Transcript)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == whole.text
    assert [call.options.temperature for call in fake.heard] == [0.0, 0.2, 0.0, 0.2]


async def test_an_analyser_with_slots_of_its_own_holds_up_no_recogniser() -> None:
    analyser = FakeAnalyser(slots=1)
    pipeline = pipeline_of(FakeTranscriber(), analysers=[analyser], slots=1)
    await pipeline.transcribe(UTTERANCE * 3, replace(REQUEST, details=frozenset({Detail.WORDS})))
    assert len(analyser.looked) == 3


# --- the language


async def test_up_to_three_clips_vote_on_the_language() -> None:
    def probabilities(clip: Clip) -> dict[str, float]:
        return {"en": 0.55, "de": 0.45} if clip.start_s < 15 else {"en": 0.1, "de": 0.9}

    fake = FakeTranscriber(probabilities=probabilities)
    result = await pipeline_of(fake).transcribe(UTTERANCE * 5, DETECT)
    assert result.language == "de"
    assert {call.options.language for call in fake.heard} == {"de"}
    assert len(fake.asked_for_language) == 3
    assert len(fake.heard) == 5


async def test_only_languages_that_the_caller_named_are_detected() -> None:
    fake = FakeTranscriber(probabilities={"en": 0.8, "de": 0.05, "fr": 0.15})
    request = Hearing(model="nano", languages=("de", "fr"))
    assert (await pipeline_of(fake).transcribe(UTTERANCE, request)).language == "fr"


async def test_one_named_language_needs_no_vote() -> None:
    fake = FakeTranscriber()
    request = Hearing(model="nano", languages=("fr",))
    assert (await pipeline_of(fake).transcribe(UTTERANCE, request)).language == "fr"
    assert not fake.asked_for_language


# --- the fallback ladder


def unlikely_until(temperature: float) -> Callable[[Clip, DecodingOptions], ClipTranscript]:
    def transcripts(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        logprob = -0.2 if options.temperature >= temperature else -1.7
        return transcript_of(f" at {options.temperature}", clip, options, avg_logprob=logprob)

    return transcripts


async def test_a_doubtful_clip_is_decoded_again_at_higher_temperatures() -> None:
    fake, counts = FakeTranscriber(transcripts=unlikely_until(0.4)), Counts()
    result = await SpeechPipeline(fake, FakeDecoder(), observer=counts).transcribe(UTTERANCE, REQUEST)
    assert result.text == "at 0.4"
    assert [call.options.temperature for call in fake.heard] == [0.0, 0.2, 0.4]
    assert counts.again == [2]


async def test_a_temperature_that_was_asked_for_is_the_only_one() -> None:
    fake = FakeTranscriber(transcripts=unlikely_until(1.0))
    request = Hearing(model="nano", language="en", temperature=0.3)
    assert (await pipeline_of(fake).transcribe(UTTERANCE, request)).text == "at 0.3"
    assert len(fake.heard) == 1


async def test_invented_text_for_silence_is_dropped() -> None:
    def invented(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        return transcript_of(" Subtitles by", clip, options, avg_logprob=-1.2, no_speech_prob=0.8)

    assert (await pipeline_of(FakeTranscriber(transcripts=invented)).transcribe(UTTERANCE, REQUEST)).text == ""


# --- streams


async def test_a_streams_deltas_spell_its_text() -> None:
    deltas, last = await read(pipeline_of(FakeTranscriber()).stream(UTTERANCE * 3, REQUEST))
    assert "".join(deltas) == last.text == "clip at 0 clip at 157 clip at 317"
    assert len(deltas) == 9


async def test_a_stream_gives_the_same_text_as_the_whole_file() -> None:
    pipeline = pipeline_of(FakeTranscriber())
    _, streamed = await read(pipeline.stream(UTTERANCE * 3, DETECT))
    assert streamed == await pipeline.transcribe(UTTERANCE * 3, DETECT)


async def test_a_stream_of_silence_is_only_its_end() -> None:
    deltas, last = await read(pipeline_of(FakeTranscriber()).stream(silence(20), DETECT))
    assert (deltas, last.text) == ([], "")


async def test_the_first_clip_is_heard_before_later_audio_is_decoded() -> None:
    decoder = FakeDecoder(block_windows=len(UTTERANCE), gate=asyncio.Event())
    stream = pipeline_of(FakeTranscriber(), decoder).stream(UTTERANCE * 4, REQUEST)
    async with aclosing(stream):
        assert await anext(stream) == TextDelta("clip")
        assert decoder.blocks == 1


async def test_a_streams_clips_are_each_heard_once_one_after_the_other() -> None:
    fake = FakeTranscriber()
    await read(pipeline_of(fake, slots=4).stream(UTTERANCE * 5, REQUEST))
    starts = [call.clip.start_s for call in fake.heard]
    assert starts == sorted(set(starts))
    assert (len(starts), fake.most_live) == (5, 1)


async def test_a_streams_language_is_that_of_its_first_clip() -> None:
    fake = FakeTranscriber(probabilities={"de": 0.9})
    _, last = await read(pipeline_of(fake).stream(UTTERANCE * 3, DETECT))
    assert last.language == "de"
    assert len(fake.asked_for_language) == 1


async def test_a_doubtful_clip_of_a_stream_is_not_decoded_again() -> None:
    fake = FakeTranscriber(transcripts=unlikely_until(1.0))
    await read(pipeline_of(fake).stream(UTTERANCE, REQUEST))
    assert len(fake.heard) == 1


async def test_a_clip_that_loops_is_ended_and_the_next_one_is_heard() -> None:
    fake, counts = FakeTranscriber(script=scripted(" so" + " thank you" * 150, " goodbye")), Counts()
    pipeline = SpeechPipeline(fake, FakeDecoder(), observer=counts)
    deltas, last = await read(pipeline.stream(UTTERANCE * 2, REQUEST))
    assert last.text == "".join(deltas)
    assert last.text.startswith("so thank you thank you")
    assert last.text.endswith(" goodbye")
    assert 5 <= last.text.count("thank") <= 12
    assert counts.loops == 1
    assert fake.live == 0
    assert last.output_tokens > 10


async def test_a_backend_that_sends_no_deltas_still_streams_its_text() -> None:
    class Whole(NullTranscriber):
        async def stream(
            self, model: str, clip: Clip, options: DecodingOptions
        ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
            yield transcript_of(" all at once ", clip, options)

    deltas, last = await read(pipeline_of(Whole()).stream(UTTERANCE, REQUEST))
    assert deltas == ["all at once"]
    assert last.text == "all at once"


async def test_log_probabilities_of_spaces_travel_with_the_text_after_them() -> None:
    first, second = TokenLogprob(" ", -0.1), TokenLogprob("a", -0.2)

    class Spaced(NullTranscriber):
        async def stream(
            self, model: str, clip: Clip, options: DecodingOptions
        ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
            yield TextDelta(" ", (first,))
            yield TextDelta("a", (second,))
            yield ClipTranscript(" a", (Segment(0, 1, " a"),), 2, logprobs=(first, second))

    stream = pipeline_of(Spaced()).stream(UTTERANCE, REQUEST)
    async with aclosing(stream):
        assert await anext(stream) == TextDelta("a", (first, second))


async def test_a_reader_who_stops_reading_keeps_no_slot() -> None:
    pipeline = pipeline_of(FakeTranscriber(), slots=1)
    idle = pipeline.stream(UTTERANCE * 3, REQUEST)
    async with aclosing(idle):
        await anext(idle)
        assert (await pipeline.transcribe(UTTERANCE, REQUEST)).text == "clip at 0"


# --- what a backend leaves unheard


def heard_for(seconds: float) -> Callable[[Clip, DecodingOptions], ClipTranscript]:
    """A backend that ends its text after so much of a clip, and says where in the file the clip begins."""

    def transcript(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        text = f" from {round(clip.start_s)}"
        return ClipTranscript(text, (Segment(0.0, min(seconds, clip.duration_s), text),), output_tokens=2)

    return transcript


async def text_of(pipeline: SpeechPipeline, file: bytes, hearing: Hearing, *, streamed: bool) -> str:
    if not streamed:
        return (await pipeline.transcribe(file, hearing)).text
    deltas, last = await read(pipeline.stream(file, hearing))
    assert "".join(deltas) == last.text
    return last.text


@pytest.mark.parametrize("streamed", [False, True])
async def test_speech_behind_the_end_of_a_text_is_heard(streamed: bool) -> None:
    fake = FakeTranscriber(transcripts=heard_for(8.0))
    assert await text_of(pipeline_of(fake), speech(20), REQUEST, streamed=streamed) == "from 0 from 8 from 16"
    assert [round(call.clip.duration_s) for call in fake.heard] == [20, 12, 4]


async def test_the_parts_of_a_clip_have_their_times() -> None:
    transcript = await pipeline_of(FakeTranscriber(transcripts=heard_for(8.0))).transcribe(speech(20), REQUEST)
    assert [(round(one.start_s, 1), round(one.end_s, 1)) for one in transcript.segments] == [(0, 8), (8, 16), (16, 20)]


async def test_each_part_is_looked_at_with_its_own_audio() -> None:
    analyser = FakeAnalyser(adds=frozenset({Detail.WORDS}))
    request = replace(REQUEST, details=frozenset({Detail.WORDS}))
    pipeline = pipeline_of(FakeTranscriber(transcripts=heard_for(8.0)), analysers=[analyser])
    transcript = await pipeline.transcribe(speech(20), request)
    assert [one.text for one, _ in analyser.looked] == [" from 0", " from 8", " from 16"]
    assert [word.text for segment in transcript.segments for word in segment.words] == ["from 0", "from 8", "from 16"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_silence_behind_the_end_of_a_text_is_not_heard_again(streamed: bool) -> None:
    fake = FakeTranscriber(transcripts=heard_for(8.0))
    assert await text_of(pipeline_of(fake), speech(8.9) + silence(4), REQUEST, streamed=streamed) == "from 0"


async def test_a_sentence_that_was_left_out_is_heard_and_what_stands_behind_it_once_more() -> None:
    def transcripts(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        if clip.start_s:
            return transcript_of(" all the rest", clip, options)
        segments = (Segment(0.0, 4.0, " begun"), Segment(9.0, 12.0, " a leap"))
        return ClipTranscript(" begun a leap", segments, output_tokens=3)

    fake = FakeTranscriber(transcripts=transcripts)
    assert (await pipeline_of(fake).transcribe(speech(12), REQUEST)).text == "begun all the rest"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_loop_is_cut_and_hearing_goes_on_behind_it(streamed: bool) -> None:
    def script(clip: Clip, options: DecodingOptions) -> str:
        return " we are sinking" if clip.start_s > 4 else " mayday" * 200

    fake, counts = FakeTranscriber(script), Counts()
    pipeline = SpeechPipeline(fake, FakeDecoder(), observer=counts)
    text = await text_of(pipeline, speech(20), REQUEST, streamed=streamed)
    assert text.startswith("mayday mayday mayday")
    assert text.count("mayday") < 20
    assert text.endswith(" mayday we are sinking")
    assert counts.loops == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_text_that_loops_for_ever_ends_with_its_clip(streamed: bool) -> None:
    fake = FakeTranscriber(lambda clip, options: " mayday" * 200)
    text = await text_of(pipeline_of(fake), speech(25), REQUEST, streamed=streamed)
    assert 10 < text.count("mayday") < 80


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_prompt_is_no_text(streamed: bool) -> None:
    fake = FakeTranscriber(lambda clip, options: " We discuss Kubernetes." if options.prompt else " and")
    request = replace(REQUEST, prompt="Glossary: Zephyr. We discuss Kubernetes.")
    assert await text_of(pipeline_of(fake), speech(0.3), request, streamed=streamed) == "and"
    assert fake.heard[-1].options.prompt is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_text_that_only_begins_like_the_prompt_is_sent(streamed: bool) -> None:
    fake = FakeTranscriber(lambda clip, options: " We discuss Kubernetes daily.")
    request = replace(REQUEST, prompt="Glossary: Zephyr. We discuss Kubernetes.")
    assert await text_of(pipeline_of(fake), speech(3), request, streamed=streamed) == "We discuss Kubernetes daily."
    assert len(fake.heard) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_text_where_somebody_speaks_is_decoded_again(streamed: bool) -> None:
    fake = FakeTranscriber(lambda clip, options: " at last" if options.temperature > 0.3 else "")
    assert await text_of(pipeline_of(fake), speech(3), REQUEST, streamed=streamed) == "at last"


@pytest.mark.parametrize("voice_activity", [None, VoiceActivity()])
async def test_text_where_nobody_speaks_is_dropped_if_the_detector_is_believed(
    voice_activity: VoiceActivity | None,
) -> None:
    def transcripts(clip: Clip, options: DecodingOptions) -> ClipTranscript:
        segments = Segment(0.0, 3.0, " so"), Segment(4.0, 6.0, " thanks for watching"), Segment(7.0, 7.0, " bye")
        return ClipTranscript("".join(one.text for one in segments), segments, output_tokens=5)

    request = replace(REQUEST, voice_activity=voice_activity)
    text = (
        await pipeline_of(FakeTranscriber(transcripts=transcripts)).transcribe(speech(3) + silence(4), request)
    ).text
    assert text == ("so" if voice_activity else "so thanks for watching bye")


# --- what it costs


async def heard(pipeline: SpeechPipeline, file: bytes, charged: list[float], *, streamed: bool) -> None:
    """Hear a file in either way; note what is charged for it."""
    if streamed:
        await read(pipeline.stream(file, REQUEST, charge=charged.append))
    else:
        await pipeline.transcribe(file, REQUEST, charge=charged.append)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_file_is_charged_clip_by_clip_and_in_the_end_its_length(streamed: bool) -> None:
    charged: list[float] = []
    pipeline = pipeline_of(FakeTranscriber(), slots=1)
    file = UTTERANCE * 3
    await heard(pipeline, file, charged, streamed=streamed)
    assert len(charged) == 4
    assert sum(charged[:3]) == pytest.approx(2 * len(UTTERANCE) / WINDOWS_PER_S + 3.2, abs=1)
    assert sum(charged) == pytest.approx(len(file) / WINDOWS_PER_S)


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_leaves_is_charged_for_the_clips_that_were_begun(streamed: bool) -> None:
    charged: list[float] = []
    fake = FakeTranscriber(gate=asyncio.Event())
    pipeline = pipeline_of(fake, slots=1)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(heard(pipeline, UTTERANCE * 3, charged, streamed=streamed))
        await until(lambda: fake.live == 1)
        assert not charged
        work.cancel()
    assert sum(charged) == pytest.approx(3.2, abs=1)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_clip_that_the_backend_failed_is_not_charged(streamed: bool) -> None:
    charged: list[float] = []
    pipeline = pipeline_of(FakeTranscriber(fail_after=1), slots=1)
    with pytest.raises(BackendError):
        await heard(pipeline, UTTERANCE * 3, charged, streamed=streamed)
    assert len(charged) == 1


# --- ends before the end


async def test_cancelling_a_file_stops_its_decoder_and_its_clips() -> None:
    fake, decoder = FakeTranscriber(gate=asyncio.Event()), FakeDecoder()
    pipeline = pipeline_of(fake, decoder, slots=2)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(pipeline.transcribe(UTTERANCE * 30, REQUEST))
        await until(lambda: fake.live == 2)
        work.cancel()
    assert (fake.live, fake.cancelled, decoder.open_files, pipeline.waiting) == (0, 2, 0, 0)


async def test_cancelling_while_the_decoder_is_slow_closes_it() -> None:
    decoder = FakeDecoder(gate=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        work = group.create_task(pipeline_of(FakeTranscriber(), decoder).transcribe(UTTERANCE * 30, REQUEST))
        await until(lambda: decoder.blocks == 1)
        work.cancel()
    assert decoder.open_files == 0


async def test_closing_a_stream_stops_its_decoder_and_its_clip() -> None:
    word_gate = asyncio.Event()
    fake, decoder = FakeTranscriber(word_gate=word_gate), FakeDecoder()
    pipeline = pipeline_of(fake, decoder, slots=1)
    stream = pipeline.stream(UTTERANCE * 30, REQUEST)
    word_gate.set()
    await anext(stream)
    word_gate.clear()
    await stream.aclose()
    assert (fake.live, decoder.open_files) == (0, 0)
    word_gate.set()
    assert (await pipeline.transcribe(UTTERANCE, REQUEST)).text  # its slot is free again


async def test_cancelling_the_reader_of_a_stream_stops_the_work() -> None:
    fake, decoder = FakeTranscriber(gate=asyncio.Event()), FakeDecoder()
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(read(pipeline_of(fake, decoder).stream(UTTERANCE * 30, REQUEST)))
        await until(lambda: fake.live == 1)
        reader.cancel()
    assert (fake.live, fake.cancelled, decoder.open_files) == (0, 1, 0)


async def test_no_task_outlives_its_file() -> None:
    before = asyncio.all_tasks()
    pipeline = pipeline_of(FakeTranscriber())
    await read(pipeline.stream(UTTERANCE * 2, DETECT))
    await pipeline.transcribe(UTTERANCE * 2, DETECT)
    assert asyncio.all_tasks() == before


# --- failures


async def test_a_backend_failure_reaches_the_caller_as_itself() -> None:
    fake, decoder = FakeTranscriber(fail_after=2), FakeDecoder()
    with pytest.raises(BackendError) as caught:
        await pipeline_of(fake, decoder).transcribe(UTTERANCE * 8, REQUEST)
    assert caught.value is fake.failure
    assert (fake.live, decoder.open_files) == (0, 0)


@pytest.mark.parametrize("failure", [BackendError("the decoder died"), Fault(FaultKind.UNREADABLE, AUDIO)])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_decoders_failure_reaches_the_caller_as_itself(failure: CoreError, streamed: bool) -> None:
    fake, decoder = FakeTranscriber(gate=asyncio.Event()), FakeDecoder(fail_at=3, failure=failure)
    pipeline = pipeline_of(fake, decoder, slots=1)
    if streamed:
        fake.gate = None
    with pytest.raises(type(failure)) as caught:
        await (
            read(pipeline.stream(UTTERANCE * 8, REQUEST)) if streamed else pipeline.transcribe(UTTERANCE * 8, REQUEST)
        )
    assert caught.value is failure
    assert (fake.live, decoder.open_files) == (0, 0)


async def test_a_failing_language_vote_reaches_the_caller_as_itself() -> None:
    class Mute(NullTranscriber):
        async def languages(self, model: str, clip: Clip) -> dict[str, float]:
            raise BackendError("no languages today")

    with pytest.raises(BackendError, match="today"):
        await pipeline_of(Mute()).transcribe(UTTERANCE * 5, DETECT)


async def test_a_stream_that_fails_gives_first_what_was_heard() -> None:
    fake = FakeTranscriber(fail_after_words=2)
    async with aclosing(pipeline_of(fake).stream(UTTERANCE, REQUEST)) as stream:
        assert [await anext(stream), await anext(stream)] == [TextDelta("clip"), TextDelta(" at")]
        with pytest.raises(BackendError):
            await anext(stream)


async def test_a_stream_without_its_transcript_is_a_backend_failure() -> None:
    class Curt(NullTranscriber):
        async def stream(
            self, model: str, clip: Clip, options: DecodingOptions
        ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
            yield TextDelta("a")

    with pytest.raises(BackendError):
        await read(pipeline_of(Curt()).stream(UTTERANCE, REQUEST))


async def test_a_mistake_in_our_own_code_is_not_taken_for_a_backend_failure() -> None:
    def broken(clip: Clip, options: DecodingOptions) -> str:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await pipeline_of(FakeTranscriber(script=broken)).transcribe(UTTERANCE, REQUEST)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


# --- what is counted


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_files_audio_work_tokens_and_clips_are_counted() -> None:
    counts, clock = Counts(), Clock()

    def script(clip: Clip, options: DecodingOptions) -> str:
        clock.now += 1.5
        return " three more words"

    pipeline = SpeechPipeline(FakeTranscriber(script), FakeDecoder(), observer=counts, clock=clock)
    await pipeline.transcribe(UTTERANCE * 2, REQUEST)
    assert counts.files == [(32.0, 3.0, 6)]
    assert counts.left_out == [pytest.approx(2 * 12.8 - 3 * 0.32, abs=0.07)]
    assert (counts.clips, counts.again, counts.unladdered, counts.waits) == (2, [], 0, [])


async def test_the_wait_of_a_streams_reader_for_its_first_text_is_counted_once() -> None:
    counts, clock, word_gate = Counts(), Clock(), Turnstile()
    pipeline = SpeechPipeline(FakeTranscriber(word_gate=word_gate), FakeDecoder(), observer=counts, clock=clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(read(pipeline.stream(UTTERANCE * 2, REQUEST)))
        await settle()
        for _ in range(10):
            clock.now += 0.25
            word_gate.admit_one()
            await settle()
    assert counts.waits == [0.25]


@pytest.mark.parametrize("streamed", [False, True])
async def test_how_long_each_call_waits_for_its_turn_is_counted(streamed: bool) -> None:
    counts, clock, turnstile = Counts(), Clock(), Turnstile()
    pipeline = SpeechPipeline(
        FakeTranscriber(gate=turnstile, capabilities=Capabilities(slots=1)),
        FakeDecoder(),
        observer=counts,
        clock=clock,
        clips_per_file=2,
    )
    work = read(pipeline.stream(UTTERANCE * 2, DETECT)) if streamed else pipeline.transcribe(UTTERANCE * 2, DETECT)
    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        for _ in range(10):
            await settle()
            clock.now += 1.0
            turnstile.admit_one()
    # One by one: a stream looks at one clip's language, and asks for the next turn only when it is at hand.
    assert counts.queued == ([0.0] * 3 if streamed else [0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize(("temperature", "unladdered"), [(0.0, 1), (0.4, 0)])
async def test_a_stream_that_runs_without_the_ladder_it_would_have_is_counted(
    temperature: float, unladdered: int
) -> None:
    counts = Counts()
    pipeline = SpeechPipeline(FakeTranscriber(), FakeDecoder(), observer=counts)
    await read(pipeline.stream(UTTERANCE, replace(REQUEST, temperature=temperature)))
    assert counts.unladdered == unladdered


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BackendError("the decoder died"), "decoder_failed"),
        (Fault(FaultKind.UNREADABLE, AUDIO), "unreadable"),
    ],
)
async def test_a_file_that_does_not_become_audio_is_counted_by_its_reason(failure: CoreError, reason: str) -> None:
    counts = Counts()
    pipeline = SpeechPipeline(FakeTranscriber(), FakeDecoder(fail_at=3, failure=failure), observer=counts)
    with pytest.raises(type(failure)):
        await pipeline.transcribe(UTTERANCE * 8, REQUEST)
    assert (counts.not_decoded, counts.failed_clips, counts.files) == ([reason], 0, [])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_clip_on_which_the_backend_fails_is_counted(streamed: bool) -> None:
    counts = Counts()
    pipeline = SpeechPipeline(FakeTranscriber(fail_after=0), FakeDecoder(), observer=counts)
    with pytest.raises(BackendError):
        await (read(pipeline.stream(UTTERANCE, REQUEST)) if streamed else pipeline.transcribe(UTTERANCE, REQUEST))
    assert (counts.failed_clips, counts.clips, counts.not_decoded) == (1, 0, [])


async def test_a_file_that_is_given_up_is_no_failure() -> None:
    counts, fake = Counts(), FakeTranscriber(gate=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        work = group.create_task(SpeechPipeline(fake, FakeDecoder(), observer=counts).transcribe(UTTERANCE, REQUEST))
        await until(lambda: fake.live == 1)
        work.cancel()
    assert (counts.failed_clips, counts.not_decoded, counts.files) == (0, [], [])


async def test_the_decoder_is_told_what_raw_samples_are() -> None:
    decoder, raw = FakeDecoder(), RawSamples(8_000, 2)
    await pipeline_of(FakeTranscriber(), decoder).transcribe(UTTERANCE, replace(REQUEST, raw_samples=raw))
    await read(pipeline_of(FakeTranscriber(), decoder).stream(UTTERANCE, REQUEST))
    assert decoder.forms == [raw, None]
