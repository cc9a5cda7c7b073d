"""The page in Debian's Chromium, in front of a real engine and of one that answers by script."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Route

from attestation.insecure import WARNING
from core.transcript import captions
from core.transcript.types import Segment
from proxy.app import RunningProxy
from tests.e2e.conftest import TRANSCRIPTIONS, form
from tests.e2e.processes import RECORDING, SAID
from tests.e2e.test_live import live_path
from tests.e2e.test_live_text import SECRET, service
from tests.proxy.conftest import url_of
from tests.proxy.fake_engine import (
    DELTA,
    DONE,
    DONE_EVENT,
    SSE_HEADERS,
    TRANSCRIPT,
    FakeEngine,
    Reply,
    Script,
    cut_stream,
)
from tests.proxy.local.page.browser import MICROPHONE, Visit, chromium, visit
from tests.proxy.local.page.conftest import fronted
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

REST = b'data: {"type":"transcript.text.delta","delta":" brown fox"}\n\n'
RESULTS = {"pass": "passed", "fail": "failed", "skip": "not made"}
TIMED = {
    "text": "the quick brown fox",
    "segments": [{"start": 0.0, "end": 2.0, "text": " the quick brown fox"}],
    "words": [
        {"word": word, "start": start, "end": start + 0.5}
        for word, start in zip(TRANSCRIPT.split(), (0.0, 0.5, 1.0, 1.5), strict=True)
    ],
}


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeEngine]:
    """An engine that answers by script: a stream where it is asked for one, else an answer with times."""
    async with FakeEngine().running() as running:
        running.default = Script(play=whatever_is_asked)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def front(fake: FakeEngine) -> AsyncIterator[RunningProxy]:
    async with fronted(fake) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, front: RunningProxy) -> AsyncIterator[Visit]:
    """The page before the fake engine; a test that expects no fault in the console need not look."""
    async with visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        yield seen
        assert seen.faults == []


@pytest_asyncio.fixture(loop_scope="module")
async def real(browser: Browser, real_url: str) -> AsyncIterator[Visit]:
    """The page before the real engine."""
    async with visit(browser, real_url, permissions=["clipboard-read", "clipboard-write"]) as seen:
        await seen.verdict("insecure")
        yield seen
        assert seen.faults == []


async def whatever_is_asked(reply: Reply) -> web.StreamResponse:
    if b'name="stream"' in reply.received.content:
        await reply.head(200, SSE_HEADERS)
        for event in (DELTA, REST, DONE_EVENT, DONE):
            await reply.event(event)
        return await reply.end()
    await reply.head()
    await reply.content(json.dumps(TIMED).encode())
    return await reply.end()


def sent(fake: FakeEngine) -> int:
    return sum(received.complete for received in fake.received)


async def checks(seen: Visit) -> set[tuple[str, ...]]:
    """The lines of the list: name, result and detail of each check."""
    lines = await seen.find("#checks-list li").all()
    return {
        tuple([str(await line.locator(part).text_content()) for part in (".name", ".result", ".detail")])
        for line in lines
    }


# --- Is the engine attested, and why?


async def test_every_check_is_told_in_words_and_that_development_evidence_proves_nothing(
    real: Visit, real_url: str
) -> None:
    async with aiohttp.ClientSession() as session, session.get(real_url + "/attestation") as response:
        report = await response.json()
    told = {(check["name"], RESULTS[check["status"]], check["detail"]) for check in report["engine"]["checks"]}
    lifetime = {line for line in told if line[0] == "lifetime"}  # its detail counts seconds
    assert (told - lifetime) <= await checks(real)
    assert len(await checks(real)) == len(told)
    assert await real.text("#verdict") == "The engine is believed, not proven."
    assert await real.text("#verdict-warning") == WARNING


async def test_an_attested_engine_is_said_to_be_and_until_when(browser: Browser, front: RunningProxy) -> None:
    async def without_warning(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, json=await response.json() | {"insecure": False, "warning": None})

    async with visit(browser, "about:blank") as seen:
        await seen.page.route("**/attestation", without_warning)
        await seen.page.goto(url_of(front))
        await seen.verdict("attested")
        assert await seen.text("#verdict") == "The engine is attested."
        assert "in force until" in await seen.text("#verdict-why")
        assert await seen.find("#verdict-warning").is_hidden()


async def test_a_refused_engine_is_said_to_be_with_the_reason_and_gets_nothing(
    browser: Browser, fake: FakeEngine
) -> None:
    fake.config_changes["log_level"] = "debug"
    async with fronted(fake) as front, visit(browser, url_of(front)) as seen:
        await seen.verdict("refused")
        assert await seen.text("#verdict") == "The engine is refused."
        first = seen.find("#checks-list li").first
        assert [await first.locator(part).inner_text() for part in (".name", ".result")] == ["log level", "failed"]
        assert await seen.find("#choose").is_disabled()
        assert await seen.find("#record").is_disabled()
        await seen.drop("a.wav", RECORDING.read_bytes())
        await seen.until("document.querySelector('#announcer').textContent.includes('Recordings stay here')")
        assert await seen.find("#transcript").is_hidden()
        assert (fake.received, seen.faults) == ([], [])


async def test_what_becomes_of_the_engine_is_seen_without_a_reload(browser: Browser, fake: FakeEngine) -> None:
    fake.attestation_failures.extend([503] * 1000)
    async with fronted(fake) as front, visit(browser, url_of(front)) as seen:
        await seen.until("document.querySelector('#verdict').textContent.includes('cannot be reached')")
        assert await seen.find("#choose").is_disabled()
        fake.attestation_failures.clear()
        await until(lambda: front.trust.is_ready)
        await seen.verdict("insecure")
        assert await seen.find("#choose").is_enabled()


async def test_a_proxy_that_has_ended_is_missed(browser: Browser, fake: FakeEngine) -> None:
    async with fronted(fake) as front, visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.page.route("**/attestation", lambda route: route.abort())
        await seen.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await seen.verdict("waiting")
        assert await seen.text("#verdict-why") == "The proxy does not answer."


async def test_the_attestation_can_be_kept(real: Visit) -> None:
    await real.find("#checks-summary").click()
    async with real.page.expect_download() as download:
        await real.find("#bundle").click()
    kept = await download.value
    assert kept.suggested_filename == "sottovoce-attestation.json"
    assert json.loads((await kept.path()).read_bytes())


# --- Recordings in, transcripts out


async def test_the_text_streams_in(page: Visit, fake: FakeEngine) -> None:
    gate = asyncio.Event()

    async def slowly(reply: Reply) -> web.StreamResponse:
        await reply.head(200, SSE_HEADERS)
        await reply.event(DELTA)
        await gate.wait()
        for event in (REST, DONE_EVENT, DONE):
            await reply.event(event)
        return await reply.end()

    fake.scripts.append(Script(play=slowly))
    await page.give()
    await page.find("#transcript[aria-busy]").wait_for()
    await page.until("document.querySelector('#text').textContent === 'the quick'")
    assert await page.find("#text").get_attribute("aria-live") == "polite"
    gate.set()
    await page.done()
    assert await page.text("#text") == TRANSCRIPT


async def test_a_stream_that_breaks_off_is_said_to_have(
    browser: Browser, fake: FakeEngine, front: RunningProxy
) -> None:
    fake.scripts.append(Script(play=cut_stream))
    async with visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.give()
        await seen.find("#fault").wait_for()
        assert await seen.text("#fault") == "The answer ended before its authenticated end."
        assert await seen.text("#text") == "the quick"
        assert await seen.find("#results").is_hidden()


async def test_stop_stops_the_engine(page: Visit, fake: FakeEngine) -> None:
    async def never(reply: Reply) -> web.StreamResponse:
        await reply.head(200, SSE_HEADERS)
        await reply.event(DELTA)
        await asyncio.Event().wait()
        raise AssertionError

    fake.scripts.append(Script(play=never))
    await page.give()
    await page.until("document.querySelector('#text').textContent === 'the quick'")
    await page.find("#cancel").click()
    await fake.cancelled.wait()
    await page.until("document.querySelector('#progress-text').textContent === 'Stopped.'")


async def test_the_next_recording_takes_the_place_of_one_that_is_being_heard(page: Visit, fake: FakeEngine) -> None:
    async def never(reply: Reply) -> web.StreamResponse:
        await reply.head(200, SSE_HEADERS)
        await reply.event(b'data: {"type":"transcript.text.delta","delta":"the first"}\n\n')
        await asyncio.Event().wait()
        raise AssertionError

    gate = asyncio.Event()

    async def late(reply: Reply) -> web.StreamResponse:
        await gate.wait()
        return await whatever_is_asked(reply)

    fake.scripts.extend([Script(play=never), Script(play=late)])
    await page.give()
    await page.until("document.querySelector('#text').textContent === 'the first'")
    await page.drop("second.wav", RECORDING.read_bytes())
    await fake.cancelled.wait()
    await until(lambda: sent(fake) == 2)
    assert (await page.text("#progress-text")).startswith("Sealing and sending: second.wav")
    assert await page.find("#cancel").is_visible()
    gate.set()
    await page.done()
    assert await page.text("#text") == TRANSCRIPT


async def test_a_whole_answer_that_breaks_off_is_said_to_have(
    browser: Browser, fake: FakeEngine, front: RunningProxy
) -> None:
    async with visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.page.route("**/v1/**", lambda route: route.fulfill(body='{"text": "the qui'))
        await seen.give(timed=True)
        await seen.find("#fault").wait_for()
        assert "broke off" in await seen.text("#fault")
        assert await seen.find("#results").is_hidden()


async def test_a_dropped_file_is_transcribed(real: Visit) -> None:
    await real.drop("dropped.wav", RECORDING.read_bytes())
    await real.done()
    assert await real.text("#text") == SAID
    assert (await real.text("#progress-text")).startswith("dropped.wav: 8 words")


async def test_the_language_and_the_model_are_sent(page: Visit, fake: FakeEngine) -> None:
    await page.find("#language").fill("de")
    await page.give()
    await page.done()
    content = bytes(fake.received[-1].content)
    assert b'name="language"\r\n\r\nde\r\n' in content
    assert b'name="model"\r\n\r\nwhisper-fake\r\n' in content


async def test_a_recording_beyond_the_limit_is_not_sent(page: Visit, fake: FakeEngine, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(26_214_401)
    await page.give(large)
    await page.find("#fault").wait_for()
    assert "larger than 25 MiB" in await page.text("#fault")
    assert fake.received == []


async def test_what_is_recorded_is_transcribed_and_the_microphone_is_let_go(real_url: str) -> None:
    heard = f"--use-file-for-fake-audio-capture={RECORDING}"
    async with chromium(*MICROPHONE, heard) as browser, visit(browser, real_url) as seen:
        await seen.page.evaluate(
            """() => {
                const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
                navigator.mediaDevices.getUserMedia = async (wanted) => (globalThis.stream = await ask(wanted));
            }"""
        )
        await seen.verdict("insecure")
        assert not await seen.page.evaluate("'stream' in globalThis")
        await seen.find("#record").click()
        await seen.until("document.querySelector('#clock').textContent >= '0:05'")
        await seen.find("#record").click()
        await seen.done()
        assert set((await seen.text("#text")).split()) & set(SAID.split())
        assert await seen.page.evaluate("stream.getTracks().map(({ readyState }) => readyState)") == ["ended"]
        assert seen.faults == []


async def test_a_recording_can_be_stopped_and_waits_while_the_engine_is_away(fake: FakeEngine) -> None:
    async with fronted(fake) as front, chromium(*MICROPHONE) as browser, visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.find("#record").click()
        await seen.find("#record[aria-pressed=true]").wait_for()
        await seen.page.route("**/attestation", lambda route: route.abort())
        await seen.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await seen.verdict("waiting")
        await seen.find("#record").click()
        await seen.find("#record[aria-pressed=false]").wait_for()
        await seen.find("#record:disabled").wait_for()
        assert fake.received == []
        await seen.page.unroute("**/attestation")
        await seen.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await seen.done()
        assert await seen.text("#text") == TRANSCRIPT


async def test_without_a_microphone_the_page_says_so(page: Visit) -> None:
    await page.find("#record").click()
    await page.until("document.querySelector('#closed').textContent.includes('gives no microphone')")
    assert await page.text("#record") == "Record"


# --- Live: words while they are said

KEEP_STREAM = """() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => (globalThis.stream = await ask(wanted));
    globalThis.going = [];
    const keep = () => going.push(document.querySelector(".going-on")?.textContent);
    new MutationObserver(keep).observe(document.querySelector("#text"), { subtree: true, childList: true });
}"""
ENDED = "stream.getTracks().map(({ readyState }) => readyState)"


@pytest.mark.behaviour(49)
async def test_what_is_said_appears_and_the_microphone_is_let_go(real_url: str) -> None:
    heard = f"--use-file-for-fake-audio-capture={RECORDING}"
    async with chromium(*MICROPHONE, heard) as browser, visit(browser, real_url) as seen:
        await seen.page.evaluate(KEEP_STREAM)
        await seen.verdict("insecure")
        await seen.find("#live").click()
        await seen.find("#live[aria-pressed=true]").wait_for()
        await seen.until("going.some((text) => text)")
        assert await seen.violations() == []
        await seen.find("#live").click()
        await seen.find("#live[aria-pressed=false]").wait_for()
        assert set((await seen.text("#text")).split()) & set(SAID.split())
        assert await seen.find(".going-on").count() == 0
        assert await seen.text("#progress-text") == "The session has ended."
        assert await seen.page.evaluate(ENDED) == ["ended"]
        assert seen.faults == []
        await seen.give()
        await seen.done()
        assert await seen.text("#text") == SAID


async def test_a_recording_takes_the_place_of_a_live_session(real_url: str) -> None:
    async with chromium(*MICROPHONE) as browser, visit(browser, real_url) as seen:
        await seen.page.evaluate(KEEP_STREAM)
        await seen.verdict("insecure")
        await seen.find("#live").click()
        await seen.find("#live[aria-pressed=true]").wait_for()
        await seen.give()
        await seen.done()
        assert await seen.text("#text") == SAID
        await seen.find("#live[aria-pressed=false]").wait_for()
        assert await seen.page.evaluate(ENDED) == ["ended"]


async def test_a_session_that_breaks_off_is_said_to_have(fake: FakeEngine) -> None:
    async with fronted(fake) as front, chromium(*MICROPHONE) as browser, visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.find("#live").click()
        await seen.find("#fault").wait_for()
        assert await seen.text("#fault")
        await seen.find("#live[aria-pressed=false]").wait_for()
        assert await seen.text("#live") == "Live"


async def test_without_a_microphone_there_is_no_live_session(page: Visit) -> None:
    await page.find("#live").click()
    await page.until("document.querySelector('#closed').textContent.includes('gives no microphone')")
    assert await page.text("#live") == "Live"
    assert await page.find("#transcript").is_hidden()


# --- Times: words, subtitles


async def test_a_recording_is_sent_once_more_for_times_and_then_no_more(page: Visit, fake: FakeEngine) -> None:
    await page.give()
    await page.done()
    async with page.page.expect_download():
        await page.find("[data-format=txt]").click()
    assert sent(fake) == 1
    for form_of in ("srt", "vtt", "json"):
        async with page.page.expect_download():
            await page.find(f"[data-format={form_of}]").click()
    assert (sent(fake), await page.words()) == (2, TRANSCRIPT.split())


async def test_with_times_from_the_start_it_is_sent_once(page: Visit, fake: FakeEngine) -> None:
    await page.give(timed=True)
    await page.done()
    async with page.page.expect_download():
        await page.find("[data-format=srt]").click()
    assert (sent(fake), await page.words()) == (1, TRANSCRIPT.split())


async def test_the_words_are_marked_one_after_the_other_while_it_plays(real: Visit) -> None:
    await real.give()
    await real.done()
    await real.find("#mark").click()
    await real.until("document.querySelectorAll('.word').length")
    assert await real.words() == SAID.split()
    await real.page.evaluate(
        """() => {
            globalThis.marked = [];
            new MutationObserver((changes) => marked.push(...changes.map(({ target }) => target)
                .filter((word) => word.hasAttribute("aria-current")).map((word) => word.textContent)),
            ).observe(document.querySelector("#text"), { subtree: true, attributeFilter: ["aria-current"] });
        }"""
    )
    await real.find(".word").first.click()
    await real.until("document.querySelector('#player').ended")
    assert await real.page.evaluate("marked") == SAID.split()


async def test_a_click_on_a_word_plays_from_there(real: Visit) -> None:
    await real.give(timed=True)
    await real.done()
    await real.find(".word").nth(5).click()
    await real.until("document.querySelector('[aria-current]') === document.querySelectorAll('.word')[5]")
    assert await real.page.evaluate("!document.querySelector('#player').paused")


@pytest.mark.parametrize("name", ["txt", "json", "srt", "vtt"])
async def test_a_saved_file_is_what_the_api_answers(real: Visit, real_url: str, name: str) -> None:
    asked = {"txt": "text", "json": "verbose_json"}.get(name, name)
    data = form(RECORDING.read_bytes(), response_format=asked)
    if name == "json":
        for granularity in ("segment", "word"):
            data.add_field("timestamp_granularities[]", granularity)
    async with aiohttp.ClientSession() as session, session.post(real_url + TRANSCRIPTIONS, data=data) as response:
        answer = await response.text()
    await real.give()
    await real.done()
    async with real.page.expect_download() as download:
        await real.find(f"[data-format={name}]").click()
    kept = await download.value
    assert kept.suggested_filename == f"{RECORDING.stem}.{name}"
    text = (await kept.path()).read_text()
    assert (json.loads(text) == json.loads(answer)) if name == "json" else (text == answer)


SEGMENTS = [
    Segment(0.0, 1.0004, " plain"),
    Segment(0.5, 0.6, "overlaps & <b>\n\nbreaks\u2028 --> 1"),
    Segment(0.5, 0.5, ""),
    Segment(0.5, 0.2, "a ---> b"),
    Segment(3599.9996, 3600.0, "carries"),
    Segment(36_000.0, 36_001.5, "late"),
]


async def test_subtitles_are_the_engines_byte_for_byte(page: Visit) -> None:
    segments = [{"start": one.start_s, "end": one.end_s, "text": one.text} for one in SEGMENTS]
    made = await page.page.evaluate(
        """async (segments) => {
            const { srt, vtt } = await import("/page/captions.js");
            return [srt(segments), vtt(segments)];
        }""",
        segments,
    )
    assert made == [captions.srt(SEGMENTS), captions.vtt(SEGMENTS)]


# --- Secrets


@pytest.mark.parametrize("holds_key", [False, True], ids=["token", "token-in-authorization"])
async def test_a_token_is_asked_for_and_never_reaches_the_engine(
    browser: Browser, fake: FakeEngine, tmp_path: Path, holds_key: bool
) -> None:
    for name in ("t0ken", "sk-engine"):
        (tmp_path / name).write_text(name)
    settings = {"token": f"@{tmp_path / 't0ken'}"} | ({"api_key": f"@{tmp_path / 'sk-engine'}"} if holds_key else {})
    async with fronted(fake, **settings) as front, visit(browser, url_of(front)) as seen:
        await seen.find("#access").wait_for()
        await seen.find("#secret").fill("wrong")
        await seen.page.keyboard.press("Enter")
        await seen.find("#verdict-warning").filter(has_text="That token is wrong.").wait_for()
        await seen.find("#secret").fill("t0ken")
        await seen.page.keyboard.press("Enter")
        await seen.verdict("insecure")
        await seen.give()
        await seen.done()
        assert await seen.text("#text") == TRANSCRIPT
        assert ("X-Sottovoce-Token" in await seen.text("#snippet")) is not holds_key
        assert await seen.find("#access").is_hidden()
    (received,) = fake.received
    assert received.head is not None
    assert received.header("authorization") == ("Bearer sk-engine" if holds_key else None)
    assert "t0ken" not in repr(received)


async def test_an_api_key_is_asked_for_where_the_engine_wants_one(
    browser: Browser, fake: FakeEngine, front: RunningProxy
) -> None:
    async def wants_a_key(reply: Reply) -> web.StreamResponse:
        await reply.head(401)
        await reply.content(b'{"error":{"message":"Incorrect API key provided.","code":"invalid_api_key"}}')
        return await reply.end()

    fake.scripts.append(Script(play=wants_a_key))
    async with visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.give()
        await seen.find("#access").wait_for()
        assert await seen.text("#fault") == "Incorrect API key provided."
        await seen.page.keyboard.type("sk-mine")
        await seen.page.keyboard.press("Enter")
        await seen.done()
        assert await seen.text("#text") == TRANSCRIPT
    assert [received.header("authorization") for received in fake.received] == [None, "Bearer sk-mine"]


@pytest.mark.parametrize("holds_key", [False, True], ids=["token", "token-in-authorization"])
async def test_a_live_session_has_the_token_and_its_engine_does_not(tmp_path: Path, holds_key: bool) -> None:
    for name in ("t0ken", "sk-engine"):
        (tmp_path / name).write_text(name)
    settings: dict[str, Any] = {"token": f"@{tmp_path / 't0ken'}"}
    settings |= {"api_key": f"@{tmp_path / 'sk-engine'}"} if holds_key else {}
    async with live_path(tmp_path, **settings) as live, chromium(*MICROPHONE) as browser:
        async with visit(browser, url_of(live.proxy)) as seen:
            await seen.find("#secret").fill("t0ken")
            await seen.page.keyboard.press("Enter")
            await seen.verdict("insecure")
            await seen.find("#live").click()
            await until(lambda: live.hearing.sessions and live.session.heard)
        assert live.session.head.headers.get("authorization") == ("Bearer sk-engine" if holds_key else None)
        assert "t0ken" not in repr(live.session.head)


async def test_a_live_session_asks_for_the_api_key_that_the_engine_wants(tmp_path: Path) -> None:
    async with service(tmp_path) as house, chromium(*MICROPHONE) as browser, visit(browser, house.url) as seen:
        await seen.verdict("insecure")
        await seen.find("#live").click()
        await seen.find("#access").wait_for()
        assert await seen.text("#fault")
        await seen.page.keyboard.type(SECRET)
        await seen.page.keyboard.press("Enter")
        await until(lambda: house.ears.ear.heard)
        await seen.find("#live[aria-pressed=true]").click()
        await seen.find("#live[aria-pressed=false]").wait_for()
        assert await seen.find("#fault").is_hidden()


async def test_nothing_is_kept_in_the_browser(page: Visit) -> None:
    await page.give()
    await page.done()
    kept = """async () => [localStorage.length, sessionStorage.length, document.cookie,
        (await caches.keys()).length, (await indexedDB.databases()).length]"""
    assert await page.page.evaluate(kept) == [0, 0, "", 0, 0]
    await page.page.reload()
    await page.verdict("insecure")
    assert await page.find("#transcript").is_hidden()


async def test_the_page_asks_nobody_but_its_proxy(page: Visit) -> None:
    await page.give()
    await page.done()
    local = [path for path in page.asked if not path.startswith("blob:")]
    assert [path for path in local if not path.startswith("/")] == []


# --- What the browser is told to hold the page to


BREACHES = {
    "script-src-elem": "import('https://a.example/').catch(() => 0)",
    "require-trusted-types-for": "document.body.innerHTML = '<b>text</b>'",
    "trusted-types": "trustedTypes.createPolicy('mine', {})",
    "style-src-attr": "document.body.setAttribute('style', 'color: red')",
    "connect-src": "fetch('https://a.example/').catch(() => 0)",
    "img-src": "new Image().src = 'https://a.example/'",
    "frame-src": "document.body.append(Object.assign(document.createElement('iframe'), { src: '/' }))",
    "base-uri": "document.head.append(Object.assign(document.createElement('base'), { href: 'https://a.example/' }))",
}


@pytest.mark.parametrize("rule", BREACHES)
async def test_the_browser_stops_a_breach_of_each_rule(browser: Browser, front: RunningProxy, rule: str) -> None:
    async with visit(browser, url_of(front)) as seen:
        await seen.verdict("insecure")
        await seen.page.evaluate(
            "addEventListener('securitypolicyviolation', (event) => { globalThis.stopped = event.effectiveDirective })"
        )
        await seen.page.evaluate(f"() => {{ try {{ {BREACHES[rule]}; }} catch {{ }} }}")
        await seen.until("globalThis.stopped")
        assert await seen.page.evaluate("stopped") == rule


# --- Without a mouse, without sight, in the dark


async def test_everything_can_be_done_from_the_keyboard(real: Visit) -> None:
    keyboard = real.page.keyboard

    async def tab_to(selector: str) -> None:
        for _ in range(40):
            await keyboard.press("Tab")
            if await real.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    await tab_to(".skip")
    await tab_to("#checks-summary")
    await keyboard.press("Enter")
    assert await real.find("#checks-list").is_visible()
    await tab_to("#choose")
    await keyboard.press("Enter")
    await until(lambda: real.choosers)
    await real.choosers[0].set_files(RECORDING)
    await real.done()
    await tab_to("#mark")
    await keyboard.press("Enter")
    await real.until("document.activeElement.id === 'text'")
    for word in SAID.split()[:3]:
        await keyboard.press("ArrowRight")
        await real.until(f"document.querySelector('[aria-current]')?.textContent === '{word}'")
        await real.until(f"document.querySelector('#announcer').textContent.startsWith('{word}, at')")
    await keyboard.press("ArrowLeft")
    await real.until(f"document.querySelector('[aria-current]')?.textContent === '{SAID.split()[1]}'")
    await keyboard.press("Space")
    await real.until("document.querySelector('#player').ended")
    await tab_to("[data-format=srt]")
    async with real.page.expect_download():
        await keyboard.press("Enter")
    await tab_to("[name=snippet]")
    await keyboard.press("ArrowRight")
    assert "import OpenAI from" in await real.text("#snippet")
    await tab_to("#copy")
    await keyboard.press("Enter")
    await real.until("document.querySelector('#announcer').textContent === 'Copied.'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 900])
async def test_axe_finds_nothing(browser: Browser, fake: FakeEngine, scheme: str, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    async with fronted(fake) as front, visit(browser, url_of(front), **options) as seen:
        await seen.verdict("insecure")
        assert await seen.violations() == []
        await seen.find("#checks-summary").click()
        await seen.give(timed=True)
        await seen.done()
        await seen.find(".word").first.click()
        await seen.until("document.querySelector('[aria-current]')")
        assert await seen.violations() == []
        assert await seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    fake.config_changes["log_level"] = "debug"
    async with fronted(fake) as front, visit(browser, url_of(front), **options) as seen:
        await seen.verdict("refused")
        assert await seen.violations() == []


async def test_who_wants_no_motion_gets_none(browser: Browser, front: RunningProxy) -> None:
    async with visit(browser, url_of(front), reduced_motion="reduce") as seen:
        await seen.page.evaluate("document.querySelector('#transcript').setAttribute('aria-busy', 'true')")
        await seen.page.evaluate("document.querySelector('#text').append(document.createElement('p'))")
        animation = "getComputedStyle(document.querySelector('#text p'), '::after').animationName"
        assert await seen.page.evaluate(animation) == "none"


async def test_keys_do_nothing_where_no_word_was_said(page: Visit, fake: FakeEngine) -> None:
    async def says_nothing(reply: Reply) -> web.StreamResponse:
        await reply.head()
        await reply.content(json.dumps({"text": "", "segments": [], "words": []}).encode())
        return await reply.end()

    fake.scripts.append(Script(play=says_nothing))
    await page.give(timed=True)
    await page.done()
    for key in ("ArrowRight", "ArrowLeft"):
        await page.find("#text").press(key)


# --- From one's own program


@pytest.mark.parametrize(
    "model", ["it's $(touch ran)`touch ran`; #", 'm", file=print("ran")) #\\', "@/etc/passwd;type=x"]
)
async def test_a_model_is_no_more_than_a_name_in_an_example(page: Visit, tmp_path: Path, model: str) -> None:
    made = "async ([language, model]) => (await import('/page/snippet.js')).snippet(language, model)"
    python, javascript, curl = [
        str(await page.page.evaluate(made, [language, model])) for language in ("python", "javascript", "curl")
    ]
    values = [
        node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.keyword) and node.arg == "model"
    ]
    assert [ast.literal_eval(value) for value in values] == [model]
    assert f"{{ model: {json.dumps(model)}, file }}" in javascript
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", f"curl() {{ printf '%s\\n' \"$@\"; }}\n{curl}", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    words = (await shell.communicate())[0].decode().splitlines()
    assert words[words.index("--form-string") + 1] == f"model={model}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("language", ["python", "curl"])
async def test_the_copied_example_runs(real: Visit, tmp_path: Path, language: str) -> None:
    (tmp_path / "recording.wav").write_bytes(RECORDING.read_bytes())
    await real.find(f"[name=snippet][value={language}]").check(force=True)
    await real.find("#copy").click()
    await real.until("document.querySelector('#copy').textContent === 'Copied'")
    copied = await real.page.evaluate("navigator.clipboard.readText()")
    command = [sys.executable, "-c", copied] if language == "python" else ["sh", "-c", copied]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert (process.returncode, output.decode().strip()) == (0, SAID)
