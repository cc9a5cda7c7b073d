"""The files are what their authors write, and our own code, by pure functions, says of each vector what it should."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import TypeAdapter

from attestation.document import parse_document
from attestation.errors import EvidenceError, PolicyError
from attestation.policy import parse_policy
from attestation.selftest import Case, Suite, run, shipped_suite
from attestation.statement import parse_statement
from attestation.types import StatementBytes
from attestation.verification import is_usable
from core.channel.bhttp import (
    Content,
    End,
    Event,
    RequestDecoder,
    RequestHead,
    ResponseDecoder,
    ResponseHead,
)
from core.channel.hpke import Aead
from core.channel.hpke import Suite as HpkeSuite
from core.channel.kdf import Kdf
from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import GatewayKey, decode_key_config, decode_key_configs
from core.channel.live import UpOpener
from core.channel.ohttp import RequestSealer
from core.errors import ChannelError, KeyMismatchError
from core.transcript.faults import Fault, FaultKind
from engine.gateway.inbox import Inbox, ReplayError
from engine.gateway.keyring import HeldKey
from engine.gateway.replay import ReplaySet
from tests.conformance.authors.answers import request_of
from tests.conformance.files import DIRECTORY, read
from tests.conformance.make import AUTHORS, TRANSPORT, encoded
from tests.conformance.recipes import kem_of, plain, seal_answer, seal_live, seal_request
from tests.engine.gateway.fake_application import FakeApplication, FakeExchange
from tests.places import ROOT

FILES = {name: read(name) for name in AUTHORS}
VECTORS = [(name, vector) for name, figures in FILES.items() for vector in figures["vectors"]]


def of(*names: str) -> list[Any]:
    return [pytest.param(vector, id=vector["id"]) for name, vector in VECTORS if name in names]


# --- the files


@pytest.mark.parametrize("name", AUTHORS)
def test_a_file_is_what_its_author_writes(name: str) -> None:
    assert (DIRECTORY / f"{name}.json").read_text() == encoded(name)


def test_every_file_has_an_author() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == set(AUTHORS)


def test_there_are_enough_vectors_and_each_has_a_name_of_its_own() -> None:
    ids = [vector["id"] for _, vector in VECTORS]
    assert len(set(ids)) == len(ids) >= 250
    assert sum(name in TRANSPORT for name, _ in VECTORS) >= 60


def test_the_document_counts_them() -> None:
    transport = sum(name in TRANSPORT for name, _ in VECTORS)
    assert f"{len(VECTORS)} vectors, {transport} of them of the transport" in (ROOT / "docs/conformance.md").read_text()


@pytest.mark.parametrize("name", AUTHORS)
def test_every_file_is_of_this_format_and_has_both_verdicts(name: str) -> None:
    figures = FILES[name]
    assert figures["format"] == 1
    assert {vector["expect"]["verdict"] for vector in figures["vectors"]} == {"accepted", "refused"}
    assert all("code" in vector["expect"] for vector in figures["vectors"] if vector["expect"]["verdict"] == "refused")


@pytest.mark.parametrize("name", TRANSPORT)
def test_no_two_vectors_of_a_file_are_alike(name: str) -> None:
    said = [vector["says"] for vector in FILES[name]["vectors"]]
    assert len(set(said)) == len(said)


# --- requests


def gateway_key(name: str, vector: Mapping[str, Any] = MappingProxyType({})) -> GatewayKey:
    """The key of a file that a vector is sealed to."""
    kem = kem_of(vector)
    key = FILES[name]["post_quantum_key" if kem is Kem.MLKEM768_X25519 else "key"]
    private = PrivateKey.from_bytes(bytes.fromhex(key["private"]), kem)
    return GatewayKey(decode_key_config(bytes.fromhex(key["config"])), private)


def held_key(vector: Mapping[str, Any] = MappingProxyType({})) -> HeldKey:
    return HeldKey(gateway_key("requests", vector), ReplaySet(100))


def ephemeral_of(vector: Mapping[str, Any]) -> bytes | None:
    """The sender's key; a post-quantum encapsulation has none that could be given."""
    return None if "kem" in vector else bytes.fromhex(vector["ephemeral"])


def verdict(wire: bytes, at: HeldKey) -> tuple[str, Inbox]:
    """What an inbox says of a request, in the words of the vectors."""
    limits = FILES["requests"]["limits"]
    inbox = Inbox([at], max_request_bytes=limits["max_request_bytes"], max_chunk_bytes=limits["max_chunk_bytes"])
    exchange: FakeExchange | None = None
    try:
        # As the gateway feeds it: a piece at a time, so that what opened before a fault has been seen.
        for piece in (wire[start : start + 700] for start in range(0, len(wire), 700)):
            inbox.feed(piece)
            if exchange is None and inbox.head is not None:
                exchange = FakeExchange(inbox.head, FakeApplication())
                inbox.begin(exchange)
        inbox.feed(b"")
    except KeyMismatchError:
        return "key_mismatch", inbox
    except ReplayError:
        return "replay", inbox
    except ChannelError:
        return "malformed", inbox
    except Fault as fault:
        return {FaultKind.UNKNOWN: "not_here"}[fault.kind], inbox
    return "accepted", inbox


def expected(vector: Mapping[str, Any]) -> str:
    expect = vector["expect"]
    return str(expect["code"]) if expect["verdict"] == "refused" else "accepted"


def of_http_alone(vector: Mapping[str, Any]) -> bool:
    """Whether only the HTTP around a request is wrong, which an inbox does not see."""
    http = vector.get("http", {})
    return (
        "headers" in http
        or "declares" in http
        or (http.get("path", "").startswith("/ohttp/") and "{" not in http["path"])
    )


@pytest.mark.parametrize("vector", of("requests"))
def test_a_request_is_taken_or_refused(vector: dict[str, Any]) -> None:
    at = held_key(vector)
    sealed = seal_request(vector, at.key.config, ephemeral=ephemeral_of(vector))
    if "kem" not in vector:
        assert sha256(sealed.wire).hexdigest() == vector["wire_sha256"]
        assert b64decode(vector["wire"]) == sealed.wire if "wire" in vector else len(sealed.wire) > 8_192
    said, _ = verdict(sealed.wire, at)
    assert said == ("accepted" if of_http_alone(vector) else expected(vector))
    for again in vector.get("again", ()):
        assert verdict(sealed.again(vector | again), at)[0] == expected(again)


def test_what_is_left_to_http_is_seldom() -> None:
    assert sum(of_http_alone(vector) for vector in FILES["requests"]["vectors"]) == 6


# --- Binary HTTP


def told(events: list[Event]) -> dict[str, Any]:
    """Events in the words of the vectors."""
    heads = [event for event in events if isinstance(event, RequestHead | ResponseHead)]
    (end,) = [event for event in events if isinstance(event, End)]
    content = b"".join(event.data for event in events if isinstance(event, Content))
    last = heads[-1]
    head: dict[str, Any] = {"headers": [list(pair) for pair in last.headers]}
    if isinstance(last, RequestHead):
        head |= {"method": last.method, "scheme": last.scheme, "authority": last.authority, "path": last.path}
        said: dict[str, Any] = {}
    else:
        head["status"] = last.status
        said = {"informational": [each.status for each in heads[:-1] if isinstance(each, ResponseHead)]}
    return said | {"head": head, "content": content.hex(), "trailers": [list(pair) for pair in end.trailers]}


@pytest.mark.parametrize("piece_bytes", [1, 1_000_000])
@pytest.mark.parametrize("vector", of("binary_http"))
def test_a_message_is_read_or_refused(vector: dict[str, Any], piece_bytes: int) -> None:
    message = plain(vector["message"])
    decoder = RequestDecoder(max_head_bytes=65_536) if vector["direction"] == "request" else ResponseDecoder()
    events: list[Event] = []

    def decode() -> None:
        for at in range(0, len(message), piece_bytes):
            events.extend(decoder.feed(message[at : at + piece_bytes]))
        events.extend(decoder.finish())
        if not any(isinstance(event, End) for event in events):
            raise ChannelError("no end")

    if vector["expect"]["verdict"] == "refused":
        with pytest.raises(ChannelError):
            decode()
    else:
        decode()
        assert told(events) == vector["expect"]["opened"]


@pytest.mark.parametrize("vector", [each for each in of("binary_http") if each.values[0]["direction"] == "request"])
def test_a_message_in_an_envelope_is_taken_or_refused(vector: dict[str, Any]) -> None:
    sealed = seal_request(vector, gateway_key("requests").config)
    assert verdict(sealed.wire, held_key())[0] == expected(vector)


# --- answers


@pytest.mark.parametrize("vector", of("answers"))
def test_an_answer_is_taken_or_refused(vector: dict[str, Any]) -> None:
    figures = FILES["answers"]
    ephemeral = bytes.fromhex(figures["request"]["ephemeral"])
    suite = HpkeSuite(Kem.X25519_HKDF_SHA256, Kdf.HKDF_SHA256, Aead(vector["aead"]))
    sealer = RequestSealer(gateway_key("answers").config, suite, ephemeral=ephemeral)
    wire = b64decode(vector["wire"]) if "wire" in vector else seal_answer(vector, request_of(vector["aead"]))
    assert sha256(wire).hexdigest() == vector["wire_sha256"]
    opener, decoder = sealer.response_opener(), ResponseDecoder()
    events: list[Event] = []

    def take() -> None:
        for chunk in (*opener.feed(wire), opener.finish()):
            events.extend(decoder.feed(chunk))
        events.extend(decoder.finish())

    if vector["expect"]["verdict"] == "refused":
        with pytest.raises(ChannelError):
            take()
    else:
        take()
        assert told(events) == vector["expect"]["opened"]


def test_the_request_of_the_answers_is_the_one_in_the_file() -> None:
    figures = FILES["answers"]
    ephemeral = bytes.fromhex(figures["request"]["ephemeral"])
    sealer = RequestSealer(gateway_key("answers").config, ephemeral=ephemeral)
    wire = sealer.header + sealer.seal_final(plain(figures["request"]["message"]))
    assert wire == request_of(2).wire
    assert verdict(wire, held_key())[0] == "accepted"


# --- keys


@pytest.mark.parametrize("vector", of("key_configs"))
def test_a_list_of_keys_is_read_or_refused(vector: dict[str, Any]) -> None:
    data, expect = bytes.fromhex(vector["data"]), vector["expect"]
    if expect["verdict"] == "refused":
        with pytest.raises(ChannelError):
            decode_key_configs(data)
        return
    configs = decode_key_configs(data)
    assert [config.key_id for config in configs] == expect["ids"]
    assert [config.key_id for config in configs if is_usable(config)] == expect["usable"]


# --- live sessions


@pytest.mark.parametrize("vector", of("live"))
def test_a_live_session_is_taken_or_refused(vector: dict[str, Any]) -> None:
    key = gateway_key("live", vector)
    call = seal_live(vector, key.config, ephemeral=ephemeral_of(vector))
    if "kem" not in vector:
        assert [sha256(message).hexdigest() for message in call.messages] == vector["messages_sha256"]
    opener, expect = UpOpener([key]), vector["expect"]

    def take() -> None:
        for message in call.messages:
            opener.open(message)

    if expect["verdict"] == "accepted" or vector.get("layer") == "gateway":
        take()
        assert opener.ended == (expect["verdict"] == "accepted")
        return
    with pytest.raises(ChannelError) as caught:
        take()
    assert isinstance(caught.value, KeyMismatchError) == (expect["code"] == "key_mismatch")


# --- documents, statements, policies, evidence


def data_of(vector: Mapping[str, Any]) -> bytes:
    given = b64decode(vector["base64"]) if "base64" in vector else str(vector["text"]).encode()
    return given + b" " * int(vector.get("spaces", 0))


@pytest.mark.parametrize("vector", of("documents"))
def test_a_document_is_read_or_refused(vector: dict[str, Any]) -> None:
    if vector["expect"]["verdict"] == "accepted":
        parse_document(data_of(vector))
    else:
        with pytest.raises(EvidenceError):
            parse_document(data_of(vector))


@pytest.mark.parametrize("vector", of("statements"))
def test_a_statement_is_read_or_refused(vector: dict[str, Any]) -> None:
    if vector["expect"]["verdict"] == "accepted":
        parse_statement(StatementBytes(data_of(vector)))
    else:
        with pytest.raises(EvidenceError):
            parse_statement(StatementBytes(data_of(vector)))


@pytest.mark.parametrize("vector", of("policies"))
def test_a_policy_can_be_used_or_not(vector: dict[str, Any]) -> None:
    text = "".join(f"{line}\n" for line in vector["lines"]).encode()
    if vector["expect"]["verdict"] == "accepted":
        parse_policy(text)
    else:
        with pytest.raises(PolicyError):
            parse_policy(text)


def suite_of(vector: Mapping[str, Any], shipped: Suite) -> Suite:
    """The shipped suite with nothing in it but the vector's sample, and the vector as a case of it."""
    (sample,) = (sample for sample in shipped.samples if sample.name == vector["of"])
    if "case" in vector:
        (case,) = (case for case in shipped.cases if (case.name, case.of) == (vector["case"], vector["of"]))
    else:
        given = {name: value for name, value in vector.items() if name not in ("id", "says", "expect")}
        asked = {"name": vector["says"], "refused_by": ["?"], **given}
        case = TypeAdapter(Case).validate_python(asked, strict=False)
    return replace(shipped, samples=(sample,), cases=(case,))


@pytest.mark.parametrize("vector", of("evidence"))
def test_a_machine_is_accepted_or_refused_by_these_checks(vector: dict[str, Any]) -> None:
    _, outcome = run(suite_of(vector, shipped_suite()))
    expect = vector["expect"]
    assert {check.name for check in outcome.refusals} == set(expect.get("code", ()))
