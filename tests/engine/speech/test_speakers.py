"""The pipeline tells who speaks, once per file, beside the recognition; voices that are known have names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from core.errors import BackendError
from core.transcript.faults import AUDIO, Fault, FaultKind
from core.transcript.types import Speaker, Transcript, Voice
from engine.speech.attribution import Turn
from engine.speech.pipeline import SpeechPipeline
from engine.speech.speakers import REFERENCES, Diarization, ToldBy, names_of
from engine.types import Detail, Hearing, KnownSpeaker, SpeakerWish, TextDelta
from tests.engine.fakes import FakeAnalyser, FakeDecoder, FakeTranscriber, silence, speech
from tests.engine.speech.fake_diarizer import ADA, BO, FakeDiarizer, one_speaker, voice
from tests.waiting import until

WISH = SpeakerWish()
FILE = speech(2.0) + silence(12.0) + speech(2.0)
ASKED = Hearing("m", language="en", speakers=WISH)


def halves(seconds: float) -> Diarization:
    return Diarization((Turn(0.0, seconds / 2, 0), Turn(seconds / 2, seconds, 1)), (ADA, BO))


def pipeline(diarizer: FakeDiarizer, decoder: FakeDecoder | None = None) -> SpeechPipeline:
    return SpeechPipeline(FakeTranscriber(), decoder or FakeDecoder(), analysers=[FakeAnalyser()], diarizer=diarizer)


def knowing(**recordings: bytes) -> Hearing:
    return replace(ASKED, speakers=SpeakerWish(known=tuple(KnownSpeaker(*one) for one in recordings.items())))


async def test_a_file_is_told_apart_over_its_whole_length_and_decoded_once() -> None:
    diarizer, decoder = FakeDiarizer(halves), FakeDecoder()
    heard = await pipeline(diarizer, decoder).transcribe(FILE, ASKED)
    assert [one.speaker for one in heard.segments] == [0, 1]
    assert len(heard.speakers) == 2
    assert diarizer.heard == [pytest.approx(16.0, abs=0.1)]
    assert len(decoder.forms) == 1
    assert diarizer.live == 0


async def test_who_does_not_ask_gets_no_speakers_and_costs_no_diarizer_anything() -> None:
    diarizer = FakeDiarizer()
    heard = await pipeline(diarizer).transcribe(FILE, replace(ASKED, speakers=None))
    assert (heard.speakers, diarizer.bounds) == ((), [])
    assert all(one.speaker is None for one in heard.segments)


async def test_how_many_speakers_there_are_is_passed_on() -> None:
    diarizer = FakeDiarizer()
    await pipeline(diarizer).transcribe(FILE, replace(ASKED, speakers=SpeakerWish(2, 3)))
    assert diarizer.bounds == [(2, 3)]


@pytest.mark.parametrize("told_by", ToldBy)
async def test_channels_are_kept_apart_only_for_who_goes_by_them(told_by: ToldBy) -> None:
    decoder = FakeDecoder()
    await pipeline(FakeDiarizer(told_by=told_by), decoder).transcribe(FILE, ASKED)
    assert decoder.kept_channels == [told_by is ToldBy.CHANNELS]


async def test_words_are_what_a_segment_is_cut_by() -> None:
    heard = await pipeline(FakeDiarizer(halves)).transcribe(FILE, replace(ASKED, details=frozenset({Detail.WORDS})))
    assert [word.speaker for one in heard.segments for word in one.words] == [0, 1]


async def test_a_stream_comes_as_a_whole() -> None:
    stream = pipeline(FakeDiarizer(halves)).stream(FILE, ASKED)
    pieces: list[TextDelta | Transcript | None] = [await stream.next_within(5.0)]
    assert isinstance(pieces[0], Transcript)
    assert len(pieces[0].speakers) == 2


@pytest.mark.parametrize("fails_at", [0, -1])
async def test_where_a_diarizer_fails_so_does_the_request(fails_at: int) -> None:
    diarizer = FakeDiarizer(fails_at=fails_at)
    with pytest.raises(BackendError, match="the fake diarizer failed"):
        await pipeline(diarizer).transcribe(FILE, ASKED)
    assert diarizer.live == 0


async def test_more_files_than_it_listens_to_wait() -> None:
    diarizer = FakeDiarizer(slots=2)
    hearing = pipeline(diarizer)
    await asyncio.gather(*(hearing.transcribe(FILE, ASKED) for _ in range(5)))
    assert (diarizer.most_live, len(diarizer.heard)) == (2, 5)


async def test_who_leaves_is_no_longer_listened_to() -> None:
    diarizer, gate = FakeDiarizer(), asyncio.Event()
    going = asyncio.ensure_future(pipeline(diarizer, FakeDecoder(block_windows=32, gate=gate)).transcribe(FILE, ASKED))  # noqa: TID251
    await until(lambda: diarizer.live == 1)
    going.cancel()
    await asyncio.wait([going])
    assert diarizer.live == 0


# --- known voices


async def test_a_known_voice_has_its_name() -> None:
    diarizer = FakeDiarizer(lambda seconds: one_speaker(seconds) if seconds < 5 else halves(seconds))
    heard = await pipeline(diarizer).transcribe(FILE, knowing(Ada=speech(3.0)))
    assert [speaker.name for speaker in heard.speakers] == ["Ada", None]


def test_the_most_alike_get_the_names_and_nobody_gets_two() -> None:
    almost = voice(0.95, 0.3122)
    assert names_of([almost, ADA], [("Ada", ADA), ("Zoë", almost)]) == {0: "Zoë", 1: "Ada"}
    assert names_of([ADA, almost], [("Ada", ADA)]) == {0: "Ada"}
    assert names_of([ADA], [("Ada", ADA), ("Again", ADA)]) in ({0: "Ada"}, {0: "Again"})


def test_a_stranger_has_no_name() -> None:
    assert names_of([BO], [("Ada", ADA)]) == {}
    assert names_of([], [("Ada", ADA)]) == {}


def test_what_a_voice_is_like_is_shown_nowhere() -> None:
    shown = Voice((0.123,), 0.9, "fake:00")
    assert "0.123" not in repr(shown) + str(Diarization((), (shown,))) + repr(Speaker(voice=shown))


def test_voices_of_two_models_are_not_compared() -> None:
    with pytest.raises(ValueError, match="two models"):
        ADA.likeness(Voice(ADA.values, ADA.same, "other:00"))


async def test_voices_are_told_to_whoever_asks_for_them_and_to_nobody_else() -> None:
    asking = replace(ASKED, speakers=SpeakerWish(voices=True))
    assert [one.voice for one in (await pipeline(FakeDiarizer(halves)).transcribe(FILE, asking)).speakers] == [ADA, BO]
    for wish in (WISH, SpeakerWish(known=(KnownSpeaker("Ada", speech(3.0)),))):
        diarizer = FakeDiarizer(lambda seconds: one_speaker(seconds) if seconds < 5 else halves(seconds))
        heard = await pipeline(diarizer).transcribe(FILE, replace(ASKED, speakers=wish))
        assert [one.voice for one in heard.speakers] == [None, None]


async def test_a_voice_of_nothing_but_zeros_is_not_known() -> None:
    diarizer = FakeDiarizer(lambda seconds: replace(halves(seconds), voices=(voice(0.0, 0.0), BO)))
    heard = await pipeline(diarizer).transcribe(FILE, replace(ASKED, speakers=SpeakerWish(voices=True)))
    assert [one.voice for one in heard.speakers] == [None, BO]


def nobody(_: float) -> Diarization:
    return Diarization(())


def two_voices(seconds: float) -> Diarization:
    return Diarization((Turn(0.0, 0.7 * seconds, 0), Turn(0.7 * seconds, seconds, 1)), (ADA, BO))


def a_word(_: float) -> Diarization:
    return Diarization((Turn(0.0, 0.8, 0),), (ADA,))


@pytest.mark.parametrize(
    ("recording", "hears", "kind"),
    [
        (speech(0.5), one_speaker, FaultKind.TOO_SHORT),
        (speech(30.0), one_speaker, FaultKind.TOO_LONG),
        (silence(4.0), nobody, FaultKind.INVALID),
        (speech(4.0), two_voices, FaultKind.INVALID),
        (speech(4.0), a_word, FaultKind.INVALID),
    ],
    ids=["half a second", "half a minute", "silence or noise", "two voices", "a word"],
)
async def test_a_recording_that_is_not_one_voice_is_refused(
    recording: bytes, hears: Callable[[float], Diarization], kind: FaultKind
) -> None:
    decoder = FakeDecoder()
    with pytest.raises(Fault) as caught:
        await pipeline(FakeDiarizer(hears), decoder).transcribe(FILE, knowing(Ada=recording))
    assert (caught.value.kind, caught.value.subject) == (kind, REFERENCES)
    assert len(decoder.forms) == 1, "nothing of the file was heard"
    assert decoder.open_files == 0


async def test_a_cough_of_somebody_else_does_not_spoil_a_recording() -> None:
    def mostly_ada(seconds: float) -> Diarization:
        return Diarization((Turn(0.0, 0.8 * seconds, 1), Turn(0.8 * seconds, seconds, 0)), (BO, ADA))

    diarizer = FakeDiarizer(lambda seconds: mostly_ada(seconds) if seconds < 5 else halves(seconds))
    heard = await pipeline(diarizer).transcribe(FILE, knowing(Ada=speech(3.0)))
    assert [speaker.name for speaker in heard.speakers] == ["Ada", None]


async def test_a_recording_that_cannot_be_read_is_its_own_fault_and_not_the_files() -> None:
    decoder = FakeDecoder(fail_at=0, failure=Fault(FaultKind.UNREADABLE, AUDIO))
    with pytest.raises(Fault) as caught:
        await pipeline(FakeDiarizer(), decoder).transcribe(FILE, knowing(Ada=speech(3.0)))
    assert (caught.value.kind, caught.value.subject) == (FaultKind.UNREADABLE, REFERENCES)
