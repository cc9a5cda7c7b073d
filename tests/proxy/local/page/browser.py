"""Debian's Chromium, without a window, and what a test does with the page in it."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, FileChooser, Locator, Page, async_playwright

from tests.e2e.processes import RECORDING
from tests.requirements import need_program
from tests.waiting import GIVE_UP_S, until

MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
"""A microphone that hears what `--use-file-for-fake-audio-capture` names, and whose use nobody has to allow."""


@asynccontextmanager
async def chromium(*options: str) -> AsyncIterator[Browser]:
    """A browser that runs meanwhile; options: of Chromium's own."""
    need_program("chromium")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """The page in a context of its own. faults: what the console complained of, breaches of the policy among it.

    asked: the paths of all requests. choosers: the dialogs for a file that opened.
    """

    page: Page
    faults: list[str] = field(default_factory=list)

    asked: list[str] = field(default_factory=list)
    choosers: list[FileChooser] = field(default_factory=list)

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def text(self, selector: str) -> str:
        return (await self.page.locator(selector).inner_text()).strip()

    async def until(self, expression: str) -> None:
        """Wait until an expression of JavaScript holds. Playwright's own way needs `eval`, which the page forbids."""
        await until(lambda: self.page.evaluate(expression))

    async def verdict(self, state: str) -> None:
        await self.find(f"#engine[data-state={state}]").wait_for()

    async def give(self, recording: Path | None = None, *, timed: bool = False) -> None:
        """Choose a recording, by the button that everybody sees."""
        await self.find("#timed").set_checked(timed)
        await self.find("#file").set_input_files(recording or RECORDING)

    async def drop(self, name: str, content: bytes, selector: str = "#drop") -> None:
        """Drop a file on the page, as from a file manager."""
        dropped = await self.page.evaluate_handle(
            """([name, base64]) => {
                const moved = new DataTransfer();
                const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
                moved.items.add(new File([bytes], name, { type: "audio/wav" }));
                return moved;
            }""",
            [name, b64encode(content).decode()],
        )
        for kind in ("dragover", "drop"):
            await self.page.dispatch_event(selector, kind, {"dataTransfer": dropped})

    async def words(self) -> list[str]:
        """The words that are marked one by one, as far as there are any."""
        return await self.find(".word").all_inner_texts()

    async def violations(self) -> list[str]:
        """What axe-core, which knows most rules of WCAG that a program can check, finds."""
        results = await Axe().run(self.page)
        return [f"{found['id']}: {node['html']}" for found in results.response["violations"] for node in found["nodes"]]

    async def done(self) -> None:
        """Wait for the end of what was asked."""
        await self.find("#results").wait_for()
        await self.find("#transcript:not([aria-busy])").wait_for()


@asynccontextmanager
async def visit(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visit]:
    """Open the page. options: of the context, such as `color_scheme`."""
    context = await browser.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
    context.set_default_timeout(GIVE_UP_S * 1000)
    try:
        visited = Visit(await context.new_page())
        visited.page.on("console", visited.heard)
        # From the start: Playwright lets a dialog pass that opens while it begins to listen.
        visited.page.on("filechooser", lambda chooser: visited.choosers.append(chooser))  # noqa: PLW0108 - it marks what it is given
        visited.page.on("request", lambda request: visited.asked.append(request.url.removeprefix(url)))
        visited.page.on("pageerror", lambda error: visited.faults.append(str(error)))
        await visited.page.goto(url)
        yield visited
    finally:
        await context.close()
