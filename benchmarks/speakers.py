"""How well are speakers told apart? Diarization error rates on recordings whose turns are known.

    pip install 'pyannote.metrics>=4.1,<5'
    python -m benchmarks.speakers RECORDINGS --speakers basic --speaker-model .weights/ge2e

RECORDINGS holds `turns/turns.rttm` (NIST RTTM: file, start, duration, speaker) beside the files that it names. A
diarizer is asked as the engine asks it, with the engine's decoder and sandbox. Its error (missed speech, false alarms
and confusion, over all that is said, overlap scored) is printed for collars of 0 and 0.25 s, beside the error of an
answer that calls all the same speech one speaker. Recordings of two channels are what `channels` can be asked about.
With `--part-s 12` each recording is also cut as background jobs cut it, its parts are told apart one by one, and their
speakers joined by their voices as jobs join them: `joined` is the error of that.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.media.decode import AudioDecoder
from core.media.types import SAMPLE_RATE_HZ
from core.transcript.types import Speaker
from engine.backends.speakers.channels import ChannelDiarizer
from engine.backends.speakers.diarizer import onnx, pyannote
from engine.backends.weights import DirectoryWeights, FileWeights, Weights, held
from engine.settings import SpeakersKind
from engine.speech.attribution import Turn
from engine.speech.speakers import Diarization, Diarizer, ToldBy
from engine.types import MAX_SPEAKERS
from proxy.jobs.voices import join_voices

COLLARS_S = (0.0, 0.25)

Reference = tuple[float, float, str]


@dataclass(frozen=True, slots=True)
class Errors:
    """Seconds of what was said, and of errors in telling who did."""

    said_s: float
    wrong_s: float

    @property
    def rate(self) -> float:
        return self.wrong_s / self.said_s if self.said_s else float("nan")


@dataclass(frozen=True, slots=True)
class Score:
    """Errors by collar: of the answer, of one that knows one speaker, and of parts that were joined."""

    name: str
    speakers: int
    found: int
    answer: Mapping[float, Errors]
    one: Mapping[float, Errors]
    parts: int = 0
    joined: Mapping[float, Errors] | None = None


def read_rttm(text: str) -> dict[str, list[Reference]]:
    """The turns of each file: start, end, who."""
    turns: defaultdict[str, list[Reference]] = defaultdict(list)
    for line in text.splitlines():
        match line.split():
            case ["SPEAKER", name, _, start, duration, _, _, speaker, *_]:
                turns[name].append((float(start), float(start) + float(duration), speaker))
    return dict(turns)


def annotation(turns: Sequence[tuple[float, float, object]]) -> Any:
    """Turns as pyannote.metrics wants them."""
    from pyannote.core import Annotation, Segment  # noqa: PLC0415 - only whoever measures needs it

    made = Annotation()
    for number, (start_s, end_s, speaker) in enumerate(turns):
        made[Segment(start_s, end_s), number] = str(speaker)
    return made


def errors(reference: Sequence[Reference], turns: Sequence[Turn]) -> dict[float, Errors]:
    """The errors at each collar, up to the end of the last known turn; pyannote.metrics halves a collar."""
    from pyannote.core import Segment, Timeline  # noqa: PLC0415
    from pyannote.metrics.diarization import DiarizationErrorRate  # noqa: PLC0415

    said = annotation(reference)
    found = annotation([(turn.start_s, turn.end_s, turn.speaker) for turn in turns])
    known = Timeline([Segment(0.0, max(end_s for _, end_s, _ in reference))])
    counted = {}
    for collar_s in COLLARS_S:
        metric = DiarizationErrorRate(collar=2 * collar_s, skip_overlap=False)
        parts = metric(said, found, uem=known, detailed=True)
        wrong_s = sum(parts[name] for name in ("missed detection", "false alarm", "confusion"))
        counted[collar_s] = Errors(parts["total"], wrong_s)
    return counted


async def listen(
    diarizer: Diarizer, decoder: AudioDecoder, audio: bytes, least: int = 1, most: int = MAX_SPEAKERS
) -> Diarization:
    """Have a file told apart."""
    keep_channels = diarizer.told_by is ToldBy.CHANNELS
    async with diarizer.listen(least, most) as listening:
        async with aclosing(decoder.decode(audio, keep_channels=keep_channels)) as blocks:
            async for block in blocks:
                await listening.push(block)
        return await listening.conclude()


@dataclass(frozen=True, slots=True)
class Kept:
    """A recording as decoders ask for it."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    async def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


async def listen_in_parts(
    diarizer: Diarizer, decoder: AudioDecoder, audio: bytes, part_s: int, bounds: tuple[int, int]
) -> tuple[list[Turn], int]:
    """Have a file told apart part by part, as a job has it, and how many parts there were."""
    parts, flac, start_s = [], b"", 0.0
    async with aclosing(decoder.split(Kept(audio), part_s=part_s)) as pieces:
        async for piece in pieces:
            flac += piece.flac
            if piece.samples:
                parts.append((start_s, await listen(diarizer, decoder, flac, 1, bounds[1])))
                flac, start_s = b"", start_s + piece.samples / SAMPLE_RATE_HZ
    return joined([heard for _, heard in parts], [start_s for start_s, _ in parts], bounds[1]), len(parts)


def joined(parts: Sequence[Diarization], starts_s: Sequence[float], most: int) -> list[Turn]:
    """The turns of a recording, whose parts begin at these times."""
    speakers = [
        [
            Speaker(None, sum(turn.duration_s for turn in heard.turns if turn.speaker == number), voice)
            for number, voice in enumerate(heard.voices)
        ]
        for heard in parts
    ]
    numbers = join_voices(speakers, most=most)
    return [
        Turn(start_s + turn.start_s, start_s + turn.end_s, here[turn.speaker])
        for heard, start_s, here in zip(parts, starts_s, numbers, strict=True)
        for turn in heard.turns
    ]


def chosen(kind: SpeakersKind, model: Path | None, python: Path | None) -> tuple[Diarizer, Weights | None]:
    """The diarizer that is to be measured, and what it loads."""
    if model is None:
        return ChannelDiarizer(), None
    if kind is SpeakersKind.PYANNOTE:
        directory = DirectoryWeights(model)
        return pyannote(directory, python=python), directory
    files = FileWeights(model)
    return onnx(kind.value, files), files


async def measure(recordings: Path, diarizer: Diarizer, *, count_known: bool, part_s: int | None = None) -> list[Score]:
    """The score of every file. count_known: whether the diarizer is told how many speakers there are."""
    scores = []
    decoder = AudioDecoder()
    try:
        for name, said in read_rttm((recordings / "turns" / "turns.rttm").read_text()).items():
            speakers = len({speaker for *_, speaker in said})
            bounds = (speakers, speakers) if count_known else (1, MAX_SPEAKERS)
            audio = (recordings / "turns" / f"{name}.wav").read_bytes()
            heard = await listen(diarizer, decoder, audio, *bounds)
            one = [Turn(turn.start_s, turn.end_s, 0) for turn in heard.turns]
            found = len({turn.speaker for turn in heard.turns})
            score = Score(name, speakers, found, errors(said, heard.turns), errors(said, merged(one)))
            if part_s is not None:
                turns, parts = await listen_in_parts(diarizer, decoder, audio, part_s, bounds)
                score = replace(score, parts=parts, joined=errors(said, turns))
            scores.append(score)
    finally:
        await decoder.close()
    return scores


def merged(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of one speaker, those that overlap joined."""
    joined: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: turn.start_s):
        if joined and turn.start_s <= joined[-1].end_s:
            joined[-1] = Turn(joined[-1].start_s, max(joined[-1].end_s, turn.end_s), 0)
        else:
            joined.append(turn)
    return joined


def report(scores: Sequence[Score]) -> str:
    """A table: a line a file, then all of them together."""
    lines = [
        f"{'file':10} {'speakers':>8} {'found':>5}" + "".join(f"{f'DER {c:g} s':>11}{'one':>8}" for c in COLLARS_S)
    ]
    for score in scores:
        rates = "".join(f"{100 * score.answer[c].rate:10.1f}%{100 * score.one[c].rate:7.1f}%" for c in COLLARS_S)
        lines.append(f"{score.name:10} {score.speakers:8} {score.found:5}{rates}")
    pooled = "".join(
        f"{100 * total([score.answer[c] for score in scores]).rate:10.1f}%"
        f"{100 * total([score.one[c] for score in scores]).rate:7.1f}%"
        for c in COLLARS_S
    )
    return "\n".join([*lines, f"{'all':25}{pooled}", *report_of_parts(scores)])


def report_of_parts(scores: Sequence[Score]) -> list[str]:
    """A line a file that was heard in parts, then all of them together; nothing where none was."""
    cut = [(score, score.joined) for score in scores if score.joined is not None]
    if not cut:
        return []
    lines = ["", f"{'file':10} {'parts':>8} {'':5}" + "".join(f"{f'joined {c:g} s':>15}" for c in COLLARS_S)]
    for score, answer in cut:
        rates = "".join(f"{100 * answer[c].rate:14.1f}%" for c in COLLARS_S)
        lines.append(f"{score.name:10} {score.parts:8} {'':5}{rates}")
    pooled = "".join(f"{100 * total([answer[c] for _, answer in cut]).rate:14.1f}%" for c in COLLARS_S)
    return [*lines, f"{'all':25}{pooled}"]


def total(parts: Sequence[Errors]) -> Errors:
    """The errors of several files."""
    return Errors(sum(part.said_s for part in parts), sum(part.wrong_s for part in parts))


async def run(arguments: argparse.Namespace) -> str:
    diarizer, weights = chosen(arguments.speakers, arguments.speaker_model, arguments.python)
    async with held([weights] if weights else []):
        try:
            await diarizer.start()
            begun = time.monotonic()
            scores = await measure(
                arguments.recordings, diarizer, count_known=arguments.count_known, part_s=arguments.part_s
            )
            return f"{report(scores)}\nin {time.monotonic() - begun:.1f} s"
        finally:
            await diarizer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--speakers", type=SpeakersKind, choices=list(SpeakersKind), default=SpeakersKind.CHANNELS)
    parser.add_argument("--speaker-model", type=Path)
    parser.add_argument("--python", type=Path, help="of pyannote.audio's environment")
    parser.add_argument("--count-known", action="store_true", help="tell how many speakers there are")
    parser.add_argument("--part-s", type=int, help="also hear each recording in parts of at most so long")
    print(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
