"""Which routes there are, and what is said where jobs are switched off."""

from __future__ import annotations

from collections import Counter

import aiohttp
import pytest

from core.program.http.listener import Address, listening
from proxy.dialects.audiototext.routes import PATHS
from proxy.dialects.desk import Desk
from proxy.dialects.mount import mounted
from proxy.dialects.off import OFF
from proxy.dialects.scriptivox.paths import ROUTES
from proxy.local.endpoints import constant_refusal
from tests.proxy.dialects.conftest import CAN_ALL, application, serving
from tests.proxy.dialects.fakes import KEY, SESSION, FakeAccounts, FakeAnswers, FakeClock, FakeJobs, FakeUploads


@pytest.mark.parametrize(
    ("method", "path"),
    [*((route.method, route.path) for route in ROUTES), *((way, path) for path, way in PATHS.items())],
)
async def test_without_jobs_each_route_says_in_its_words_how_they_are_switched_on(method: str, path: str) -> None:
    app, where = application(("*", path, handler) for path, handler in OFF.items()), (Address("127.0.0.1", 0),)
    async with (
        listening(app, where, error_response=constant_refusal) as bound,
        aiohttp.ClientSession() as client,
        client.request(method, f"http://{bound[0]}{path.replace('{id}', 'x')}") as answer,
    ):
        told = await answer.json()
    code, message = (
        (told["error"], told["message"]) if path in PATHS else (told["error"]["code"].lower(), told["error"]["message"])
    )
    assert (answer.status, code) == (404, "not_found")
    assert "--jobs" in message


def test_no_two_routes_are_the_same_method_at_the_same_path() -> None:
    clock = FakeClock()
    accounts = FakeAccounts()
    desk = Desk(FakeJobs(clock), FakeUploads(clock, accounts), accounts, FakeAnswers(), clock, b"")
    assert max(Counter((method, path) for method, path, _ in mounted(desk)).values()) == 1


def shown(authorization: str, key: str) -> dict[str, str]:
    return {"Authorization": authorization, "X-Api-Key": key}


@pytest.mark.parametrize("path", ["/v1/balance", "/api/v1/languages/", "/v1/me"])
async def test_where_authorization_is_the_proxys_own_keys_come_in_the_other_header(path: str) -> None:
    async with serving(CAN_ALL, authorization_is_ours=True) as apis:
        assert (await apis.ask("GET", path, key=None, headers=shown("Bearer local token", KEY))).status == 200
        assert (await apis.ask("GET", path, key=None, headers=shown(f"Bearer {KEY}", "wrong"))).status == 401
        assert (await apis.ask("GET", path, key=KEY)).status == 401


@pytest.mark.parametrize(("path", "status"), [("/v1/balance", 401), ("/api/v1/languages/", 401), ("/v1/api-keys", 200)])
async def test_of_a_session_and_a_key_the_one_in_authorization_counts(path: str, status: int) -> None:
    async with serving(CAN_ALL) as apis:
        both = shown(f"Bearer {SESSION}", KEY)
        assert (await apis.ask("GET", path, key=None, headers=both)).status == status
        other_way_round = await apis.ask("GET", path, key=None, headers=shown(f"Bearer {KEY}", SESSION))
        assert other_way_round.status == (403 if path == "/v1/api-keys" else 200)
