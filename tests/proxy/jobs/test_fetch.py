"""Recordings are fetched over real sockets, from sites that lie, loop, stall and never end."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.jobs.errors import FailedError, TransientError
from proxy.jobs.fetch import DEFAULT_LIMITS, MAX_REDIRECTS, Limits, LinkFetcher, Resolver
from proxy.jobs.links import LinkError, Refusal
from proxy.jobs.model import FailureKind
from proxy.jobs.outward import LINK_PORTS, Bounds, outward_session
from proxy.jobs.ports import Fetcher
from tests.proxy.certificates import write_certificate
from tests.proxy.jobs.sites import LOOPBACK, name_leads_to, site
from tests.waiting import time_passes, until

RECORDING = b"RIFF" + bytes(range(256)) * 1_000
PUBLIC = Bounds(ports=LINK_PORTS)


@asynccontextmanager
async def fetching(
    bounds: Bounds = LOOPBACK,
    *,
    limits: Limits = DEFAULT_LIMITS,
    resolver: Resolver | None = None,
    silence_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Fetcher]:
    async with outward_session(bounds, silence_s=silence_s, tls=tls) as session:
        yield LinkFetcher(session, limits=limits, resolver=resolver)


async def content_of(fetcher: Fetcher, url: str) -> bytes:
    fetched = await fetcher.fetch(url)
    return b"".join([piece async for piece in fetched.stream()])


async def all_of(pieces: AsyncIterator[bytes], size: int = 0) -> int:
    async for piece in pieces:
        size += len(piece)
    return size


async def failure_of(fetcher: Fetcher, url: str) -> FailedError:
    with pytest.raises(FailedError) as caught:
        await content_of(fetcher, url)
    return caught.value


async def recording(request: web.Request) -> web.StreamResponse:
    return web.Response(body=RECORDING)


async def test_a_recording_comes_as_it_is() -> None:
    async with site(recording) as url, fetching() as fetcher:
        fetched = await fetcher.fetch(f"{url}/a/talk.wav?key=1")
        assert fetched.name == "talk.wav"
        assert b"".join([piece async for piece in fetched.stream()]) == RECORDING


async def test_nothing_of_ours_goes_out_with_the_question() -> None:
    seen: list[dict[str, str]] = []

    async def look(request: web.Request) -> web.Response:
        seen.append({name: value for name, value in request.headers.items() if name != "Host"})
        answer = web.Response(status=302, headers={"Location": "/again"}) if len(seen) == 1 else web.Response(body=b"a")
        answer.set_cookie("tracked", "1")
        return answer

    async with site(look) as url, fetching() as fetcher:
        await content_of(fetcher, f"{url}/a")
    assert (
        seen == [{"User-Agent": "sottovoce", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}] * 2
    )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="Talk.MP3"', "Talk.MP3"),
        ("attachment; filename*=UTF-8''na%C3%AFve.wav", "naïve.wav"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\a.wav"', "a.wav"),
        ('attachment; filename="' + "a" * 400 + '"', "a" * 255),
        ("attachment", "b.wav"),
        ("nonsense;;=", "b.wav"),
    ],
)
async def test_a_name_is_a_name_and_no_path(header: str, name: str) -> None:
    async def named(request: web.Request) -> web.Response:
        return web.Response(body=RECORDING, headers={"Content-Disposition": header})

    async with site(named) as url, fetching() as fetcher:
        fetched = await fetcher.fetch(f"{url}/a/b.wav")
        assert fetched.name == name
        assert [piece async for piece in fetched.stream()]


# --- where a link leads --------------------------------------------------------------------------------------------

FORMS = [
    *("127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "127.1", "127.0.1", "0x7f.1", "0177.0.0.1"),
    *("2130706433", "0x7f000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "①②⑦.⓪.⓪.①"),
    *("169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "metadata.google.internal"),
]


async def everywhere(port_of: list[int], asked: list[str]) -> web.AppRunner:
    """Listens at every address of this machine."""

    async def served(request: web.Request) -> web.Response:
        asked.append(request.host)
        return web.Response(body=RECORDING)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    port_of.append(runner.addresses[0][1])
    with suppress(OSError):  # a machine without IPv6
        await web.TCPSite(runner, "::1", port_of[0]).start()
    return runner


@pytest.mark.parametrize("host", FORMS)
async def test_no_form_of_an_address_leads_inside(host: str) -> None:
    ports: list[int] = []
    asked: list[str] = []
    runner = await everywhere(ports, asked)
    try:
        async with fetching(Bounds()) as fetcher:
            failure = await failure_of(fetcher, f"http://{host}:{ports[0]}/")
    finally:
        await runner.cleanup()
    assert failure.failure.kind is FailureKind.SOURCE_UNREACHABLE
    assert asked == []


INSIDE = ["127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1"]


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_lies_leads_nowhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name_leads_to(monkeypatch, address)
    async with fetching(PUBLIC) as fetcher:
        failure = await failure_of(fetcher, "https://recordings.example.org/talk.mp3")
    assert isinstance(failure, TransientError)
    assert failure.failure.kind is FailureKind.SOURCE_UNREACHABLE


async def test_a_name_is_asked_for_anew_each_time_and_its_answer_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: the first answer is the site, the second is inside."""
    async with site(recording) as url, fetching() as fetcher:
        port = url.rpartition(":")[2]
        name_leads_to(monkeypatch, "127.0.0.1")
        assert await content_of(fetcher, f"http://rebound.example.org:{port}/")
        name_leads_to(monkeypatch, "127.0.0.2")  # reachable, and not what the operator named
        assert (await failure_of(fetcher, f"http://rebound.example.org:{port}/")).failure.kind is (
            FailureKind.SOURCE_UNREACHABLE
        )


async def test_refused_and_unreachable_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fetching() as fetcher:
        closed = await failure_of(fetcher, "http://127.0.0.1:1/")
    async with site(recording) as url, fetching(PUBLIC) as fetcher:
        refused = await failure_of(fetcher, url)
    assert (type(closed), closed.failure) == (type(refused), refused.failure)


@pytest.mark.parametrize("port", [22, 25, 8080, 6379])
async def test_of_public_addresses_only_the_ports_of_the_web_are_asked(port: int) -> None:
    assert not PUBLIC.reachable("1.1.1.1", port)
    assert PUBLIC.reachable("1.1.1.1", 443)
    async with fetching(PUBLIC) as fetcher:
        assert (await failure_of(fetcher, f"http://1.1.1.1:{port}/")).failure.kind is FailureKind.SOURCE_UNREACHABLE


def test_a_network_that_the_operator_names_is_reached_at_any_port_and_no_other_is() -> None:
    bounds = Bounds(networks=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00:1::/32")), ports=(443,))
    assert bounds.reachable("10.1.2.3", 9_000)
    assert bounds.reachable("fd00:1::5", 9_000)
    assert not bounds.reachable("10.2.0.1", 443)
    assert not bounds.reachable("fd00:2::1", 443)
    assert not bounds.reachable("fd00:1::5%eth0", 443)
    assert not Bounds(public=False).reachable("1.1.1.1", 443)


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def proxied(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"from the proxy")

    async with site(proxied) as proxy, site(recording) as url, fetching() as fetcher:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert await content_of(fetcher, url) == RECORDING
    assert asked == []


# --- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        if request.path == "/old":
            return web.Response(status=status, headers={"Location": "new?a=b%2Bc"})
        assert request.query_string == "a=b%2Bc"
        return await recording(request)

    async with site(moved) as url, fetching() as fetcher:
        assert await content_of(fetcher, f"{url}/old") == RECORDING


@pytest.mark.parametrize("target", ["http://127.0.0.2:{}/", "http://[::1]:{}/", "http://127.1:{}/", "//127.0.0.2:{}/"])
async def test_a_redirect_leads_no_further_inside_than_a_link(target: str) -> None:
    ports: list[int] = []
    asked: list[str] = []
    runner = await everywhere(ports, asked)

    async def inside(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target.format(ports[0])})

    try:
        async with site(inside) as url, fetching() as fetcher:
            await failure_of(fetcher, url)
    finally:
        await runner.cleanup()
    assert asked == []


TARGETS = ["", "file:///etc/passwd", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "http://[::1", "gopher://a/"]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_redirect_to_what_is_no_link_fails(target: str) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target} if target else {})

    async with site(away) as url, fetching() as fetcher:
        assert (await failure_of(fetcher, url)).failure.kind is FailureKind.SOURCE_UNREACHABLE


@pytest.mark.parametrize(("redirects", "arrives"), [(MAX_REDIRECTS, True), (MAX_REDIRECTS + 1, False)])
async def test_redirects_come_to_an_end(redirects: int, arrives: bool) -> None:
    asked: list[str] = []

    async def round_and_round(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if len(asked) <= redirects:
            return web.Response(status=302, headers={"Location": f"/{len(asked)}"})
        return await recording(request)

    async with site(round_and_round) as url, fetching() as fetcher:
        if arrives:
            assert await content_of(fetcher, url) == RECORDING
        else:
            await failure_of(fetcher, url)
    assert len(asked) == MAX_REDIRECTS + 1


async def test_a_sealed_connection_is_not_followed_into_an_open_one(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "site")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    async with site(recording) as plain:

        async def down(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": plain})

        app = web.Application()
        app.router.add_get("/", down)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
            url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
            async with fetching(tls=ssl.create_default_context(cafile=str(cert))) as fetcher:
                failure = await failure_of(fetcher, url)
                assert (type(failure), failure.failure.kind) == (FailedError, FailureKind.SOURCE_UNREACHABLE)
            async with fetching() as fetcher:  # that nobody vouches for it is a failure too
                assert isinstance(await failure_of(fetcher, url), TransientError)
        finally:
            await runner.cleanup()


# --- what comes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 410])
async def test_no_recording_fails_for_good(status: int) -> None:
    async def refused(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with site(refused) as url, fetching() as fetcher:
        failure = await failure_of(fetcher, url)
    assert (type(failure), failure.failure.kind) == (FailedError, FailureKind.SOURCE_UNREACHABLE)


@pytest.mark.parametrize(
    ("status", "later", "wait_s"), [(503, "7", 7.0), (429, "99999", 600.0), (500, "soon", None), (502, "²", None)]
)
async def test_a_site_that_is_down_is_asked_again(status: int, later: str, wait_s: float | None) -> None:
    async def down(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": later})

    async with site(down) as url, fetching() as fetcher:
        failure = await failure_of(fetcher, url)
    assert isinstance(failure, TransientError)
    assert failure.retry_after_s == wait_s


PAGES = [
    (b"anything", "text/html; charset=utf-8"),
    (b"anything", "application/xhtml+xml"),
    (b"\n <!DOCTYPE  html><title>Sign in", "audio/mpeg"),
    (b"\xef\xbb\xbf<html>", "application/octet-stream"),
    (b'<?xml version="1.0"?>\n<!DOCTYPE html>', "application/octet-stream"),
]


@pytest.mark.parametrize(("body", "media_type"), PAGES)
async def test_a_page_is_no_recording(body: bytes, media_type: str) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": media_type})

    async with site(page) as url, fetching() as fetcher:
        assert (await failure_of(fetcher, url)).failure.kind is FailureKind.MEDIA_UNREADABLE


async def test_what_is_packed_is_no_recording() -> None:
    async def packed(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})

    async with site(packed) as url, fetching() as fetcher:
        assert (await failure_of(fetcher, url)).failure.kind is FailureKind.MEDIA_UNREADABLE


async def test_a_site_that_gives_attachments_gives_pages_without() -> None:
    async def virus_scan(request: web.Request) -> web.Response:
        return web.Response(body=RECORDING, headers={"Content-Type": "application/octet-stream"})

    async with site(virus_scan) as url, fetching(resolver=Known(url)) as fetcher:
        assert await content_of(fetcher, "https://youtu.be/abc") == RECORDING
    from proxy.jobs.fetch import _check
    from proxy.jobs.links import direct_link

    link = direct_link("https://drive.google.com/file/d/1aBcDeFgHiJkLmNoPqRsTuVwXyZ01/view")
    async with site(virus_scan) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        with pytest.raises(FailedError) as caught:
            _check(response, link, 10**9)
    assert caught.value.failure.kind is FailureKind.MEDIA_UNREADABLE


async def test_what_says_that_it_is_too_large_is_not_read() -> None:
    written = 0

    async def huge(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Length": str(6 << 30)})
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))
            written += 1 << 16

    async with site(huge) as url, fetching() as fetcher:
        with pytest.raises(FailedError) as caught:
            await fetcher.fetch(url)
    assert caught.value.failure.kind is FailureKind.MEDIA_TOO_LARGE
    assert caught.value.failure.numbers == {"limit_bytes": 5 << 30}
    assert written < 64 << 20


async def test_a_plan_may_allow_less_than_the_proxy_does() -> None:
    async with site(recording) as url, fetching() as fetcher:
        with pytest.raises(FailedError) as caught:
            await fetcher.fetch(url, max_bytes=1)
    assert caught.value.failure.numbers == {"limit_bytes": 1}


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 16))


async def test_what_never_ends_is_cut_off_at_the_limit() -> None:
    async with site(endless) as url, fetching(limits=Limits(max_bytes=1_000_000)) as fetcher:
        pieces = (await fetcher.fetch(url)).stream()
        size = len(await anext(pieces))
        with pytest.raises(FailedError) as caught:
            size = await all_of(pieces, size)
    assert caught.value.failure.kind is FailureKind.MEDIA_TOO_LARGE
    assert 0 < size <= 1_000_000


async def test_a_site_that_breaks_off_is_asked_again() -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"RIFF")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with site(broken) as url, fetching() as fetcher:
        failure = await failure_of(fetcher, url)
    assert isinstance(failure, TransientError)
    assert failure.failure.kind is FailureKind.SOURCE_INTERRUPTED


async def test_a_site_that_falls_silent_is_asked_again() -> None:
    gone = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"RIFF")
        await gone.wait()
        return response

    async with site(silent) as url, fetching(silence_s=0.05) as fetcher:
        failure = await failure_of(fetcher, url)
        gone.set()
    assert isinstance(failure, TransientError)
    assert failure.failure.kind is FailureKind.SOURCE_INTERRUPTED


async def test_a_site_that_drips_is_left_when_the_time_is_over() -> None:
    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.001)

    async with site(dripping) as url, fetching(limits=Limits(total_s=1_800.0)) as fetcher:
        fetched = await fetcher.fetch(url)
        async with aclosing(fetched.stream()) as pieces:  # type: ignore[type-var]
            assert await anext(pieces)
            time_passes(2_000.0)
            with pytest.raises(FailedError) as caught:
                await all_of(pieces)
    assert caught.value.failure.kind is FailureKind.DOWNLOAD_TIMEOUT


async def test_a_site_that_never_answers_is_unreachable() -> None:
    gone = asyncio.Event()

    async def mute(request: web.Request) -> web.Response:
        await gone.wait()
        return web.Response()

    async with site(mute) as url, fetching(silence_s=0.05) as fetcher:
        failure = await failure_of(fetcher, url)
        gone.set()
    assert isinstance(failure, TransientError)
    assert failure.failure.kind is FailureKind.SOURCE_UNREACHABLE


async def test_whoever_stops_reading_ends_the_connection() -> None:
    left = asyncio.Event()

    async def watched(request: web.Request) -> web.StreamResponse:
        try:
            return await endless(request)
        finally:
            left.set()

    async with site(watched) as url, fetching() as fetcher:
        pieces = (await fetcher.fetch(url)).stream()
        assert await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        await until(left.is_set)


async def test_no_link_is_logged() -> None:
    with capture_logs() as logs:
        async with site(recording) as url, fetching(PUBLIC) as fetcher:
            await failure_of(fetcher, f"{url}/canary?key=canary")
        async with fetching() as fetcher:
            await failure_of(fetcher, "http://127.0.0.1:1/canary")
    assert logs
    assert "canary" not in str(logs)
    assert "127.0.0.1" not in str(logs)


# --- the operator's command ----------------------------------------------------------------------------------------


class Known:
    """Knows one link, whatever it is asked for."""

    def __init__(self, link: str) -> None:
        self._link = link
        self.asked: list[str] = []

    async def resolve(self, url: str) -> str:
        self.asked.append(url)
        if not self._link:
            raise LinkError(Refusal.PAGE)
        return self._link


async def test_a_link_that_we_do_not_fetch_is_what_the_command_is_asked() -> None:
    async with site(recording) as url:
        known = Known(f"{url}/direct")
        async with fetching(resolver=known) as fetcher:
            assert await content_of(fetcher, "https://youtu.be/abc") == RECORDING
            assert await content_of(fetcher, f"{url}/other") == RECORDING
    assert known.asked == ["https://youtu.be/abc"]


async def test_without_a_command_such_a_link_fails() -> None:
    async with fetching() as fetcher:
        for link in ("https://youtu.be/abc", "https://1drv.ms/u/s!A"):
            failure = await failure_of(fetcher, link)
            assert (type(failure), failure.failure.kind) == (FailedError, FailureKind.SOURCE_UNREACHABLE)


@pytest.mark.parametrize("link", ["", "file:///etc/passwd", "http://127.0.0.2:1/", "http://u@127.0.0.1/"])
async def test_what_the_command_says_leads_no_further_than_a_link(link: str) -> None:
    async with fetching(resolver=Known(link)) as fetcher:
        assert (await failure_of(fetcher, "https://youtu.be/a")).failure.kind is FailureKind.SOURCE_UNREACHABLE


async def test_a_command_is_asked_about_no_folder() -> None:
    known = Known("http://127.0.0.1:1/")
    async with fetching(resolver=known) as fetcher:
        await failure_of(fetcher, "https://drive.google.com/drive/folders/a")
    assert known.asked == []
