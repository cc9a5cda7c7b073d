"""The jobs view of the page in Debian's Chromium, in front of an engine that answers by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, FilePayload, Locator

from proxy.app import RunningProxy
from proxy.jobs.model import PlanTerms
from proxy.jobs.service import kept, places_of
from proxy.jobs.vault import KeyFile
from proxy.jobs_options import JobsOptions
from tests.proxy.conftest import url_of
from tests.proxy.dialects.own.test_api import refusing, verbose
from tests.proxy.fake_engine import FakeEngine, Reply, Script
from tests.proxy.local.page.browser import Visit, visit
from tests.proxy.local.page.conftest import fronted
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def recording(name: str, content: bytes = b"RIFF sound") -> FilePayload:
    return FilePayload(name=name, mimeType="audio/wav", buffer=content)


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeEngine]:
    """An engine that says "Good morning." to whatever it hears."""
    async with FakeEngine().running() as running:
        running.default = Script(play=verbose)
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    KeyFile.make(tmp_path / "jobs.key")
    return {"jobs": True, "jobs_cut": False, "jobs_dir": tmp_path / "jobs", "jobs_key": tmp_path / "jobs.key"}


@pytest_asyncio.fixture(loop_scope="module")
async def front(fake: FakeEngine, settings: dict[str, Any]) -> AsyncIterator[RunningProxy]:
    async with fronted(fake, **settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, front: RunningProxy) -> AsyncIterator[Visit]:
    async with opened(browser, front) as seen:
        yield seen
        assert seen.faults == []


@asynccontextmanager
async def opened(browser: Browser, front: RunningProxy, **options: Any) -> AsyncIterator[Visit]:
    async with visit(browser, url_of(front), **options) as seen:
        await seen.find("#jobs-on").wait_for()
        yield seen


async def give(seen: Visit, *names: str) -> None:
    await seen.find("#jobs-files").set_input_files([recording(name) for name in names])


async def line(seen: Visit, name: str, status: str) -> Locator:
    """The line of a job, once it has that status."""
    found = seen.find(f"#jobs-list li[data-status={status}]").filter(has_text=name)
    await found.wait_for()
    return found


async def held_up(reply: Reply) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_without_jobs_the_page_says_what_to_switch_on(browser: Browser, fake: FakeEngine) -> None:
    async with fronted(fake) as front, visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        assert "--jobs" in await seen.text("#jobs-off")
        assert await seen.find("#jobs-on").is_hidden()
        assert not [path for path in seen.asked if path.startswith("/v1/jobs")]


async def test_recordings_become_jobs_and_their_texts_are_those_of_the_api(page: Visit, front: RunningProxy) -> None:
    await page.find("#jobs-none").wait_for()
    await give(page, "morning.wav", "evening.wav")
    await line(page, "evening.wav", "completed")
    job = await line(page, "morning.wav", "completed")
    assert "done, 0:03 of sound" in await job.inner_text()
    async with aiohttp.ClientSession(url_of(front)) as app:
        async with app.get("/v1/jobs") as answer:
            (identifier,) = [each["id"] for each in (await answer.json())["data"] if each["name"] == "morning.wav"]
        for label, wanted, ending in (
            ("Text", "text", "txt"),
            ("JSON", "json", "json"),
            ("SRT", "srt", "srt"),
            ("WebVTT", "vtt", "vtt"),
        ):
            async with page.page.expect_download() as download:
                await job.get_by_role("button", name=f"{label} morning.wav").click()
            saved = await download.value
            async with app.get(f"/v1/jobs/{identifier}/result", params={"format": wanted}) as answer:
                assert (await saved.path()).read_bytes() == await answer.read()
            assert saved.suggested_filename == f"morning.{ending}"


async def test_a_recording_that_is_dropped_there_is_a_job_with_what_was_chosen(page: Visit, fake: FakeEngine) -> None:
    await page.verdict("insecure")
    await page.find("#language").fill("de")
    await page.find("#jobs-words").check()
    await page.drop("dropped.wav", b"RIFF sound", "#jobs-drop")
    await line(page, "dropped.wav", "completed")
    content = bytes(fake.received[-1].content)
    assert b'"language"\r\n\r\nde' in content
    assert b"\r\n\r\nword\r\n" in content
    assert await page.find("#transcript").is_hidden()


async def test_an_upload_tells_how_far_it_is_and_can_be_stopped(page: Visit, front: RunningProxy) -> None:
    session = await page.page.context.new_cdp_session(page.page)
    await session.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 500_000}
    await session.send("Network.emulateNetworkConditions", slow)
    await page.find("#jobs-files").set_input_files(recording("long.wav", bytes(10_000_000)))
    await page.until("document.querySelector('#jobs-uploads progress')?.value > 0")
    state = await page.text("#jobs-uploads p")
    assert state.startswith("is being sent")
    assert state.endswith("of 10.0 MB")
    await page.find("#jobs-uploads button").click()
    await page.until("!document.querySelector('#jobs-uploads li')")
    await page.until("document.activeElement.id === 'jobs-title'")
    async with aiohttp.ClientSession(url_of(front)) as app, app.get("/v1/jobs") as answer:
        assert (await answer.json())["data"] == []
    assert await page.find("#jobs-fault").is_hidden()


async def test_a_job_is_cancelled_and_deleted_for_good(page: Visit, fake: FakeEngine) -> None:
    fake.scripts.append(Script(play=held_up))
    await give(page, "morning.wav")
    job = await line(page, "morning.wav", "processing")
    assert "is being heard: 0 %" in await job.inner_text()
    await job.get_by_role("button", name="Cancel morning.wav").click()
    job = await line(page, "morning.wav", "cancelled")
    await job.get_by_role("button", name="Delete morning.wav").click()
    await job.get_by_role("button", name="Delete for good morning.wav").click()
    await page.find("#jobs-none").wait_for()
    await page.until("document.activeElement.id === 'jobs-title'")


async def test_delete_asks_again_once_somebody_has_gone_elsewhere(page: Visit) -> None:
    await give(page, "morning.wav")
    job = await line(page, "morning.wav", "completed")
    await job.get_by_role("button", name="Delete morning.wav").click()
    await page.find("#jobs-choose").focus()
    assert await job.get_by_role("button", name="Delete for good").count() == 0


async def test_a_job_that_failed_says_why(page: Visit, fake: FakeEngine) -> None:
    fake.scripts.append(refusing(400, "unsupported_file"))
    await give(page, "noise.bin")
    assert "failed: Nothing can be heard in the file." in await (await line(page, "noise.bin", "failed")).inner_text()


async def test_what_the_proxy_refuses_is_said(browser: Browser, front: RunningProxy) -> None:
    async with opened(browser, front) as seen:
        await seen.find("#jobs-speakers").check()
        await give(seen, "morning.wav")
        await seen.find("#jobs-fault").filter(has_text="The engine has no diarize.").wait_for()


async def test_a_recording_beyond_the_limit_is_not_sent(
    browser: Browser, fake: FakeEngine, settings: dict[str, Any]
) -> None:
    async with fronted(fake, **settings, jobs_max_file_bytes=9) as front, opened(browser, front) as seen:
        await give(seen, "morning.wav")
        await seen.find("#jobs-fault").filter(has_text="morning.wav is larger than").wait_for()
        async with aiohttp.ClientSession(url_of(front)) as app, app.get("/v1/jobs") as answer:
            assert (await answer.json())["data"] == []


async def test_a_recording_that_is_too_large_to_be_waited_for_is_sent_to_the_jobs(page: Visit, tmp_path: Path) -> None:
    await page.verdict("insecure")
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(26_214_401)
    await page.find("#file").set_input_files(tmp_path / "long.wav")
    await page.find("#fault").filter(has_text="drop it below").wait_for()


async def test_jobs_that_somebody_else_made_or_deleted_are_seen_without_a_reload(
    page: Visit, front: RunningProxy
) -> None:
    await page.find("#jobs-none").wait_for()
    data = aiohttp.FormData()
    data.add_field("file", b"RIFF sound", filename="elsewhere.wav")
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    async with aiohttp.ClientSession(url_of(front)) as app:
        async with app.post("/v1/jobs", data=data) as answer:
            job = (await answer.json())["id"]
        await page.page.evaluate(again)
        await line(page, "elsewhere.wav", "completed")
        async with app.delete(f"/v1/jobs/{job}") as answer:
            assert answer.status == 204
    await page.page.evaluate(again)
    await page.find("#jobs-none").wait_for()


async def test_older_jobs_are_shown_when_asked_for(page: Visit, front: RunningProxy) -> None:
    async with aiohttp.ClientSession(url_of(front)) as app:
        for number in range(21):
            data = aiohttp.FormData()
            data.add_field("file", b"RIFF sound", filename=f"number-{number}.wav")
            async with app.post("/v1/jobs", data=data) as answer:
                assert answer.status == 201
    await page.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await page.find("#jobs-older").click()
    await page.find("#jobs-list li").filter(has_text="number-0.wav").wait_for()
    names = [text.partition("\n")[0] for text in await page.find("#jobs-list li").all_inner_texts()]
    assert names == [f"number-{number}.wav" for number in reversed(range(21))]
    assert await page.find("#jobs-older").is_hidden()


async def test_a_proxy_that_has_ended_is_missed_and_found_again(browser: Browser, front: RunningProxy) -> None:
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    async with opened(browser, front) as seen:
        await seen.find("#jobs-none").wait_for()
        await seen.page.route("**/v1/jobs?*", lambda route: route.abort())
        await seen.page.evaluate(again)
        await seen.find("#jobs-away").filter(has_text="does not answer").wait_for()
        await seen.page.unroute("**/v1/jobs?*")
        await seen.page.evaluate(again)
        await seen.find("#jobs-away").wait_for(state="hidden")


async def test_an_account_shows_its_key_and_the_engine_never_sees_it(
    browser: Browser, fake: FakeEngine, settings: dict[str, Any], tmp_path: Path
) -> None:
    places = places_of(JobsOptions(jobs_dir=settings["jobs_dir"], jobs_key=settings["jobs_key"]), {})
    async with kept(places) as store:
        await store.accounts.put_plan(PlanTerms("plan"))
        account = await store.accounts.add("acme", "plan")
        _, key = await store.accounts.add_key(account.id, "key")
    (tmp_path / "token").write_text("t0ken")
    more = {"jobs_accounts": True, "token": f"@{tmp_path / 'token'}"}
    async with fronted(fake, **settings, **more) as front, visit(browser, url_of(front)) as seen:
        for label, secret in (("Token of this proxy", "t0ken"), ("Key of your account at this proxy", key)):
            await seen.find("#secret-label").filter(has_text=label).wait_for()
            await seen.find("#secret").fill(secret)
            await seen.page.keyboard.press("Enter")
        await seen.find("#jobs-none").wait_for()
        await give(seen, "morning.wav")
        await line(seen, "morning.wav", "completed")
    assert key not in repr(fake.received)
    assert "t0ken" not in repr(fake.received)


async def test_jobs_can_be_had_from_the_keyboard(page: Visit, fake: FakeEngine) -> None:
    keyboard = page.page.keyboard

    async def tab_to(text: str) -> None:
        for _ in range(60):
            await keyboard.press("Tab")
            if (await page.page.evaluate("document.activeElement.textContent")).startswith(text):
                return
        raise AssertionError(f"no way to {text}")

    gate = asyncio.Event()

    async def slowly(reply: Reply) -> Any:
        await gate.wait()
        return await verbose(reply)

    fake.scripts.append(Script(play=slowly))
    await tab_to("Choose files")
    await keyboard.press("Enter")
    await until(lambda: page.choosers)
    await page.choosers[0].set_files(recording("morning.wav"))
    await line(page, "morning.wav", "processing")
    await tab_to("Cancel")
    gate.set()
    await line(page, "morning.wav", "completed")
    # Whoever was in the line is still in it.
    await page.until("document.activeElement.textContent === 'Text morning.wav'")
    await page.until("document.querySelector('#announcer').textContent.startsWith('morning.wav: done')")
    async with page.page.expect_download():
        await keyboard.press("Enter")
    await tab_to("Delete")
    await keyboard.press("Enter")
    await page.until("document.querySelector('#announcer').textContent.startsWith('Press again')")
    await keyboard.press("Enter")
    await page.find("#jobs-none").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 900])
async def test_axe_finds_nothing_among_jobs(
    browser: Browser, fake: FakeEngine, front: RunningProxy, scheme: str, width: int
) -> None:
    fake.scripts.extend([Script(play=verbose), refusing(400, "unsupported_file"), Script(play=held_up)])
    async with opened(browser, front, color_scheme=scheme, viewport={"width": width, "height": 900}) as seen:
        for name, status in (("morning.wav", "completed"), ("noise.bin", "failed"), ("long.wav", "processing")):
            await give(seen, name)
            await line(seen, name, status)
        await seen.find("#jobs-speakers").check()
        await give(seen, "refused.wav")
        await seen.find("#jobs-fault").wait_for()
        assert await seen.violations() == []
        assert await seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
