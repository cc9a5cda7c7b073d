"""The pictures of docs/page.md: `python -m tests.proxy.local.page.pictures`.

The engine and the speech are real (`make weights`); the machine is one whose vendors the tests made up. In the pictures
of an attested engine the page is not told so, or it would warn of it, as it should.
"""

from __future__ import annotations

import asyncio
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import Browser, FilePayload, FloatRect, Route

from core.media.content import InMemory
from core.media.media import pcm_of
from tests.e2e.forged import AMD, GPU_RULES, GPUS, SNP_RULES, beside, offline, written
from tests.e2e.forged_hardware import answering
from tests.e2e.processes import Program, engine, proxy, until_ready
from tests.e2e.test_forged_machine import Forged
from tests.places import ROOT
from tests.proxy.local.page.browser import Visit, chromium, visit
from tests.requirements import need_weights

PICTURES = ROOT / "docs" / "images"
RECORDING = ROOT / "examples" / "kennedy.flac"
LONG = [
    ROOT / "tests" / "e2e" / "recordings" / f"en-{name}.flac"
    for name in ("lj-0001", "lj-0006", "sense-0870", "sense-0920")
]
MODEL = "whisper-base"
MARGIN = 24
"""Around a part of the page."""


def _one_after_another(*recordings: Path) -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as written_to:
        written_to.setparams((1, 2, 16_000, 0, "NONE", ""))
        for recording in recordings:
            (pieces,) = pcm_of(InMemory(recording.read_bytes()))
            written_to.writeframes(b"".join(pieces))
    return file.getvalue()


async def _as_if_real(route: Route) -> None:
    response = await route.fetch()
    report = await response.json()
    await route.fulfill(response=response, json=report | {"insecure": False, "warning": None})


async def attested(seen: Visit) -> None:
    await seen.verdict("attested")
    await seen.find("#checks-summary").click()


async def streaming(seen: Visit) -> None:
    await seen.verdict("attested")
    await seen.find("#model").select_option(MODEL)
    await seen.drop("speeches.wav", _one_after_another(RECORDING, *LONG))
    await seen.until("document.querySelector('#transcript[aria-busy] #text span') !== null")


async def dark(seen: Visit) -> None:
    await seen.verdict("attested")
    await seen.find("#model").select_option(MODEL)
    await seen.give(RECORDING, timed=True)
    await seen.done()
    await seen.find(".word").nth(12).click()
    await seen.until("document.querySelector('#player').currentTime > 6")
    await seen.page.evaluate("document.querySelector('#player').pause()")


async def jobs(seen: Visit) -> None:
    await seen.verdict("attested")
    await seen.find("#model").select_option(MODEL)
    for recording in (RECORDING, LONG[0]):
        await seen.find("#jobs-files").set_input_files(recording)
        await seen.find("#jobs-list li[data-status=completed]").filter(has_text=recording.name).wait_for()
    speeches = _one_after_another(RECORDING, *LONG * 3)
    await seen.find("#jobs-files").set_input_files(
        FilePayload(name="speeches.wav", mimeType="audio/wav", buffer=speeches)
    )
    await seen.find("#jobs-list li[data-status=processing]").wait_for()


async def refused(seen: Visit) -> None:
    await seen.verdict("refused")


async def taken(browser: Browser, url: str, show: Callable[[Visit], Awaitable[None]]) -> None:
    scheme = "dark" if show is dark else "light"
    async with visit(browser, "about:blank", color_scheme=scheme, reduced_motion="reduce") as seen:
        if show is not refused:
            await seen.page.route("**/attestation", _as_if_real)
        await seen.page.goto(url)
        await show(seen)
        await seen.page.evaluate("scrollTo(0, 0)")
        path = PICTURES / f"page-{show.__name__}.png"
        if show is jobs:
            box = await seen.find("#jobs").bounding_box()
            assert box is not None
            clip = FloatRect(
                x=box["x"] - MARGIN,
                y=box["y"] - MARGIN,
                width=box["width"] + 2 * MARGIN,
                height=box["height"] + 2 * MARGIN,
            )
            await seen.page.screenshot(path=path, clip=clip, full_page=True, caret="hide")
            return
        await seen.page.screenshot(path=path, full_page=show in (streaming, dark), caret="hide")


@asynccontextmanager
async def machine(directory: Path, policy: Path) -> AsyncIterator[Program]:
    """An engine that hears real speech, on an SNP machine with a GPU."""
    (directory / "tsm").mkdir()
    collateral = beside(directory / "collateral", AMD, GPUS)
    evidence = ("--tsm-path", str(directory / "tsm"), "--policy", str(policy), *collateral)
    prefix = (sys.executable, "-m", "tests.e2e.forged_hardware", str(directory / "hardware"))
    model = ("--model", f"{MODEL}={need_weights(MODEL)}")
    with answering(Forged(AMD, GPUS), directory / "hardware"):
        async with engine(directory / "engine", *model, evidence=evidence, prefix=prefix) as behind:
            yield behind


async def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as name:
        directory = Path(name)
        policy = written(directory / "policy.toml", SNP_RULES + GPU_RULES, "snp", "gpu_device", "gpu_rim")
        vendors = written(directory / "vendors.toml", SNP_RULES + GPU_RULES)
        kept = ("--jobs", "--jobs-dir", str(directory / "jobs"), "--jobs-key", str(directory / "jobs.key"))
        async with (
            machine(directory, policy) as behind,
            proxy(directory / "proxy", behind.url, *offline(directory), policy=policy) as believing,
            proxy(directory / "keeping", behind.url, *offline(directory / "third"), *kept, policy=policy) as keeping,
            proxy(directory / "doubting", behind.url, *offline(directory / "other"), policy=vendors) as doubting,
            chromium() as browser,
        ):
            await until_ready(believing)
            for show in (attested, streaming, dark):
                await taken(browser, believing.url, show)
            await until_ready(keeping)
            await taken(browser, keeping.url, jobs)
            await taken(browser, doubting.url, refused)


if __name__ == "__main__":
    asyncio.run(main())
