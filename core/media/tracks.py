"""Which of a file's audio tracks is heard? The first in which as much is said as in any.

Not the first alone: cameras and recorders write tracks in which nothing is. Not the loudest: that may be music. And not
all at once: a film has one for every language. So the tracks are heard side by side, 16 s of each held back, until in
one of them somebody speaks; then that one is chosen for the rest, and the others are no longer decoded. Of two in which
about as much is said (a mix and the microphone in it, two languages) the earlier is chosen. Until then every block goes
out from the track in which most is said, which is next to nothing; nothing waits, and the file is read once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from core.media.frames import BLOCK_BYTES, BLOCK_WINDOWS
from core.media.sound import UnreadableMediaError, is_silence
from core.media.types import AudioBlock

HELD_BLOCKS = 8
"""16 s: an interpreter begins that much behind the speaker, and has the same to say."""

ENOUGH_WINDOWS = 94
"""3 s of speech within these 16 decide."""

NEARLY = 0.5
"""Of what is said in the track that says most."""

SPEECH = 128
"""From here on a window is more likely speech than not."""


def most_spoken(tracks: Sequence[Iterator[AudioBlock]]) -> Iterator[AudioBlock]:
    """The blocks of the track that is heard. tracks: the likeliest first.

    A track that turns out unreadable before one is chosen is left out. Raises what the chosen one raises, and
    UnreadableMediaError if none can be read.
    """
    if len(tracks) == 1:
        return tracks[0]
    return _chosen([_Candidate(track) for track in tracks])


class _Candidate:
    """A track, and what of it is held back."""

    def __init__(self, blocks: Iterator[AudioBlock]) -> None:
        self.blocks = blocks
        self.held: deque[AudioBlock] = deque()
        self.ended = False

    def hold(self) -> None:
        """Hold back one more block, if there is one."""
        block = None if self.ended else next(self.blocks, None)
        if block is None:
            self.ended = True
        else:
            self.held.append(block)

    @property
    def spoken(self) -> int:
        return sum(map(_spoken, self.held))


def _chosen(candidates: list[_Candidate]) -> Iterator[AudioBlock]:
    while candidates:
        candidates = [candidate for candidate in candidates if _holds_on(candidate)] or _refused()
        ended = all(candidate.ended for candidate in candidates)
        if not ended and max(len(candidate.held) for candidate in candidates) < HELD_BLOCKS:
            continue
        oldest = [candidate.held[0] for candidate in candidates if candidate.held]
        if not oldest:
            return
        if max(map(_spoken, oldest)):
            most = max(candidate.spoken for candidate in candidates)
            if ended or most >= ENOUGH_WINDOWS:
                choice = next(candidate for candidate in candidates if candidate.spoken >= NEARLY * most)
                candidates.clear()
                yield from choice.held
                yield from choice.blocks
                return
        block = max(oldest, key=lambda block: (_spoken(block), not is_silence(block.pcm)))
        goes_on = any(len(candidate.held) > 1 for candidate in candidates)
        yield _whole(block) if goes_on else block
        for candidate in candidates:
            if candidate.held:
                candidate.held.popleft()


def _whole(block: AudioBlock) -> AudioBlock:
    """A track's last block, filled up where other tracks go on: only the last of a file may be short."""
    channels = tuple(map(_whole, block.channels))
    return AudioBlock(block.pcm.ljust(BLOCK_BYTES, b"\0"), block.speech.ljust(BLOCK_WINDOWS, b"\0"), channels)


def _holds_on(candidate: _Candidate) -> bool:
    try:
        candidate.hold()
    except UnreadableMediaError:
        return False
    return True


def _refused() -> list[_Candidate]:
    raise UnreadableMediaError("no audio track can be read")


def _spoken(block: AudioBlock) -> int:
    """How many windows of a block are speech."""
    return sum(likelihood >= SPEECH for likelihood in block.speech)
