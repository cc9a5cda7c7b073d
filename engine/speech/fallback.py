"""When is a clip's text not to be believed, and what then?

Thresholds and ladder are those of OpenAI's `whisper/transcribe.py`: text that repeats itself (it compresses too well)
or that the model itself finds unlikely is decoded again at the next temperature, and a segment that is both unlikely
and probably not speech is dropped. In a stream nothing can be taken back: there a clip that loops is ended.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from engine.types import ClipTranscript, Segment

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6


@dataclass(frozen=True, slots=True)
class Outcome:
    """The transcript that was believed in the end, and how many times the clip was decoded again."""

    transcript: ClipTranscript
    fallbacks: int


async def decode_with_fallback(
    decode: Callable[[float], Awaitable[ClipTranscript]], temperatures: Sequence[float]
) -> Outcome:
    """Decode one clip at one temperature after the other until its text can be believed.

    decode: turns the clip into text at the temperature given. If every temperature fails, the likeliest of the
    transcripts that do not repeat themselves is returned, or else the likeliest of all (as faster-whisper does).
    """
    doubtful: list[ClipTranscript] = []
    for temperature in temperatures:
        transcript = drop_silence(await decode(temperature))
        if is_credible(transcript):
            return Outcome(transcript, fallbacks=len(doubtful))
        doubtful.append(transcript)
    steady = [transcript for transcript in doubtful if not repeats(transcript)]
    return Outcome(max(steady or doubtful, key=avg_logprob), fallbacks=len(doubtful) - 1)


def is_credible(transcript: ClipTranscript) -> bool:
    """Whether a transcript needs no second attempt."""
    return not repeats(transcript) and avg_logprob(transcript) >= MIN_AVG_LOGPROB


def repeats(transcript: ClipTranscript) -> bool:
    """Whether the text, or a window of it by the backend's own figure, compresses too well."""
    ratios = [compression_ratio(transcript.text), *(segment.compression_ratio for segment in transcript.segments)]
    return max(ratios) > MAX_COMPRESSION_RATIO


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
    spoken = tuple(segment for segment in transcript.segments if not is_silence(segment))
    if len(spoken) == len(transcript.segments):
        return transcript
    return replace(transcript, text="".join(segment.text for segment in spoken), segments=spoken)


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
        self.looping = False

    def admit(self, piece: str) -> str:
        """Return the part of the next piece that may be passed on: up to where the text is seen to loop."""
        for position, character in enumerate(piece):
            if self.looping:
                return piece[:position]
            self._tail = (self._tail + character)[-self.MAX_UNIT_CHARS * self.MIN_REPEATS :]
            self.looping = self._loops()
        return piece

    def _loops(self) -> bool:
        tail = self._tail
        longest = min(self.MAX_UNIT_CHARS, len(tail) // self.MIN_REPEATS)
        return any(tail[-1] == tail[-1 - unit] and self._is_periodic(tail, unit) for unit in range(1, longest + 1))

    def _is_periodic(self, tail: str, unit: int) -> bool:
        length = max(unit * self.MIN_REPEATS, self.MIN_LOOP_CHARS)
        return len(tail) >= length and tail[-length:-unit] == tail[unit - length :]
