"""When is a clip's text not to be believed, and what then?

Thresholds and ladder are those of OpenAI's `whisper/transcribe.py`: text that repeats itself (it compresses too well)
or that the model itself finds unlikely is decoded again at the next temperature, and a segment that is both unlikely
and probably not speech is dropped. So is a clip decoded again of which no text remains although somebody speaks.

People do repeat themselves, and then every temperature fails. What can be said in the time there was is believed; a
loop that cannot is cut, as it is in a stream, where nothing can be taken back, and hearing goes on behind it
(`engine.speech.unheard`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from core.transcript.types import Segment
from engine.speech.unheard import LEAST_S, keep, saying_s
from engine.types import ClipTranscript

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6

MIN_DOUBTED_S = 2.0
"""In a rest of less speech than that, a word or two without those before them, the model finds every text unlikely."""

MAX_HASTE = 1.5
"""Nobody speaks so much faster than people do, by `saying_s`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The transcript that was believed in the end, and how many times the clip was decoded again.

    looped: whether it was cut in the middle of a loop, which its last segment is.
    """

    transcript: ClipTranscript
    fallbacks: int
    looped: bool = False


async def decode_with_fallback(
    decode: Callable[[float], Awaitable[ClipTranscript]],
    temperatures: Sequence[float],
    *,
    speech_s: float,
    is_rest: bool = False,
) -> Outcome:
    """Decode one clip at one temperature after the other until its text can be believed.

    decode: turns the clip into text at the temperature given. speech_s: how much of the clip is speech. is_rest:
    whether it is what an earlier text of the same clip left out; a short one is believed though it is unlikely.
    If every temperature fails, the likeliest text is returned: of those that the model finds likely, else of those that
    do not repeat themselves (as faster-whisper does), else of all. If nobody can speak so fast, it ends where it loops.
    """
    may_be_unlikely = is_rest and speech_s < MIN_DOUBTED_S
    doubtful: list[ClipTranscript] = []
    for temperature in temperatures:
        transcript = drop_silence(await decode(temperature))
        if is_credible(transcript, speech_s=speech_s, may_be_unlikely=may_be_unlikely):
            return Outcome(transcript, fallbacks=len(doubtful))
        doubtful.append(transcript)
    fallbacks = len(doubtful) - 1
    texts = [transcript for transcript in doubtful if transcript.text.strip()] or doubtful
    steady = [transcript for transcript in texts if not repeats(transcript)]
    best = max([one for one in texts if is_likely(one)] or steady or texts, key=avg_logprob)
    if saying_s(best.text) <= MAX_HASTE * speech_s:
        return Outcome(best, fallbacks)
    return _ended(best, fallbacks)


def is_credible(transcript: ClipTranscript, *, speech_s: float = 0.0, may_be_unlikely: bool = False) -> bool:
    """Whether a transcript of a clip with so much speech needs no second attempt."""
    silent = speech_s > LEAST_S and not transcript.text.strip()
    return not silent and not repeats(transcript) and (may_be_unlikely or is_likely(transcript))


def is_likely(transcript: ClipTranscript) -> bool:
    """Whether the model itself finds the text likely."""
    return avg_logprob(transcript) >= MIN_AVG_LOGPROB


def repeats(transcript: ClipTranscript) -> bool:
    """Whether the text loops, or it or a window of it by the backend's own figure compresses too well."""
    ratios = [compression_ratio(transcript.text), *(segment.compression_ratio for segment in transcript.segments)]
    return max(ratios) > MAX_COMPRESSION_RATIO or loops(transcript.text)


def loops(text: str) -> bool:
    """Whether a stream with this text would be ended."""
    guard = RepetitionGuard()
    guard.admit(text)
    return guard.looping


def _ended(transcript: ClipTranscript, fallbacks: int) -> Outcome:
    """Cut a transcript where it loops, if it does."""
    guard, kept = RepetitionGuard(), []
    for segment in transcript.segments or (Segment(0.0, 0.0, transcript.text),):
        kept.append(replace(segment, text=guard.admit(segment.text)))
        if guard.looping:
            text = "".join(segment.text for segment in kept)
            return Outcome(replace(transcript, text=text, segments=tuple(kept)), fallbacks, looped=True)
    return Outcome(transcript, fallbacks)


def avg_logprob(transcript: ClipTranscript) -> float:
    """Return the mean log probability of the clip's tokens; 0 where the backend gives no figures."""
    weights = [len(segment.tokens) or 1 for segment in transcript.segments]
    total = sum(weight * segment.avg_logprob for weight, segment in zip(weights, transcript.segments, strict=True))
    return total / sum(weights) if weights else 0.0


def compression_ratio(text: str) -> float:
    """Return how many times smaller zlib makes the UTF-8 form of a text; below 1 for a short one."""
    plain = text.encode()
    return len(plain) / len(zlib.compress(plain))


def is_silence(segment: Segment) -> bool:
    """Whether a segment is text that the model made up for a stretch without speech."""
    return segment.no_speech_prob > MAX_NO_SPEECH_PROB and segment.avg_logprob < MIN_AVG_LOGPROB


def drop_silence(transcript: ClipTranscript) -> ClipTranscript:
    """Return the transcript without the segments that are silence."""
    return keep(transcript, (segment for segment in transcript.segments if not is_silence(segment)))


def finite(value: float, otherwise: float) -> float:
    """Return a number that JSON has: models do answer NaN and infinity."""
    return value if math.isfinite(value) else otherwise


class RepetitionGuard:
    """Watches the text of one streamed clip and says when it loops.

    A loop is a unit of at most `MAX_UNIT_CHARS` characters that stands at least `MIN_REPEATS` times, and over at least
    `MIN_LOOP_CHARS` characters, at the end of the text: longer than anything people repeat in 30 s.
    """

    MAX_UNIT_CHARS = 100
    MIN_REPEATS = 5
    MIN_LOOP_CHARS = 80

    def __init__(self) -> None:
        self._tail = ""
        self._ending = False
        self.looping = False

    def admit(self, piece: str) -> str:
        """Return the part of the next piece that may be passed on: up to the end of the word where it loops."""
        for position, character in enumerate(piece):
            self.looping = self.looping or (self._ending and not character.isalnum())
            if self.looping:
                return piece[:position]
            self._tail = (self._tail + character)[-self.MAX_UNIT_CHARS * self.MIN_REPEATS :]
            if unit := self._unit():
                self._ending = True
                self.looping = unit.isalnum()  # no end of a word will come
        return piece

    def _unit(self) -> str:
        """What the text repeats, nothing if it does not."""
        tail = self._tail
        longest = min(self.MAX_UNIT_CHARS, len(tail) // self.MIN_REPEATS)
        lengths = (unit for unit in range(1, longest + 1) if tail[-1] == tail[-1 - unit])
        return next((tail[-unit:] for unit in lengths if self._is_periodic(tail, unit)), "")

    def _is_periodic(self, tail: str, unit: int) -> bool:
        length = max(unit * self.MIN_REPEATS, self.MIN_LOOP_CHARS)
        return len(tail) >= length and tail[-length:-unit] == tail[unit - length :]
