"""Which sentences does the checkpoint learn from?

    python synthesise.py CORPUS [--shards 12] [--processes 2]

A shard is 4,000 sentences of 1-9 random words: NAME.npy (log10 mel frames, float16) and NAME.json (one `Utterance` per
line). A shard depends on its number alone. No training sentence has the text of a held-out one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from espeak import Speech, Synthesiser
from features import log_mel
from sentences import SEED, Sentence, draw, held_out
from vocabulary import LANGUAGES

SHARD = 4000


@dataclass(frozen=True, slots=True)
class Utterance:
    """A spoken sentence in a shard: its frames, the onset of each word and the end of the last."""

    language: str
    words: tuple[str, ...]
    starts_s: tuple[float, ...]
    end_s: float
    first_frame: int
    frames: int


def sentences(shard: int) -> Iterator[Sentence]:
    """Yield the sentences of one shard, English twice as often as each other language."""
    chance = random.Random(f"{SEED} {shard}")
    kept_back = {sentence.words for sentence in held_out()}
    for _ in range(SHARD):
        sentence = draw(chance, chance.choice(("en", *LANGUAGES)))
        if sentence.words not in kept_back:
            yield sentence


def speak(synthesiser: Synthesiser, sentence: Sentence) -> Speech | None:
    """Say a sentence."""
    return synthesiser.speak(list(sentence.words), sentence.voice, rate=sentence.rate, pitch=sentence.pitch)


def write_shard(folder: Path, shard: int) -> None:
    """Write one shard; the last file to appear is the .json."""
    torch.set_num_threads(1)
    synthesiser = Synthesiser()
    features, lines, first = [], [], 0
    for sentence in sentences(shard):
        if (speech := speak(synthesiser, sentence)) is None:
            continue
        mel = log_mel(torch.nn.functional.pad(torch.from_numpy(speech.samples), (160, 160))).half().numpy()
        starts = tuple(round(start + 0.01, 3) for start in speech.starts_s)
        utterance = Utterance(sentence.language, sentence.words, starts, round(speech.end_s + 0.01, 3), first, len(mel))
        lines.append(json.dumps(asdict(utterance), ensure_ascii=False))
        features.append(mel)
        first += len(mel)
    np.save(folder / f"{shard:03}.npy", np.concatenate(features))
    (folder / f"{shard:03}.json").write_text("\n".join(lines), encoding="utf-8")


def read_corpus(folder: Path) -> list[tuple[Utterance, np.ndarray[tuple[int, int], np.dtype[np.float16]]]]:
    """Read every finished shard: the utterances, each with its frames."""
    corpus = []
    for index in sorted(folder.glob("*.json")):
        frames = np.load(index.with_suffix(".npy"), mmap_mode="r")
        for line in index.read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            item = Utterance(**(fields | {key: tuple(fields[key]) for key in ("words", "starts_s")}))
            corpus.append((item, frames[item.first_frame : item.first_frame + item.frames]))
    return corpus


def main() -> None:
    """Write the shards that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in range(options.shards) if not (options.corpus / f"{shard:03}.json").exists()]
    with ProcessPoolExecutor(options.processes) as pool:
        list(pool.map(write_shard, [options.corpus] * len(missing), missing))


if __name__ == "__main__":
    main()
