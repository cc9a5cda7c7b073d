"""dstack's guest agent at a Unix socket, as its RPC answers over JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from core.program.http.client import USER_AGENT


def scale(report: bytes, *certificates: bytes) -> bytes:
    """A version 0 attestation of SEV-SNP: the report, its certificates, and no more documents than a name."""
    return b"\x00\x03" + b"".join(map(_sized, (report,))) + _sized_list(certificates) + _sized(b'{"version":3}')


def _sized(data: bytes) -> bytes:
    return _compact(len(data)) + data


def _sized_list(items: tuple[bytes, ...]) -> bytes:
    return _compact(len(items)) + b"".join(map(_sized, items))


def _compact(number: int) -> bytes:
    """SCALE's compact integers, as far as two bytes go."""
    return bytes([number << 2]) if number < 64 else (number << 2 | 1).to_bytes(2, "little")


@dataclass
class FakeDstack:
    """The agent of one guest. quote: what TDX answers; without one GetQuote fails, or answers an empty one.

    attest: what `Attest` answers. changed: called with the path and the answer's JSON, to tell lies.
    """

    quote: Callable[[bytes], bytes] | None = None
    attest: Callable[[bytes], bytes] | None = None
    has_empty_quotes: bool = False
    changed: Callable[[str, Any], Any] = lambda _, answer: answer
    raw: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        assert (request.method, request.host, request.content_type) == ("POST", "dstack", "application/json")
        assert request.headers["User-Agent"] == USER_AGENT
        body = json.loads(await request.read())
        assert set(body) == {"report_data"}
        report_data = bytes.fromhex(body["report_data"])
        self.asked.append((request.path, report_data))
        if request.path in self.raw:
            return web.Response(body=self.raw[request.path], content_type="application/json")
        answer = self._answer(request.path, report_data)
        if answer is None:
            return web.json_response({"error": "Failed to get quote: canary"}, status=400)
        return web.json_response(self.changed(request.path, answer))

    def _answer(self, path: str, report_data: bytes) -> dict[str, Any] | None:
        if path == "/GetQuote" and (self.quote is not None or self.has_empty_quotes):
            quote = self.quote(report_data).hex() if self.quote else ""
            log = json.dumps([{"imr": 0, "event_type": 1, "digest": "00" * 48, "event": "", "event_payload": ""}] * 60)
            return {"quote": quote, "event_log": log, "report_data": report_data.hex(), "vm_config": "{}"}
        if path == "/Attest" and self.attest is not None:
            return {"attestation": self.attest(report_data).hex()}
        return None


@asynccontextmanager
async def serving(agent: FakeDstack, path: Path) -> AsyncIterator[Path]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", agent.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(path)).start()
        yield path
    finally:
        await runner.cleanup()
