"""Three engines, of which one is killed and replaced every 20 s, and apps that want right answers all the time.

::

    python -m benchmarks.soak                                ten minutes; `make soak`
    python -m benchmarks.soak --seconds 30 --every 5         a short one
    python -m benchmarks.soak --json report.json             its figures as data

The shipped programs as a user runs them: `sottovoce-engine` with the nano checkpoint, `sottovoce proxy --jobs` before
three of them. Files that are answered whole and as streams, live sessions and jobs are asked for at the same time. A
hop before each engine searches all that passes for what was said and for what else must not show; the same search
reads along before anything is sealed, where it has to find all of it. Exit code 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import resident_bytes
from benchmarks.processes import POLICY, Server, program
from benchmarks.soak.asking import App, Asked, Kind, Marks, Outcome, Sentence
from benchmarks.soak.fleet import Fleet
from benchmarks.soak.hop import Hop, Search
from benchmarks.soak.report import Report, Wire, reported, table
from tests.speaker import record

SENTENCES = (
    *("good morning my blue bird", "please open the garden door", "seven black horse", "milk bread and water"),
    *("the city is red and yellow", "my house is green", "zero four nine two", "hello the black cat and my red bird"),
    *("please close the window", "the table is gray", "my horse is black", "open the house door"),
)
ENOUGH = 6
"""Sentences that the checkpoint hears right, so that answers differ."""
AT_A_TIME = {Kind.WHOLE: 2, Kind.STREAMED: 2, Kind.LIVE: 3, Kind.JOB: 1}
BETWEEN_S = 0.2
"""So that the machine is not all that is measured."""
SLICE = slice(20_000, 20_032)
"""Of a sentence's samples, where somebody speaks."""


def sentences() -> list[Sentence]:
    """Spoken by espeak-ng."""
    return [Sentence(text, record("en", text, pause_s=0.4).pcm) for text in SENTENCES]


def phrases(said: list[Sentence], marks: Marks) -> dict[str, bytes]:
    """What must not show: what is said, as samples and as text, and what goes with it."""
    found = dict(marks.phrases)
    for number, sentence in enumerate(said):
        found[f"audio {number}"] = sentence.pcm[SLICE]
        found[f"text {number}"] = sentence.text.encode()
    return found


async def heard_right(http: aiohttp.ClientSession, url: str, said: list[Sentence]) -> list[Sentence]:
    """Those that the checkpoint hears right in each way, while nobody dies: whose right answer is known."""

    async def is_heard(sentence: Sentence) -> bool:
        app = App(http, url, [sentence], Marks.drawn())
        kinds = (Kind.WHOLE, Kind.STREAMED, Kind.LIVE)
        return {(await app.ask(kind)).outcome for kind in kinds} == {Outcome.RIGHT}

    are_heard = await asyncio.gather(*map(is_heard, said))
    right = [sentence for sentence, is_right in zip(said, are_heard, strict=True) if is_right]
    if len(right) < ENOUGH:
        raise SystemExit(f"of {len(said)} sentences only {len(right)} are heard right")
    return right


async def asking(app: App, kind: Kind, until_s: float, asked: list[Asked]) -> None:
    while time.monotonic() < until_s:
        asked.append(await app.ask(kind))
        await asyncio.sleep(BETWEEN_S)


async def retries(http: aiohttp.ClientSession, status_url: str) -> dict[str, float]:
    """How often the proxy sent a request once more, by why."""
    async with http.get(f"{status_url}/metrics") as answer:
        text = await answer.text()
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sottovoce_proxy_retries_total"
    }


async def soaked(seconds: float, every_s: float, engines: int) -> Report:
    """The run, and what came of it."""
    marks, said = Marks.drawn(), sentences()
    sought = phrases(said, marks)
    sealed, control, asked = Search(sought), Search(sought), list[Asked]()
    fleet = Fleet(engines, sealed)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await stack.enter_async_context(fleet.running())
        proxy = await stack.enter_async_context(program("sottovoce", *_options(fleet.urls, directory)))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        watching = group.create_task(fleet.watch(http, proxy.url))
        await fleet.until_attested()
        right = await heard_right(http, proxy.url, said)
        await read_along(http, proxy, control, said, marks)
        began, held_bytes = time.monotonic(), resident_bytes([proxy.process.pid])
        killing = group.create_task(fleet.kill_in_turn(every_s))
        async with asyncio.TaskGroup() as apps:
            for kind, number in AT_A_TIME.items():
                for _ in range(number):
                    apps.create_task(asking(App(http, proxy.url, right, marks), kind, began + seconds, asked))
        killing.cancel()
        watching.cancel()
        took_s, at_end_bytes = time.monotonic() - began, resident_bytes([proxy.process.pid])
        again = await retries(http, proxy.status_url)
    wire = Wire(sealed.read_bytes, len(sought), dict(sealed.found), len(control.found))
    return reported(
        asked,
        fleet.record,
        wire,
        seconds=took_s,
        engines=engines,
        proxy_bytes=(held_bytes, at_end_bytes),
        retries=again,
    )


async def read_along(
    http: aiohttp.ClientSession, proxy: Server, control: Search, said: list[Sentence], marks: Marks
) -> None:
    """The same search where nothing is sealed yet: between an app and the proxy, of every kind."""
    hop = Hop(control)
    await hop.open(proxy.url)
    try:
        apps = [App(http, hop.url, [sentence], marks) for sentence in said]
        await asyncio.gather(*(apps[0].ask(kind) for kind in Kind), *(app.ask(Kind.STREAMED) for app in apps[1:]))
    finally:
        hop.close()


def _options(urls: list[str], directory: Path) -> list[str]:
    given = {
        "--policy": POLICY,
        "--state-dir": directory / "state",
        "--collateral-dir": directory / "collateral",
        "--jobs-dir": directory / "jobs",
        "--jobs-key": directory / "jobs.key",
    }
    engines = [word for url in urls for word in ("--engine", url)]
    return ["proxy", "--jobs", *engines, *(str(word) for pair in given.items() for word in pair)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one kill to the next")
    parser.add_argument("--engines", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = asyncio.run(soaked(options.seconds, options.every, options.engines))
    print("\n".join(table(report)))
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    sys.exit(1 if report.faults else 0)
