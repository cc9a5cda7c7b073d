"""Clocks of either side jump while requests go on: a right answer, or one clear error until they agree again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.app import EngineParts
from engine.backends.choose import Backend
from proxy.sender import ProxyParts
from tests.e2e.conftest import TEXT, Whole, whole_path
from tests.engine.fakes import FakeDecoder, FakeTranscriber, scripted

HOUR_S = 3_600.0
NOW_S = 1_800_000_000.0


@dataclass
class Clock:
    now_s: float = NOW_S

    def unix(self) -> float:
        return self.now_s

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)


async def is_answered(whole: Whole) -> bool:
    """Whether it is; else it is one clear error, and nothing was heard."""
    before = len(whole.transcriber.heard)
    reply = await whole.transcribe(language="en")
    if reply.status == 200:
        assert TEXT.encode() in reply.body
        return True
    assert reply.error_code in {"attestation_refused", "no_attested_engine", "upstream_key_mismatch"}
    assert len(whole.transcriber.heard) == before
    return False


@pytest.mark.parametrize("jump_s", [-48 * HOUR_S, -HOUR_S, HOUR_S, 48 * HOUR_S])
@pytest.mark.parametrize("whose", ["engine", "proxy", "both"])
async def test_after_a_jump_requests_are_answered_or_refused_and_answered_when_clocks_agree(
    tmp_path: Path, whose: str, jump_s: float
) -> None:
    of_engine, of_proxy = Clock(), Clock()
    transcriber = FakeTranscriber(script=scripted(TEXT))
    parts = EngineParts(backend=Backend(transcriber), decoder=FakeDecoder(), clock=of_engine.unix, key_timer_s=0.01)
    proxy_parts = ProxyParts(clock=of_proxy.utc)
    async with whole_path(tmp_path, transcriber, parts, proxy_parts=proxy_parts) as whole:
        assert await is_answered(whole)
        jumping = {"engine": [of_engine], "proxy": [of_proxy], "both": [of_engine, of_proxy]}[whose]
        for clock in jumping:
            clock.now_s += jump_s
        answered = [await is_answered(whole) for _ in range(3)]
        assert answered == [answered[0]] * 3
        if whose == "both":
            assert answered[0]
        for clock in (of_engine, of_proxy):
            clock.now_s = max(of_engine.now_s, of_proxy.now_s) + HOUR_S
        assert await is_answered(whole)
