from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BackendError
from core.media.frames import WINDOW_BYTES
from core.media.types import BYTES_PER_SAMPLE, WINDOW_SAMPLES, AudioBlock
from engine.speech.clips import (
    EDGE_S,
    MAX_CLIP_WINDOWS,
    MAX_PAUSE_S,
    MAX_PAUSE_WINDOWS,
    MIN_REST_S,
    MIN_SPEECH_WINDOWS,
    WINDOW_S,
    ClipCutter,
)
from engine.types import MAX_CLIP_BYTES, MAX_CLIP_S, MAX_PREFIX_PADDING_MS, MAX_SILENCE_DURATION_MS, Clip, VoiceActivity
from tests.engine.fakes import pcm_of, silence, speech, windows

DEFAULT = VoiceActivity()
PADDING_S = 0.32  # 300 ms in whole windows


def blocks(pcm: bytes, probabilities: bytes, size: int) -> Iterator[AudioBlock]:
    for start in range(0, len(probabilities), size):
        end = start + size
        yield AudioBlock(pcm[start * WINDOW_BYTES : end * WINDOW_BYTES], probabilities[start:end])


def cut(
    probabilities: bytes, activity: VoiceActivity | None = DEFAULT, *, pcm: bytes | None = None, size: int = 64
) -> list[Clip]:
    cutter = ClipCutter(activity)
    pcm = pcm_of(probabilities) if pcm is None else pcm
    clips = [clip for block in blocks(pcm, probabilities, size) for clip in cutter.push(block)]
    return [*clips, *cutter.finish()]


def spans(clips: list[Clip]) -> list[tuple[float, float]]:
    return [(round(clip.start_s, 3), round(clip.start_s + clip.duration_s, 3)) for clip in clips]


def window_spans(clips: list[Clip]) -> list[tuple[int, int]]:
    return [
        (round(clip.start_s / WINDOW_S), round(clip.start_s / WINDOW_S) + -(-len(clip.pcm) // WINDOW_BYTES))
        for clip in clips
    ]


def test_silence_yields_no_clip() -> None:
    assert cut(silence(100)) == []


def test_an_empty_file_yields_no_clip() -> None:
    assert cut(b"") == []


def test_a_short_utterance_in_long_silence_is_one_clip_with_padding_on_both_sides() -> None:
    assert spans(cut(silence(12.8) + speech(1.6) + silence(12.8))) == [(12.48, 14.72)]


def test_the_most_padding_is_one_second_in_whole_windows() -> None:
    activity = VoiceActivity(prefix_padding_ms=MAX_PREFIX_PADDING_MS)
    assert spans(cut(silence(12.8) + speech(1.6) + silence(12.8), activity)) == [(11.776, 15.424)]


def test_at_both_ends_of_a_file_some_silence_is_heard() -> None:
    assert spans(cut(silence(0.64) + speech(1.6) + silence(0.64))) == [(0.0, 2.88)]
    ((start, end),) = spans(cut(silence(6.4) + speech(1.6) + silence(6.4)))
    assert 6.4 - start == pytest.approx(EDGE_S, abs=WINDOW_S)
    assert end - 8.0 == pytest.approx(EDGE_S, abs=WINDOW_S)


@pytest.mark.parametrize("count", range(1, MIN_SPEECH_WINDOWS))
def test_a_click_in_long_silence_is_not_heard(count: int) -> None:
    assert cut(silence(12.8) + speech(WINDOW_S) * count + silence(12.8)) == []
    assert cut(silence(12.8) + speech(WINDOW_S) * count) == []


def test_the_shortest_word_in_long_silence_is_heard() -> None:
    assert len(cut(silence(12.8) + speech(WINDOW_S) * MIN_SPEECH_WINDOWS + silence(12.8))) == 1


def test_speech_after_a_click_is_heard_with_its_padding() -> None:
    (clip,) = cut(silence(12.8) + speech(WINDOW_S) + silence(12.8) + speech(3.2))
    assert spans([clip]) == [(25.312, 28.832)]


def test_what_no_clip_holds_is_counted() -> None:
    cutter = ClipCutter(DEFAULT)
    file = speech(3.2) + silence(19.2) + speech(3.2)
    clips = [*cutter.push(AudioBlock(pcm_of(file), file)), *cutter.finish()]
    assert cutter.left_out_s == pytest.approx(cutter.heard_s - sum(clip.duration_s for clip in clips))
    assert cutter.left_out_s == pytest.approx(19.2 - 2 * PADDING_S)


def test_padding_ends_at_the_ends_of_the_file() -> None:
    assert spans(cut(speech(1.6))) == [(0.0, 1.6)]


def test_utterances_with_short_pauses_share_a_clip() -> None:
    assert len(cut((speech(3.2) + silence(1.6)) * 4)) == 1


def test_a_long_silence_ends_a_clip_and_is_left_out() -> None:
    first, second = spans(cut(speech(3.2) + silence(19.2) + speech(3.2)))
    assert first == (0.0, 3.2 + PADDING_S)
    assert second == (22.4 - PADDING_S, 25.6)


def test_a_clip_says_how_likely_each_of_its_windows_holds_speech() -> None:
    file = silence(19.2) + bytes(range(128, 256)) * 12 + silence(19.2) + speech(3.2)
    clips = cut(file)
    assert len(clips) == 3
    assert [clip.speech for clip in clips] == [file[first:last] for first, last in window_spans(clips)]


def test_a_clip_is_there_as_soon_as_its_long_silence_is() -> None:
    cutter = ClipCutter(DEFAULT)
    told = speech(3.2) + silence(MAX_PAUSE_S)
    assert list(cutter.push(AudioBlock(pcm_of(told), told))) == []
    later = silence(0.064)
    assert len(list(cutter.push(AudioBlock(bytes(WINDOW_BYTES * len(later)), later)))) == 1


def test_a_full_clip_is_cut_in_the_middle_of_its_last_short_pause() -> None:
    first, second = spans(cut(speech(19.2) + silence(0.32) + speech(16)))
    assert first[1] == second[0] == 19.2 + 0.16


def test_a_full_clip_is_cut_at_the_longest_pause_of_its_last_seconds() -> None:
    file = speech(25.6) + silence(0.64) + speech(1.6) + silence(0.32) + speech(6.4)
    first, second = spans(cut(file))
    assert first[1] == second[0] == 25.6 + 0.32


@pytest.mark.parametrize("behind_s", [0.0, 3.2, 9.6])
def test_what_is_left_behind_a_full_clip_is_not_heard_alone(behind_s: float) -> None:
    file = speech(20.8) + silence(0.32) + speech(8) + silence(0.32) + speech(1.6) + silence(behind_s)
    first, second = spans(cut(file))
    assert first[1] == second[0] == 20.8 + 0.16
    assert second[1] == pytest.approx(31.04 + min(behind_s, EDGE_S), abs=WINDOW_S)


def test_nor_is_it_where_no_pause_is() -> None:
    first, second = spans(cut(speech(30.4)))
    assert first[1] == second[0]
    assert second[1] - second[0] >= MIN_REST_S - WINDOW_S


def test_speech_that_falls_silent_as_a_clip_is_full_is_not_cut() -> None:
    (only,) = spans(cut(speech(29.76) + silence(20)))
    assert only[0] == 0.0
    assert only[1] == pytest.approx(MAX_CLIP_WINDOWS * WINDOW_S)


def test_a_file_that_is_just_as_long_as_a_clip_is_one() -> None:
    file = speech(MAX_CLIP_S + WINDOW_S / 2)
    whole = pcm_of(file)
    for activity in (DEFAULT, None):
        assert [clip.pcm for clip in cut(file, activity, pcm=whole[:MAX_CLIP_BYTES])] == [whole[:MAX_CLIP_BYTES]]
        longer = cut(file, activity, pcm=whole[: MAX_CLIP_BYTES + BYTES_PER_SAMPLE])
        assert [len(clip.pcm) < MAX_CLIP_BYTES for clip in longer] == [True, True]


def test_a_full_clip_that_falls_silent_ends_with_its_speech() -> None:
    first, second = spans(cut(speech(28.8) + silence(1.888) + speech(3.2)))
    assert first == (0.0, 28.8 + PADDING_S)
    assert second[0] == 30.368


def test_speech_without_a_pause_is_cut_at_the_least_likely_window() -> None:
    file = bytearray(speech(40))
    file[windows(27)] = 140  # still speech, but less certainly so
    first, second = window_spans(cut(bytes(file)))
    assert first[1] == second[0]
    assert first[1] in {windows(27), windows(27) + 1}


def test_equally_certain_speech_is_cut_where_it_is_quietest() -> None:
    file = speech(40)
    loud, soft = array("h", [9000] * WINDOW_SAMPLES).tobytes(), array("h", [40] * WINDOW_SAMPLES).tobytes()
    quiet = range(windows(26), windows(26.2))
    pcm = b"".join(soft if window in quiet else loud for window in range(len(file)))
    first, second = window_spans(cut(file, pcm=pcm))
    assert first[1] == second[0]
    assert quiet[0] < first[1] <= quiet[-1]  # between two quiet windows, not at the edge of a loud one


def test_without_voice_activity_detection_nothing_is_left_out() -> None:
    file = silence(20) + speech(30) + silence(40)
    clips = cut(file, None)
    assert b"".join(clip.pcm for clip in clips) == pcm_of(file)
    assert all(clip.duration_s > MAX_CLIP_S - 6 for clip in clips[:-1])


def test_a_threshold_that_is_not_met_yields_no_clip() -> None:
    doubtful = bytes([150]) * 100
    assert cut(doubtful, VoiceActivity(threshold=0.7)) == []
    assert len(cut(doubtful, VoiceActivity(threshold=0.5))) == 1


def test_speech_that_softens_goes_on_until_well_below_the_threshold() -> None:
    file = speech(1.6) + bytes([100]) * 100 + speech(1.6)
    assert len(cut(file)) == 1


def test_the_file_may_end_in_a_short_window() -> None:
    file = speech(1.6)
    pcm = pcm_of(file)[:-300]
    (clip,) = cut(file, pcm=pcm)
    assert clip.pcm == pcm


def test_heard_seconds_include_silence() -> None:
    cutter = ClipCutter(DEFAULT)
    assert not list(cutter.push(AudioBlock(pcm_of(silence(3.2)), silence(3.2))))
    assert cutter.heard_s == pytest.approx(3.2)


@pytest.mark.parametrize("samples", [WINDOW_SAMPLES, 2 * WINDOW_SAMPLES + 1])
def test_a_block_whose_windows_do_not_match_its_samples_is_refused(samples: int) -> None:
    with pytest.raises(BackendError):
        list(ClipCutter(DEFAULT).push(AudioBlock(bytes(2 * samples), b"\xff\xff")))


def test_a_block_after_a_short_window_is_refused() -> None:
    cutter = ClipCutter(DEFAULT)
    list(cutter.push(AudioBlock(bytes(10), b"\xff")))
    with pytest.raises(BackendError):
        list(cutter.push(AudioBlock(bytes(WINDOW_BYTES), b"\xff")))


def test_memory_stays_at_about_one_clip() -> None:
    file = (speech(70) + silence(1) + speech(2) + silence(60)) * 6
    cutter = ClipCutter(DEFAULT)
    tracemalloc.start()
    for start in range(0, len(file), 128):
        part = file[start : start + 128]
        for clip in cutter.push(AudioBlock(bytes(len(part) * WINDOW_BYTES), part)):
            assert clip.pcm
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The clip handed over, the one before it, and the cutter's buffer with the slack of a bytearray.
    assert peak < 4 * MAX_CLIP_WINDOWS * WINDOW_BYTES


activities = st.builds(
    VoiceActivity,
    threshold=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    silence_duration_ms=st.integers(0, MAX_SILENCE_DURATION_MS),
    prefix_padding_ms=st.integers(0, MAX_PREFIX_PADDING_MS),
)
stretches = st.lists(st.tuples(st.sampled_from([0, 60, 110, 128, 200, 255]), st.integers(1, 1200)), max_size=5)


def file_of(parts: list[tuple[int, int]]) -> bytes:
    return b"".join(bytes([probability]) * count for probability, count in parts)


@settings(deadline=None, max_examples=60)
@given(stretches, st.binary(max_size=400), st.one_of(st.none(), activities), st.integers(1, 700))
def test_no_sample_of_speech_is_lost_or_doubled(
    parts: list[tuple[int, int]], noise: bytes, activity: VoiceActivity | None, size: int
) -> None:
    file = file_of(parts) + noise
    pcm = pcm_of(file)
    clips = cut(file, activity, pcm=pcm, size=size)
    covered: set[int] = set()
    for clip, (start, end) in zip(clips, window_spans(clips), strict=True):
        assert 0 < end - start <= MAX_CLIP_WINDOWS
        assert clip.pcm == pcm[start * WINDOW_BYTES : end * WINDOW_BYTES]  # a stretch of the file, at its place
        assert not covered or start > max(covered)  # in order, none twice
        covered.update(range(start, end))
    onset = round(255 * (activity.threshold if activity else 0))
    lost = sorted({window for window, probability in enumerate(file) if probability >= onset} - covered)
    assert all(
        later - window > MAX_PAUSE_WINDOWS for window, later in zip(lost, lost[MIN_SPEECH_WINDOWS - 1 :], strict=False)
    )


@settings(deadline=None, max_examples=25)
@given(stretches, activities, st.integers(1, 700))
def test_clips_do_not_depend_on_how_the_file_is_chunked(
    parts: list[tuple[int, int]], activity: VoiceActivity, size: int
) -> None:
    file = file_of(parts)
    assert cut(file, activity, size=size) == cut(file, activity, size=max(len(file), 1))


@settings(deadline=None, max_examples=25)
@given(stretches, activities)
def test_no_long_silence_is_inside_a_clip(parts: list[tuple[int, int]], activity: VoiceActivity) -> None:
    file = file_of(parts)
    soft = max(0, round(255 * (activity.threshold - 0.15)))
    longest = MAX_PAUSE_WINDOWS + 2 * windows(MAX_PREFIX_PADDING_MS / 1000)
    for start, end in window_spans(cut(file, activity)):
        run = 0
        for probability in file[start:end]:
            run = run + 1 if probability < soft else 0
            assert run <= longest
