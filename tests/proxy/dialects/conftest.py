"""The job APIs over jobs in memory, on a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from core.program.http.listener import Address, listening
from proxy.dialects.desk import Desk
from proxy.dialects.mount import mounted
from proxy.dialects.off import Route
from proxy.jobs.model import Capabilities
from proxy.local.endpoints import constant_refusal, continue_later
from tests.proxy.dialects.fakes import KEY, FakeAccounts, FakeAnswers, FakeClock, FakeJobs, FakeUploads

CAN_ALL = Capabilities(words=True, diarize=True, summary=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Apis:
    """The server, what is behind it, and a client."""

    url: str
    client: aiohttp.ClientSession
    clock: FakeClock
    jobs: FakeJobs
    uploads: FakeUploads
    accounts: FakeAccounts
    answers: FakeAnswers

    async def ask(
        self, method: str, path: str, *, key: str | None = KEY, headers: Mapping[str, str] | None = None, **given: Any
    ) -> Answer:
        shown = {"Authorization": key} if key is not None else {}
        url = path if path.startswith("http") else f"{self.url}{path}"
        async with self.client.request(method, url, headers={**shown, **(headers or {})}, **given) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def serving(can: Capabilities, **limits: Any) -> AsyncIterator[Apis]:
    clock = FakeClock()
    jobs, accounts, answers = FakeJobs(clock), FakeAccounts(), FakeAnswers()
    uploads = FakeUploads(clock, accounts)
    jobs.answers = answers
    desk = Desk(
        jobs, uploads, accounts, answers, clock, b"k" * 32, can=lambda: can, deposit_url="https://pay.example", **limits
    )
    async with (
        listening(application(mounted(desk)), (Address("127.0.0.1", 0),), error_response=constant_refusal) as bound,
        aiohttp.ClientSession() as client,
    ):
        yield Apis(f"http://{bound[0]}", client, clock, jobs, uploads, accounts, answers)


def application(routes: Iterable[Route]) -> web.Application:
    app = web.Application(client_max_size=1024)
    for method, path, handler in routes:
        app.router.add_route(method, path, handler, expect_handler=continue_later)
    return app


@pytest.fixture
async def apis() -> AsyncIterator[Apis]:
    async with serving(CAN_ALL) as served:
        yield served
