"""Does a gateway do what the vectors say? `python -m tests.conformance.run --gateway URL`; see docs/conformance.md.

It fetches the gateway's key configuration, seals what the vectors describe with fresh keys, sends it, and judges what
comes back. Exit codes: 0 all passed, 1 some failed, 2 the gateway could not be asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import WSMsgType

from attestation.document import WELL_KNOWN_PATH, parse_document
from attestation.errors import AttestationError
from attestation.statement import parse_statement
from core.channel import varint
from core.channel.bhttp import End, ResponseDecoder, ResponseHead
from core.channel.gateway import OUTER_REQUEST_HEADERS, WELL_KNOWN_GATEWAY_PATH, live_path
from core.channel.hpke import NT, Opener
from core.channel.kem import Kem
from core.channel.keyconfig import KEYS_MEDIA_TYPE, KeyConfig, decode_key_configs
from core.channel.live import DOWN_BYTES, SERVER_NONCE_BYTES, decode_response_head
from core.channel.ohttp import RESPONSE_MEDIA_TYPE
from core.channel.records import FrameReader, HeadRecord
from core.errors import ChannelError
from tests.conformance.files import read
from tests.conformance.http import NoResponseError, Origin, Response
from tests.conformance.recipes import DEFAULT_AEAD, LiveCall, Sealed, Target, Vector, kem_of, seal_live, seal_request

KEY_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#ohttp-key"
_CLOSED: Final = "the connection ended without an answer"


class Profile(StrEnum):
    """What a gateway is asked for: the specifications alone, or all of ours."""

    OHTTP = "ohttp"
    SOTTOVOCE = "sottovoce"


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a vector. detail: why it failed or was skipped."""

    id: str
    says: str
    verdict: Verdict
    detail: str = ""


class KeysError(Exception):
    """The gateway's key configuration cannot be had, or cannot be used."""


@dataclass(slots=True)
class Gateway:
    """A gateway that is asked, and what is expected of it. any_status: of inner answers."""

    origin: Origin
    profile: Profile = Profile.SOTTOVOCE
    target: Target = field(default_factory=Target)
    any_status: bool = False
    resource: str = WELL_KNOWN_GATEWAY_PATH
    _constant: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    async def keys(self) -> dict[int, KeyConfig]:
        """The key configurations to seal to, by their KEM. Raises KeysError."""
        try:
            response = await self.origin.send("GET", self.resource, {"Accept": KEYS_MEDIA_TYPE})
            if (response.status, response.media_type) != (200, KEYS_MEDIA_TYPE):
                raise KeysError(f"it answers {response.status} {response.media_type!r} when asked for its keys")
            configs = decode_key_configs(response.body)
        except (NoResponseError, OSError, TimeoutError, ChannelError) as exc:
            raise KeysError(f"its keys cannot be had: {str(exc) or type(exc).__name__}") from exc
        return _by_kem(configs)

    async def request(self, vector: Vector, config: KeyConfig) -> str:
        """Why a request was not answered as it should be; nothing where it was."""
        sealed = seal_request(vector, config, self.target)
        fault = await self._sent(vector, sealed, sealed.wire, config)
        for again in vector.get("again", ()):
            repeated = {"http": vector.get("http", {})} | again
            wire = sealed.again(vector | again)
            fault = fault or await self._sent(repeated, sealed, wire, config)
        return fault

    async def _sent(self, vector: Vector, sealed: Sealed, wire: bytes, config: KeyConfig) -> str:
        http = vector.get("http", {})
        path = http.get("path", self.resource).format(digest=config.path_digest)
        headers = {**OUTER_REQUEST_HEADERS, **http.get("headers", {})}
        framing = {"framing": http.get("framing", "length"), "declares": http.get("declares")}
        try:
            response = await self.origin.send("POST", path, headers, wire, **framing)
        except (NoResponseError, ConnectionError):
            closed = self.profile is Profile.OHTTP and vector["expect"]["verdict"] == "refused"
            return "" if closed else _CLOSED
        except TimeoutError:
            return "no answer in time"
        return self._judged(vector["expect"], response, sealed)

    def _judged(self, expect: Vector, response: Response, sealed: Sealed) -> str:
        try:
            status = opened(response, sealed) if response.status == 200 else None
        except ChannelError as exc:
            return f"its answer does not open: {exc}"
        if expect["verdict"] == "accepted":
            return self._judged_accepted(expect, response, status)
        if self.profile is Profile.OHTTP:
            return "" if 400 <= (status or response.status) < 600 else "it was accepted"
        return self._judged_refused(expect, response, status)

    def _judged_accepted(self, expect: Vector, response: Response, status: int | None) -> str:
        if status is None:
            return f"it was refused with {response.status}"
        wanted = None if self.any_status or self.profile is Profile.OHTTP else expect.get("status")
        return "" if wanted in (None, status) else f"the answer inside is {status}, not {wanted}"

    def _judged_refused(self, expect: Vector, response: Response, status: int | None) -> str:
        if response.status != expect["outer"]:
            return f"it was answered {response.status}, not {expect['outer']}"
        if response.status == 200:
            return "" if status == expect["status"] else f"the answer inside is {status}, not {expect['status']}"
        said = (response.media_type, response.body)
        if self._constant.setdefault(response.status, said) != said:
            return f"two refusals with {response.status} are not alike"
        if response.status == 422 and KEY_PROBLEM.encode() not in response.body:
            return "the refusal does not say that it is one of the key"
        return ""

    async def live_keys(self) -> dict[int, KeyConfig]:
        """The keys of live sessions, out of a statement that nobody verified. Raises KeysError."""
        try:
            response = await self.origin.send("GET", f"{WELL_KNOWN_PATH}?nonce={'00' * 32}", {})
            configs = parse_statement(parse_document(response.body).statement).live_keys
        except (NoResponseError, OSError, TimeoutError, AttestationError) as exc:
            raise KeysError("it has no statement that could be read") from exc
        if not configs:
            raise KeysError("it serves no live sessions")
        return _by_kem(configs)

    async def live(self, vector: Vector, config: KeyConfig) -> str:
        """Why a live session did not go as it should; nothing where it did."""
        call = seal_live(vector, config)
        fault = await self._called(vector["expect"], call, config)
        for again in vector.get("again", ()):
            fault = fault or await self._called(again["expect"], call, config)
        return fault

    async def _called(self, expect: Vector, call: LiveCall, config: KeyConfig) -> str:
        url = self.origin.url.rstrip("/") + live_path(config.path_digest)
        try:
            async with (
                asyncio.timeout(self.origin.timeout_s),
                aiohttp.ClientSession() as session,
                session.ws_connect(url, max_msg_size=0) as socket,
            ):
                received = await _conversation(socket, call, wait=expect["verdict"] == "accepted")
                code = socket.close_code
        except (aiohttp.ClientError, ConnectionError) as exc:
            return f"there was no session: {type(exc).__name__}"
        except TimeoutError:
            return "it was not closed in time"
        if code != expect["close"]:
            return f"it was closed with {code}, not {expect['close']}"
        try:
            return _heard(received, call, answered=expect["verdict"] == "accepted")
        except ChannelError as exc:
            return f"its frames do not open: {exc}"


def _by_kem(configs: Sequence[KeyConfig]) -> dict[int, KeyConfig]:
    """The first of each KEM that the vectors are for."""
    found = {config.kem: config for config in reversed(configs) if config.kem in {*Kem}}
    if not found:
        raise KeysError(f"it has no key of a KEM that the vectors are for: {', '.join(f'{kem:#06x}' for kem in Kem)}")
    return found


def opened(response: Response, sealed: Sealed) -> int:
    """The status inside of a sealed answer, all of which has opened. Raises ChannelError."""
    if response.media_type != RESPONSE_MEDIA_TYPE:
        raise ChannelError(f"it is of type {response.media_type!r}")
    if not response.complete:
        raise ChannelError("it is cut")
    decoder = ResponseDecoder()
    events = [event for chunk in _chunks(response.body, sealed) for event in decoder.feed(chunk)] + decoder.finish()
    heads = [event for event in events if isinstance(event, ResponseHead)]
    if not heads or not any(isinstance(event, End) for event in events):
        raise ChannelError("it has no head")
    return heads[-1].status


def _chunks(body: bytes, sealed: Sealed) -> Iterator[bytes]:
    at = sealed.nonce_bytes
    opener = Opener(*sealed.answer_keys(body[:at]))
    while (prefix := varint.decode(body, at)) is not None:
        length, at = prefix
        if length == 0:
            yield opener.open(body[at:], b"final")
            return
        if length <= NT or at + length > len(body):
            raise ChannelError("a chunk is cut, or empty")
        yield opener.open(body[at : at + length])
        at += length
    raise ChannelError("its final chunk is missing")


async def _conversation(socket: aiohttp.ClientWebSocketResponse, call: LiveCall, *, wait: bool) -> list[bytes]:
    """Send all messages; what came down until the end. wait: for the first one down, before the second one goes up."""
    first, *others = call.messages if wait else (*call.messages, call.farewell)
    await socket.send_bytes(first)
    answer = [await socket.receive()] if wait else []
    with suppress(ConnectionError):  # who refuses a session may be gone before all of it was said
        for message in others:
            await socket.send_bytes(message)
    return [message.data for message in [*answer, *[each async for each in socket]] if message.type is WSMsgType.BINARY]


def _heard(messages: Sequence[bytes], call: LiveCall, *, answered: bool) -> str:
    """What is wrong with the messages down; answered: whether there must be a head."""
    if not messages:
        return "there was no answer" if answered else ""
    reader = FrameReader(DOWN_BYTES)
    opener = call.down_opener(messages[0][:SERVER_NONCE_BYTES])
    records = reader.read(opener.open(messages[0][SERVER_NONCE_BYTES:], b"down"))
    for frame in messages[1:]:
        reader.read(opener.open(frame, b"down"))
    match records:
        case [HeadRecord(data), *_]:
            decode_response_head(data)
            return ""
    return "its answer has no head"


def request_vectors(profile: Profile) -> list[dict[str, Any]]:
    """What is sent as requests."""
    inside = [vector for vector in read("binary_http")["vectors"] if vector["direction"] == "request"]
    both = [*read("requests")["vectors"], *inside]
    return [vector for vector in both if profile is Profile.SOTTOVOCE or vector["profile"] == Profile.OHTTP]


async def outcomes(gateway: Gateway, only: str = "") -> AsyncIterator[Outcome]:
    """Try every vector whose id starts with `only`. Raises KeysError."""
    configs = await gateway.keys()
    for vector in request_vectors(gateway.profile):
        if vector["id"].startswith(only):
            yield await _tried(vector, configs, gateway.request)
    sessions = [vector for vector in read("live")["vectors"] if vector["id"].startswith(only)]
    if gateway.profile is not Profile.SOTTOVOCE or not sessions:
        return
    try:
        live_configs = await gateway.live_keys()
    except KeysError as exc:
        for vector in sessions:
            yield Outcome(vector["id"], vector["says"], Verdict.SKIP, str(exc))
        return
    for vector in sessions:
        yield await _tried(vector, live_configs, gateway.live)


async def _tried(
    vector: Vector, configs: Mapping[int, KeyConfig], trial: Callable[[Vector, KeyConfig], Awaitable[str]]
) -> Outcome:
    kem, aead = kem_of(vector), vector.get("aead", DEFAULT_AEAD)
    if (config := configs.get(kem)) is None:
        return Outcome(vector["id"], vector["says"], Verdict.SKIP, f"it has no key of KEM {kem:#06x}")
    if aead not in {each for _, each in config.suites}:
        return Outcome(vector["id"], vector["says"], Verdict.SKIP, f"it does not offer AEAD {aead:#06x}")
    fault = await trial(vector, config)
    return Outcome(vector["id"], vector["says"], Verdict.FAIL if fault else Verdict.PASS, fault)


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    target = Target(given.method, given.scheme, given.authority, given.path)
    gateway = Gateway(
        Origin(given.gateway, given.timeout),
        Profile(given.profile),
        target,
        any_status=given.any_status or target != Target(),
        resource=given.resource,
    )
    try:
        return asyncio.run(_report(gateway, given.only, given.json))
    except KeysError as exc:
        sys.stderr.write(f"{given.gateway}: {exc}\n")
        return 2


async def _report(gateway: Gateway, only: str, json_file: Path | None) -> int:
    all_: list[Outcome] = []
    async for outcome in outcomes(gateway, only):
        all_.append(outcome)
        detail = f": {outcome.detail}" if outcome.detail else ""
        sys.stdout.write(f"{outcome.verdict:<4} {outcome.id:<22} {outcome.says}{detail}\n")
    counts = {verdict: sum(outcome.verdict is verdict for outcome in all_) for verdict in Verdict}
    summary = f"{counts[Verdict.PASS]} passed, {counts[Verdict.FAIL]} failed, {counts[Verdict.SKIP]} skipped"
    sys.stdout.write(f"\n{summary}, profile {gateway.profile}, format {read('requests')['format']}\n")
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(outcome) for outcome in all_], indent=1) + "\n")
    return 1 if counts[Verdict.FAIL] or not counts[Verdict.PASS] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    parser.add_argument("--gateway", required=True, metavar="URL", help="where the gateway is")
    parser.add_argument("--profile", choices=[*Profile], default=Profile.SOTTOVOCE, help="what it is asked for")
    parser.add_argument("--only", default="", metavar="PREFIX", help="vectors whose id starts with this")
    parser.add_argument(
        "--resource", default=WELL_KNOWN_GATEWAY_PATH, metavar="PATH", help="of the gateway and its keys"
    )
    for name in ("method", "scheme", "authority", "path"):
        default = getattr(Target(), name)
        parser.add_argument(f"--{name}", default=default, help=f"of the requests inside; {default}")
    parser.add_argument("--any-status", action="store_true", help="take any status of an answer inside")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one vector; 30")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
