"""How well is speech heard? Errors, languages, text made up, speech left out, times of words; beside faster-whisper.

    python -m benchmarks.quality --speech DIRECTORY [--part PART ...] [--backend NAME ...] [--only TEXT] [--json FILE]

The product with a backend and bare faster-whisper hear the same files with the same weights in the same run. The corpus
is whatever `benchmarks.recordings` reads; `make weights` has the weights. Every file's errors are in the JSON.

Where nobody speaks bare faster-whisper is not asked: some of these clips take it minutes, all the way through its
temperatures and again 20 ms further on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.listeners import BACKENDS, SYSTEMS, VLLM, Listener, Machinery, listening
from benchmarks.quality_report import aims, table
from benchmarks.recordings import PLANS, Recording, join, quieter, read_corpus, read_meetings
from benchmarks.results import PARTS, SILENCE, WORDS, Result, Results
from benchmarks.sounds import sounds
from engine.backends.digest import weights_digest

ROOT = Path(__file__).parent.parent


def recordings_of(part: str, directory: Path) -> Sequence[Recording]:
    match part:
        case "silence":
            return list(sounds())
        case "meetings":
            return read_meetings(directory)
    corpus = read_corpus(directory)
    match part:
        case "quiet":
            return quieter(corpus)
        case "long":
            return [join(plan, corpus) for plan in PLANS]
        case "words":
            return [one for one in corpus if one.words]
        case _:
            return corpus


async def listen(part: str, system: str, listener: Listener, recordings: Sequence[Recording]) -> list[Result]:
    turn = asyncio.Semaphore(listener.at_once)

    async def hear(recording: Recording) -> Result:
        async with turn:
            begun = time.perf_counter()
            heard = await listener.hear(recording, words=part == WORDS)
            print(f"{part} {system} {recording.name}", file=sys.stderr)
            return Result(part, system, recording, heard, time.perf_counter() - begun)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hear(recording)) for recording in recordings]
    return [task.result() for task in tasks]


def as_json(results: Results, conditions: dict[str, Any]) -> str:
    files = [
        {
            "part": one.part,
            "system": one.system,
            "file": one.recording.name,
            "language": one.recording.language,
            "heard_language": one.heard.language,
            "text": one.recording.text,
            "heard": one.heard.text,
            "errors": asdict(one.errors),
            "unheard_s": round(one.unheard_s, 3),
            "missed": results.missed(one),
            "segments": [asdict(segment) for segment in one.heard.segments],
            "words": [asdict(word) for word in one.heard.words],
            "took_s": round(one.took_s, 3),
        }
        for one in results.all
    ]
    return json.dumps({**conditions, "files": files}, ensure_ascii=False, indent=1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how well speech is heard.")
    parser.add_argument("--speech", type=Path, required=True, help="a corpus, see benchmarks/recordings.py")
    parser.add_argument("--part", action="append", choices=PARTS, help="by default all")
    parser.add_argument("--backend", action="append", choices=SYSTEMS, help="by default all but vllm")
    parser.add_argument("--only", default="", metavar="TEXT", help="files in whose name this stands")
    parser.add_argument("--json", type=Path, help="where to write what was heard in every file")
    parser.add_argument("--weights", type=Path, default=ROOT / ".weights/whisper-base", help="in CTranslate2's form")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm/bin/vllm", help="its program")
    parser.add_argument("--threads", type=int, default=0, help="for each clip, by default as many as CTranslate2 likes")
    return parser.parse_args()


async def main() -> None:
    options = _options()
    parts = options.part or PARTS
    systems = options.backend or [name for name in SYSTEMS if name != VLLM]
    wanted = {part: [one for one in recordings_of(part, options.speech) if options.only in one.name] for part in parts}
    conditions = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "weights": {options.weights.name: weights_digest(options.weights)},
        "versions": {name: version(name) for name in ("sottovoce", "faster-whisper", "ctranslate2")},
    }
    gathered: list[Result] = []
    for name in systems:
        async with listening(name, options.weights, Machinery(options.vllm, options.threads)) as listener:
            for part in parts:
                if part == SILENCE and name not in BACKENDS:
                    continue
                gathered += await listen(part, name, listener, wanted[part])
                if options.json:
                    options.json.write_text(as_json(Results(gathered), conditions), "utf-8")
    results = Results(gathered)
    print(f"{conditions['date']}, {conditions['machine']}, {options.weights.name}")
    for part in parts:
        print("", *table(results, part), sep="\n")
    print("", "aims", *aims(results), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
