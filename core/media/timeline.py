"""When is a track heard? Where its sound lies on the container's clock, and how much silence is missing before it.

A clock is obeyed where it is the container's own: where every packet carries a time that somebody wrote. It is not
where FFmpeg makes the times up by counting (WAV, MP3, bare AAC, AVI, ...): what is counted wrong, as at a change of
rate, would be heard as silence.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOCKED = ("mov", "matroska", "ogg", "asf", "flv", "mpeg", "mpegts")
"""The containers whose packets carry times, by FFmpeg's names."""

FROM_ZERO = ("mov", "matroska", "asf", "flv")
"""Of these, the ones whose presentation begins at 0, whatever begins later; elsewhere, with the first track."""

CUT = ("mpeg", "mpegts")
"""Of these, the ones that may go over to another clock anywhere (ISO/IEC 13818-1, 2.4.3.5, discontinuity)."""

TOLERANCE_S = 0.1
"""What the clock may be ahead of the sound before silence is put in: FFmpeg's own measure (`min_hard_comp` of its
resampler). Clocks that count milliseconds waver by 1 ms, browsers that record by 3 ms, Ogg Vorbis by 10 ms, and
encoders' delays shift a start by up to 92 ms (WMA). A break in a recording is longer: a phone that rings, a tab
that sleeps. Silence for less would be clicks in the middle of words."""

LONG_S = 30.0
"""A start later than this is none: the file was cut out of a longer one whose clock runs on, as `ffmpeg -f segment`
does by default, and whoever cut it counts from its own start, like FFmpeg. Likewise a longer step where clocks may
change."""

STEP_BACK_S = 1.0
"""A clock further behind the sound than this was set back: from here on it counts from where the sound is. What
overlaps is heard, all of it, and the times are late by so much."""


@dataclass(slots=True)
class Timeline:
    """One track's place on a clock.

    tick_s: the unit of its times; 0 where they are not the container's own. zero_s: the time at which hearing begins.
    position_s: how long has been heard.
    """

    tick_s: float
    zero_s: float
    changes: bool = False
    position_s: float = 0.0

    @classmethod
    def of(cls, container: str, *, tick_s: float, start_s: float, follows: bool = False) -> Timeline:
        """The timeline of a track.

        container: FFmpeg's name. start_s: when the first of all its tracks begins. follows: it is heard right behind
        another recording, whatever its clock says of that.
        """
        if container not in CLOCKED:
            return cls(0.0, 0.0)
        from_zero = container in FROM_ZERO and 0 <= start_s <= LONG_S and not follows
        return cls(tick_s, 0.0 if from_zero else start_s, changes=container in CUT)

    def gap_before(self, time: int) -> float:
        """How much silence, in seconds, belongs before the sound that begins at `time`, in ticks; mostly none."""
        gap_s = time * self.tick_s - self.zero_s - self.position_s
        if -STEP_BACK_S <= gap_s <= TOLERANCE_S:
            return 0.0
        if gap_s < 0 or (self.changes and gap_s > LONG_S):
            self.zero_s += gap_s
            return 0.0
        return gap_s
