"""How is a service of the guest's own asked? Over loopback or a Unix socket, for no longer than a deadline.

Such an agent has the drivers of processor and GPUs, and a container has not. It is asked anew for every answer, over a
connection of its own: it may have been restarted, and what it said before then says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from pydantic import ConfigDict, TypeAdapter

from attestation.errors import FetchError
from core.errors import OversizeError
from core.program import strictjson
from core.program.http.client import read_bounded
from core.program.validation import validate

T = TypeVar("T")

DEADLINE_S = 25.0
"""For one answer, so that it ends before a collection does."""
CONNECT_S = 5.0
MAX_ANSWER_BYTES = 2 * 1024 * 1024
"""Eight GPUs and four switches take some 170 KiB, a quote with its event log some 100."""

LENIENT = ConfigDict(strict=True, extra="ignore")
"""For members around evidence, to which agents add from version to version; evidence is judged by its signatures."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent answered, whatever its status."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Agent:
    """A service of the guest.

    name: what messages call it. url: what paths are added to. open_session: makes the session that one answer is had
    over. absent: what is to be done where nobody answers.
    """

    name: str
    url: str
    open_session: Callable[[], aiohttp.ClientSession]
    absent: str
    deadline_s: float = DEADLINE_S

    async def ask(
        self, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer to a GET, or with a body to a POST of it as JSON. Raises FetchError."""
        method = "GET" if body is None else "POST"
        try:
            async with (
                asyncio.timeout(self.deadline_s),
                self.open_session() as session,
                session.request(method, self.url + path, params=query, json=body, allow_redirects=False) as response,
            ):
                return Answer(response.status, await read_bounded(response.content, MAX_ANSWER_BYTES))
        except aiohttp.ClientConnectorError as exc:
            raise FetchError(f"{self.name}: {self.absent}") from exc
        except TimeoutError as exc:
            raise FetchError(f"{self.name} did not answer in time") from exc
        except OversizeError as exc:
            raise FetchError(f"{self.name}: {exc}") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise FetchError(f"{self.name}: no answer ({type(exc).__name__})") from exc

    def read(self, adapter: TypeAdapter[T], body: bytes) -> T:
        """JSON as the adapter's type. Raises FetchError naming every fault."""
        try:
            value: Any = strictjson.loads(body, max_bytes=MAX_ANSWER_BYTES)
            return validate(adapter, value)
        except ValueError as exc:
            raise FetchError(f"{self.name}: {exc}") from exc
