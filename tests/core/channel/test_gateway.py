"""What the two ends agree on, as it stands in the documents and on the wire."""

from __future__ import annotations

import json
import re

import pytest

from core.channel.gateway import (
    AUTHORITY,
    DIGEST_PATTERN,
    OUTER_REQUEST_HEADERS,
    OUTER_RESPONSE_HEADERS,
    REQUEST_HEADERS,
    SINGLE_HEADERS,
    OuterStatus,
    gateway_path,
    is_released,
    problem,
    request_id,
)
from core.channel.keyconfig import GatewayKey

DRAWN = bytes(range(16))


def test_the_outside_of_every_message_is_a_constant() -> None:
    assert AUTHORITY == "sottovoce.invalid"
    assert OUTER_REQUEST_HEADERS == {"Content-Type": "message/ohttp-chunked-req", "Accept": "message/ohttp-chunked-res"}
    assert OUTER_RESPONSE_HEADERS == {
        "Content-Type": "message/ohttp-chunked-res",
        "Incremental": "?1",
        "Cache-Control": "private, no-store",
        "X-Accel-Buffering": "no",
        "Server": "sottovoce",
    }


def test_a_request_goes_to_the_digest_of_its_key() -> None:
    digest = GatewayKey.generate(()).config.path_digest
    assert gateway_path(digest) == f"/ohttp/{digest}"
    assert re.fullmatch(DIGEST_PATTERN, digest)


@pytest.mark.parametrize("status", set(OuterStatus) - {OuterStatus.SEALED})
def test_every_refusal_has_its_problem(status: OuterStatus) -> None:
    told = json.loads(problem(status))
    if status is OuterStatus.KEY_MISMATCH:
        assert told["type"] == "https://iana.org/assignments/http-problem-types#ohttp-key"
    else:
        assert (told["type"], told["status"]) == ("about:blank", status)


def test_only_accept_may_be_repeated() -> None:
    assert set(REQUEST_HEADERS) - SINGLE_HEADERS == {"accept"}
    assert "content-encoding" in SINGLE_HEADERS


@pytest.mark.parametrize("name", ["allow", "content-type", "x-ratelimit-remaining-requests", "openai-processing-ms"])
def test_a_named_header_reaches_an_application(name: str) -> None:
    assert is_released(name)


@pytest.mark.parametrize("name", ["set-cookie", "content-length", "server", "x-rate", "location", "ratelimit-limit"])
def test_no_other_header_does(name: str) -> None:
    assert not is_released(name)


@pytest.mark.parametrize("offered", ["a", "A-z_0", "x" * 64])
def test_a_harmless_request_id_is_kept(offered: str) -> None:
    assert request_id(offered, DRAWN) == offered


@pytest.mark.parametrize("offered", [None, "", "x" * 65, "a b", "ä", "a\n", "a.b"])
def test_any_other_request_id_is_replaced(offered: str | None) -> None:
    assert request_id(offered, DRAWN) == "req_000102030405060708090a0b0c0d0e0f"
