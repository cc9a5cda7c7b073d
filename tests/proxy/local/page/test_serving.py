"""What a browser, or anybody, gets from the URLs of the page."""

from __future__ import annotations

import re
from collections.abc import Callable

import aiohttp
import pytest

from proxy.local.page.serving import page_files
from tests.proxy.conftest import StartProxy, url_of

FILES = page_files()


async def test_every_file_of_the_page_is_served_with_its_type_and_held_to_the_policy(
    app: aiohttp.ClientSession,
) -> None:
    for path, file in FILES.items():
        async with app.get(path) as response:
            assert (response.status, await response.read()) == (200, file.body)
            assert response.headers["Content-Type"] == f"{file.content_type}; charset=utf-8"
            policy = response.headers["Content-Security-Policy"].split("; ")
            assert {"default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} <= set(policy)
            assert not any("unsafe" in rule or "*" in rule or "data:" in rule for rule in policy)
            told = {name: response.headers[name] for name in ("X-Content-Type-Options", "Referrer-Policy")}
            assert told == {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            own = ("Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy")
            assert {response.headers[name] for name in own} == {"same-origin"}
            assert "microphone=(self)" in response.headers["Permissions-Policy"]
            assert response.headers["Cache-Control"] == "no-cache"


async def test_what_a_browser_has_already_is_not_sent_again(app: aiohttp.ClientSession) -> None:
    async with app.get("/page/main.js") as response:
        tag = response.headers["ETag"]
    async with app.get("/page/main.js", headers={"If-None-Match": f'"other", {tag}'}) as response:
        assert (response.status, await response.read(), response.headers["ETag"]) == (304, b"", tag)
    async with app.get("/page/main.js", headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_a_head_tells_the_length_and_other_methods_are_refused(app: aiohttp.ClientSession) -> None:
    async with app.head("/") as response:
        assert (response.status, response.content_length) == (200, len(FILES["/"].body))
    async with app.post("/", data=b"") as response:
        assert response.status == 405


@pytest.mark.parametrize("path", FILES)
async def test_a_proxy_without_its_page_has_none_of_its_files(start_proxy: StartProxy, path: str) -> None:
    async with start_proxy(page=False) as proxy, aiohttp.ClientSession(url_of(proxy)) as session:
        async with session.get(path) as response:
            assert response.status == 404
        async with session.get("/attestation") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Origin": "https://attacker.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "=".join(*headers.items()),
)
async def test_the_page_is_for_this_host_and_its_own_origin(
    app: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with app.get("/", headers=headers) as response:
        assert response.status == 403
        assert "Content-Security-Policy" not in response.headers


async def test_the_page_needs_no_token_and_what_it_asks_does(
    start_proxy: StartProxy, secret_file: Callable[[str], str]
) -> None:
    async with start_proxy(token=secret_file("t")) as proxy, aiohttp.ClientSession(url_of(proxy)) as session:
        for path, status in {
            **dict.fromkeys(FILES, 200),
            "/attestation": 401,
            "/v1/models": 401,
            "/page/": 401,
        }.items():
            async with session.get(path) as response:
                assert (path, response.status) == (path, status)


def test_every_file_that_is_named_is_there_and_none_is_left_over() -> None:
    named = {"/"}
    for path, file in FILES.items():
        text = file.body.decode()
        named |= set(re.findall(r'(?:href="|src="|addModule\(")(/[^"]*)"', text))
        named |= {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', text) if path.endswith(".js")}
    assert named == set(FILES)


def test_no_id_that_the_modules_ask_for_is_missing() -> None:
    ids = re.findall(r' id="([^"]+)"', FILES["/"].body.decode())
    assert len(set(ids)) == len(ids)
    for path, file in FILES.items():
        if path.endswith(".js"):
            asked = re.findall(r'(?:byId|show)\("([^"]+)"', file.body.decode())
            assert (path, set(asked) - set(ids)) == (path, set())
