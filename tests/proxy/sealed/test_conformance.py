"""An app gets what the vectors of answers say, or an error, through real sockets."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from core.channel.ohttp import RESPONSE_MEDIA_TYPE
from tests.conformance.files import read
from tests.conformance.recipes import Sealed, seal_answer, seal_request
from tests.proxy.fake_engine import FakeEngine, Reply, Script

# The proxy seals with AES-256-GCM, under a key of its own.
VECTORS = [vector for vector in read("answers")["vectors"] if vector["aead"] == 2]


def answered_by(vector: dict[str, Any]) -> Script:
    """Answers with the bytes of a vector, sealed to the request that came."""

    async def play(reply: Reply) -> web.StreamResponse:
        secret = reply._opener._response
        assert secret is not None
        request = Sealed(b"", {}, secret.aead, secret.enc, secret.secret)
        if "request_ephemeral" in vector:  # sealed in answer to another one
            request = seal_request({"message": []}, reply._opener._keys[0].config)
        response = web.Response(body=seal_answer(vector, request), headers={"Content-Type": RESPONSE_MEDIA_TYPE})
        await response.prepare(reply._request)
        await response.write_eof()
        return response

    return Script(play=play)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
async def test_an_answer_reaches_the_app_or_is_an_error(
    engine: FakeEngine, app: aiohttp.ClientSession, vector: dict[str, Any]
) -> None:
    engine.default = answered_by(vector)
    async with app.get("/v1/models") as response:
        status, body = response.status, await response.read()
    if vector["expect"]["verdict"] == "refused":
        assert status == 502
        assert json.loads(body)["error"]["code"] in ("stream_truncated", "upstream_protocol_error")
        assert b"hello" not in body
    else:
        opened = vector["expect"]["opened"]
        assert (status, body.hex()) == (opened["head"]["status"], opened["content"])


def test_both_kinds_are_tried() -> None:
    assert {vector["expect"]["verdict"] for vector in VECTORS} == {"accepted", "refused"}
