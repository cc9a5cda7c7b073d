"""What of a clip has not been heard yet, once a backend has given its text?

A model may end before the speech does: it closes a segment early, or loops until there is no more room; or it leaves a
sentence out. OpenAI's `whisper/transcribe.py` seeks to the last timestamp. Here hearing goes on likewise, for every
backend, but only where voice activity finds more than `LEAST_S` of speech

- behind the last segment, or
- between two, of which the second and all behind it are then heard once more, unless they were sent already, or
- behind a loop that was cut: as far on as what is kept of the text takes to say.

And what was heard where nobody speaks was made up: segments of no length, those without a window of speech, and those
without a letter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from unicodedata import east_asian_width

from core.media.frames import WINDOW_BYTES
from core.transcript.types import Segment
from engine.speech.words import SPEECH, WINDOW_S
from engine.types import Clip, ClipTranscript

LEAST_S = 1.0
"""Less speech is a word that a segment's end was a little early for, or a detector's mistake."""

EDGE_S = 1.0

SLACK_S = 0.5
"""Segments begin and end so much beside their speech."""

CHARACTERS_PER_S = 15.0
"""Of a language written in letters, without pauses; of characters that are written wide a third of it."""

SEARCH_S = 1.0
"""The speech behind a cut loop is looked for a place to begin in as much."""


def speech_s(clip: Clip) -> float:
    """How much of a clip is speech."""
    return sum(probability >= SPEECH for probability in clip.speech) * WINDOW_S


def saying_s(text: str) -> float:
    """How long a text takes to say, about."""
    return sum(3 if east_asian_width(character) in "WF" else 1 for character in text) / CHARACTERS_PER_S


def part(clip: Clip, start_s: float, end_s: float) -> Clip:
    """A stretch of a clip in whole windows; times count from the start of the clip."""
    first, last = (max(0, int(moment_s / WINDOW_S + 0.5)) for moment_s in (start_s, end_s))
    pcm = clip.pcm[first * WINDOW_BYTES : last * WINDOW_BYTES]
    return Clip(clip.start_s + first * WINDOW_S, pcm, clip.speech[first:last])


def rest_of(clip: Clip, heard_s: float) -> Clip | None:
    """What is left to hear of a clip, of which so much has been heard; None where that holds next to no speech.

    Shorter than the clip by at least `SEARCH_S`, so that hearing ends; no longer than `EDGE_S` before its speech, since
    a model that waits long for speech mistakes its time.
    """
    rest = part(clip, max(heard_s, SEARCH_S), clip.duration_s)
    if speech_s(rest) <= LEAST_S:
        return None
    first = next(index for index, probability in enumerate(rest.speech) if probability >= SPEECH)
    return part(rest, first * WINDOW_S - EDGE_S, rest.duration_s)


def up_to_gap(transcript: ClipTranscript, clip: Clip) -> ClipTranscript:
    """Return the transcript without the segments that stand behind speech which no segment is of."""
    for number, (before, behind) in enumerate(pairwise(transcript.segments), start=1):
        if speech_s(part(clip, before.end_s + SLACK_S, behind.start_s - SLACK_S)) > LEAST_S:
            return keep(transcript, transcript.segments[:number])
    return transcript


def end_of(transcript: ClipTranscript, clip: Clip) -> float:
    """Up to where a clip has been heard: all of it, where its text has no times, or there is none."""
    return max((segment.end_s for segment in transcript.segments), default=clip.duration_s)


def end_of_loop(transcript: ClipTranscript, clip: Clip) -> float:
    """Up to where a clip was heard whose text was cut in a loop: where so much has been said, and speech is softest.

    The last segment is that of the loop, whose times mean nothing.
    """
    *before, loop = transcript.segments or (Segment(0.0, 0.0, transcript.text),)
    since_s = max(0.0, before[-1].end_s) if before else 0.0
    speech = clip.speech[int(since_s / WINDOW_S) :]
    said = accumulate(WINDOW_S if probability >= SPEECH else 0.0 for probability in speech)
    window = int(since_s / WINDOW_S) + sum(so_far < saying_s(loop.text) for so_far in said)
    near = range(window, min(window + int(SEARCH_S / WINDOW_S), len(clip.speech)))
    return min(near, key=lambda index: clip.speech[index], default=window) * WINDOW_S


def drop_unspoken(transcript: ClipTranscript, clip: Clip) -> ClipTranscript:
    """Return the transcript without segments in which nobody speaks, the others without the silence they begin with.

    As it is, where it is not known who speaks.
    """
    if not clip.speech:
        return transcript
    spoken = keep(transcript, [segment for segment in transcript.segments if _is_spoken(segment, clip)])
    timely = tuple(_from_its_speech(segment, clip) for segment in spoken.segments)
    return spoken if timely == spoken.segments else replace(spoken, segments=timely)


def keep(transcript: ClipTranscript, segments: Iterable[Segment]) -> ClipTranscript:
    """Return a transcript of nothing but these of its segments."""
    kept = tuple(segments)
    if len(kept) == len(transcript.segments):
        return transcript
    return replace(transcript, text="".join(segment.text for segment in kept), segments=kept)


def _is_spoken(segment: Segment, clip: Clip) -> bool:
    if not segment.start_s < min(segment.end_s, clip.duration_s) or not any(map(str.isalnum, segment.text)):
        return False
    first = max(0, int((segment.start_s - SLACK_S) / WINDOW_S))
    return max(clip.speech[first : int((segment.end_s + SLACK_S) / WINDOW_S) + 1], default=0) >= SPEECH


def _from_its_speech(segment: Segment, clip: Clip) -> Segment:
    """Let a segment that begins with silence begin with its speech: Whisper likes to begin one with the clip."""
    first, last = int(segment.start_s / WINDOW_S), int(segment.end_s / WINDOW_S)
    spoken = (index for index in range(first, min(last, len(clip.speech))) if clip.speech[index] >= SPEECH)
    begins_s = next(spoken, first) * WINDOW_S
    return replace(segment, start_s=begins_s) if begins_s > segment.start_s + SLACK_S else segment
