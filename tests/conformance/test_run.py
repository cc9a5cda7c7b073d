"""The runner passes the shipped engine, through real sockets, and finds what is planted in a broken one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from attestation.statement import Statement
from core.channel import ohttp, records
from core.channel.bhttp import RequestDecoder
from core.channel.kdf import expand
from core.channel.kem import Kem
from core.channel.ohttp import RequestOpener, ResponseSealer
from core.channel.records import _cut as cut
from core.errors import ChannelError
from core.program.http.listener import Address, listening
from engine.gateway import gateway, inbox, outer
from engine.gateway.outer import outer_error
from engine.gateway.replay import ReplaySet
from tests.conformance import run
from tests.conformance.http import Origin
from tests.conformance.run import Gateway, Profile, Verdict, main, outcomes, request_vectors
from tests.conformance.serving import engine_at


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with engine_at(tmp_path) as address:
        yield address


async def failures(url: str, only: str = "", profile: Profile = Profile.SOTTOVOCE) -> dict[str, str]:
    """What did not pass, and why; something must have been tried."""
    tried = [outcome async for outcome in outcomes(Gateway(Origin(url), profile), only)]
    assert tried
    return {outcome.id: outcome.detail for outcome in tried if outcome.verdict is not Verdict.PASS}


@pytest.mark.parametrize("profile", Profile)
async def test_the_shipped_engine_passes(url: str, profile: Profile) -> None:
    assert await failures(url, profile=profile) == {}


async def test_most_vectors_ask_for_no_more_than_the_specifications() -> None:
    assert len(request_vectors(Profile.OHTTP)) > len(request_vectors(Profile.SOTTOVOCE)) / 2


Plant = Callable[[pytest.MonkeyPatch], None]


def _replays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplaySet, "claim", lambda _, enc: True)


def _cut_bodies(patch: pytest.MonkeyPatch) -> None:
    """The end of the body is taken for the end of the message."""
    whole = RequestOpener._open_final

    def lenient(self: Any) -> bytes:
        return whole(self) if self._state.name == "FINAL" or not self.authenticated else b""

    patch.setattr(RequestOpener, "_open_final", lenient)


def _lengths(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestOpener, "_check_length", lambda self, length: None)


def _padding(patch: pytest.MonkeyPatch) -> None:
    def skip(self: Any) -> bool:
        self._offset = len(self._buffer)
        return False

    patch.setattr(RequestDecoder, "_read_padding", skip)


def _statuses(patch: pytest.MonkeyPatch) -> None:
    """Every refusal is the same."""
    patch.setattr(gateway, "outer_error", lambda status: outer_error(400))


def _chatty(patch: pytest.MonkeyPatch) -> None:
    """A refusal says which it is."""
    numbers = count()

    def told(status: int) -> web.Response:
        return web.Response(status=status, text=f"no. {next(numbers)}")

    patch.setattr(gateway, "outer_error", told)


def _endless(patch: pytest.MonkeyPatch) -> None:
    """An answer has no final chunk."""
    patch.setattr(ResponseSealer, "seal_final", ResponseSealer.seal)


def _other_keys(patch: pytest.MonkeyPatch) -> None:
    """An answer is sealed under another label than the draft's."""
    patch.setattr(ohttp, "expand", lambda prk, info, length: expand(prk, info + b"'", length))


def _strangers(patch: pytest.MonkeyPatch) -> None:
    """A request for somebody else is served."""
    patch.setattr(inbox, "SCHEME", Anything())
    patch.setattr(inbox, "AUTHORITY", Anything())


class Anything(str):
    """Equal to every string."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def _twice(patch: pytest.MonkeyPatch) -> None:
    """A header may stand twice."""
    patch.setattr(inbox, "SINGLE_HEADERS", frozenset())


def _any_fault(patch: pytest.MonkeyPatch) -> None:
    """What is wrong with the key is told as anything else is."""
    patch.setattr(outer, "_FAULTS", tuple((kind, 400, reason) for kind, _, reason in outer._FAULTS))


def _any_padding(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the padding of a live frame."""

    def lenient(plain: bytes) -> Iterator[tuple[int, bytes]]:
        try:
            yield from cut(plain)
        except ChannelError as exc:
            if "padding" not in str(exc):
                raise

    patch.setattr(records, "_cut", lenient)


def numbered(group: str, *numbers: int) -> set[str]:
    return {f"{group}/{number:02}" for number in numbers}


KEY_FAULTS = numbered("request/key", *range(1, 29))
PLANTED: dict[str, tuple[Plant, str, set[str]]] = {
    "replays are served": (_replays, "request/replay", numbered("request/replay", 1, 2, 3, 4, 7)),
    "what is cut is served": (_cut_bodies, "request/cut", numbered("request/cut", 11, 12, 13)),
    "chunks may have any size": (_lengths, "request/length", numbered("request/length", 1, 2, 3, 8, 9, 10, 11)),
    "padding may be anything": (_padding, "binary-http", {"binary-http/036", "binary-http/037"}),
    "every refusal has the same status": (_statuses, "request/key", KEY_FAULTS),
    "a fault of the key is one of the envelope": (_any_fault, "request/key", KEY_FAULTS - {"request/key/27"}),
    "every refusal says something else": (_chatty, "request/cut", numbered("request/cut", *range(2, 17))),
    "an answer does not end": (_endless, "request/served", numbered("request/served", *range(1, 24))),
    "an answer has other keys": (_other_keys, "request/served", numbered("request/served", *range(1, 24))),
    "requests for others are served": (_strangers, "request/inner", numbered("request/inner", 19, 20, 21, 22)),
    "a header may stand twice": (_twice, "request/inner", numbered("request/inner", 13, 14, 15, 16)),
    "padding of a live frame may be anything": (_any_padding, "live/record", {"live/record/01"}),
}


@pytest.mark.parametrize("fault", PLANTED)
async def test_a_planted_fault_is_found(url: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, only, expected = PLANTED[fault]
    plant(monkeypatch)
    assert set(await failures(url, only)) == expected


# --- the command


async def told(*arguments: str) -> int:
    return await asyncio.to_thread(main, arguments)


async def test_the_command_tells_each_vector_and_ends_with_0(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "outcomes.json"
    assert await told("--gateway", url, "--only", "request/served", "--json", str(file)) == 0
    outcomes = json.loads(file.read_text())
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith("pass request/served/")]
    assert len(said) == len(outcomes) == 23
    assert {outcome["verdict"] for outcome in outcomes} == {"pass"}
    assert lines[-1] == "23 passed, 0 failed, 0 skipped, profile sottovoce, format 1"


async def test_the_command_ends_with_1_where_one_failed(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _replays(monkeypatch)
    assert await told("--gateway", url, "--only", "request/replay/01") == 1
    assert "FAIL request/replay/01" in capsys.readouterr().out


async def test_nothing_tried_is_nothing_passed(url: str) -> None:
    assert await told("--gateway", url, "--only", "no such vector") == 1


@pytest.mark.parametrize("body", [b"", b"no keys"])
async def test_the_command_ends_with_2_where_there_are_no_keys(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async def keys(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/ohttp-keys")

    app = web.Application()
    app.router.add_get("/.well-known/ohttp-gateway", keys)
    async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
        assert await told("--gateway", f"http://{address}") == 2
    assert "its keys cannot be had" in capsys.readouterr().err


async def test_a_gateway_without_post_quantum_keys_is_not_asked_for_them(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "Kem", [Kem.X25519_HKDF_SHA256])
    assert await told("--gateway", url, "--only", "request/post-quantum") == 1
    assert "skip request/post-quantum/01" in capsys.readouterr().out


async def test_another_target_may_answer_with_any_status(url: str) -> None:
    assert await told("--gateway", url, "--path", "/v1/nothing", "--only", "request/served") == 0


async def test_what_serves_no_live_sessions_is_not_asked_for_them(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Statement, "live_keys", ())
    assert await told("--gateway", url, "--only", "live/served/01") == 1
    assert "skip live/served/01" in capsys.readouterr().out
