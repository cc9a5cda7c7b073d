"""Is a sentence heard? The recording that comes with the program, through the engine, as an app would send it.

`sentence.ogg` is the beginning of `examples/kennedy.flac`, in the public domain; `examples/README.md` says more.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Final

from multidict import CIMultiDict

from core.channel.gateway import request_id
from proxy.doctor.findings import Finding, fail, ok, skip, warn
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed.courier import AppRequest, Courier

SAID: Final = (
    "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
)
_BOUNDARY: Final = "sottovoce-doctor"
_HEARD_WELL: Final = 0.5
"""Share of the words."""
_LONGEST_S: Final = 300.0

_CURES: Final[dict[str, str]] = {
    ErrorCode.ATTESTATION_REFUSED: "see the checks above",
    ErrorCode.TIMEOUT: "the engine is too slow or too busy: look at its metrics",
    ErrorCode.ENGINE_UNAVAILABLE: "the engine takes no work now: look at its /readyz and its log",
    ErrorCode.UPSTREAM_PROTOCOL_ERROR: "something between alters what is sent: look at what forwards to the engine",
    ErrorCode.UPSTREAM_KEY_MISMATCH: "several engines stand behind one name: route /ohttp/{digest} to its owner",
    ErrorCode.STREAM_TRUNCATED: "something between ends answers early: raise its time limits",
}


async def hear(courier: Courier, model: str, *, has_api_key: bool) -> Finding:
    """Have the sentence transcribed by `model`. has_api_key: whether there is one to send."""
    try:
        async with asyncio.timeout(_LONGEST_S):
            status, body = await _asked(courier, model)
    except TimeoutError:
        return fail("test sentence", f"no answer within {_LONGEST_S:.0f} s", _CURES[ErrorCode.TIMEOUT])
    except ProxyError as exc:
        cure = _CURES.get(exc.code, "look at the log of the engine")
        return fail("test sentence", f"{exc.code}: {exc.row.sentence}".format_map(exc.numbers), cure)
    if status == 401 and not has_api_key:
        return skip("test sentence", "the engine asks for an API key", "give one with --api-key @FILE to try it")
    if status == 401:
        return fail(
            "test sentence", "the engine does not know the API key", "ask its operator for one that is in force"
        )
    if status != 200:
        return fail("test sentence", f"the engine answers {status}: {_code(body)}", "docs/openai.md explains the code")
    return _judged(model, body)


async def _asked(courier: Courier, model: str) -> tuple[int, bytes]:
    body = _form(model)
    pieces = iter([body, b""])

    async def read() -> bytes:
        return next(pieces, b"")

    request = AppRequest(
        request_id=request_id(None, secrets.token_bytes(16)),
        method="POST",
        path="/v1/audio/transcriptions",
        headers=CIMultiDict({"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}),
        content_length=len(body),
        read=read,
    )
    async with courier.carrying(await courier.accept(request), request) as delivery:
        return delivery.status, delivery.body if isinstance(delivery.body, bytes) else await _joined(delivery.body)


async def _joined(events: AsyncIterator[bytes]) -> bytes:
    return b"".join([event async for event in events])


def _form(model: str) -> bytes:
    recording = files("proxy.doctor").joinpath("sentence.ogg").read_bytes()
    parts = (
        ('name="model"', model.encode()),
        ('name="response_format"', b"json"),
        ('name="file"; filename="sentence.ogg"', recording),
    )
    written = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (_BOUNDARY.encode(), head.encode(), value)
        for head, value in parts
    ]
    return b"".join((*written, b"--%s--\r\n" % _BOUNDARY.encode()))


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return "without a code"


def _judged(model: str, body: bytes) -> Finding:
    try:
        text = str(json.loads(body)["text"])
    except (ValueError, LookupError, TypeError):
        return fail("test sentence", "the answer is no transcript", "look at the version of the engine")
    said, heard = _words(SAID), _words(text)
    found = (said & heard).total()
    told = f"{model} heard {found} of {said.total()} words"
    if found < _HEARD_WELL * said.total():
        cure = "the model may be too small, or not for English; the way there and back is in order"
        return warn("test sentence", told, cure)
    return ok("test sentence", told)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z']+", text.lower()))
