"""A receipt goes from the engine that signs it to a file beside the proxy; anybody checks it with a saved bundle."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from attestation.bundle import parse_bundle
from attestation.statement import parse_statement
from core.program.run import ExitCode
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from engine.gateway.live import End
from proxy.app import running_proxy
from proxy.cli import app
from proxy.jobs.vault import KeyFile
from tests.core.media.sounds import wav
from tests.e2e.conftest import engine_settings, proxy_settings
from tests.e2e.test_live import Live, append, closing, live_path
from tests.engine.fakes import FakeDecoder, FakeTranscriber, speech
from tests.waiting import until

POLICY = "version = 1\ninsecure.accept = true\n"
ASKS = {"Sottovoce-Receipt": "1"}


@dataclass
class Served:
    """An engine, a proxy, and where receipts are kept."""

    url: str
    receipts: Path
    bundle: Path
    policy: Path
    http: aiohttp.ClientSession

    async def post(self, *fields: tuple[str, str], **headers: str) -> tuple[int, bytes]:
        form = aiohttp.FormData()
        form.add_field("file", speech(2.3), filename="a.wav")
        for name, value in fields:
            form.add_field(name, value)
        async with self.http.post(f"{self.url}/v1/audio/transcriptions", data=form, headers=headers) as response:
            return response.status, await response.read()

    async def kept(self, count: int = 1) -> list[Path]:
        """So many files; they are written when an answer has gone out."""
        await until(lambda: len(list(self.receipts.glob("*.json"))) >= count)
        return sorted(self.receipts.glob("*.json"))

    async def verify(self, receipt: Path, *, bundle: Path | None = None) -> Result:
        arguments = ["receipts", "verify", str(receipt), "--bundle", str(bundle or self.bundle), "--json"]
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--policy", str(self.policy)])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    receipts, policy = tmp_path / "receipts", tmp_path / "policy.toml"
    policy.write_text(POLICY)
    parts = EngineParts(backend=Backend(FakeTranscriber()), decoder=FakeDecoder())
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(engine_settings(tmp_path), parts))
        url = f"http://{engine.address}"
        settings = proxy_settings(url, receipts_dir=receipts)
        proxy = await stack.enter_async_context(running_proxy(settings))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        attested = await proxy.trust.engine()
        (bundle := tmp_path / "bundle.json").write_bytes(attested.bundle.encode())
        yield Served(f"http://{proxy.addresses[0]}", receipts, bundle, policy, http)


def told(result: Result) -> dict[str, object]:
    verdict: dict[str, object] = json.loads(result.output)
    return verdict


def failed(result: Result) -> list[str]:
    checks = told(result)["checks"]
    assert isinstance(checks, list)
    return [check["name"] for check in checks if check["status"] == "fail"]


@pytest.mark.parametrize("stream", [(), (("stream", "true"),)])
async def test_a_receipt_is_kept_and_verified(served: Served, stream: tuple[tuple[str, str], ...]) -> None:
    status, _ = await served.post(*stream, **ASKS, **{"X-Request-Id": "mine"})
    assert status == 200
    (kept,) = await served.kept()
    assert kept.name.startswith("mine.")
    result = await served.verify(kept)
    assert result.exit_code == ExitCode.ACCEPTED, result.output
    verdict = told(result)
    receipt = verdict["receipt"]
    assert isinstance(receipt, dict)
    assert (receipt["status"], receipt["audio_seconds"], receipt["replayed"]) == (200, 3, False)
    assert verdict["insecure"] is True


async def test_every_tampering_with_a_kept_receipt_is_refused(served: Served, tmp_path: Path) -> None:
    for _ in range(2):
        await served.post(**ASKS)
    one, other = (json.loads(path.read_bytes()) for path in await served.kept(2))
    forged = {
        "of another request": one | {"request_sha256": other["request_sha256"]},
        "of another answer": one | {"answer_sha256": other["answer_sha256"]},
        "another's receipt": one | {"receipt": other["receipt"]},
        "no receipt": one | {"receipt": ""},
        "cut": one | {"receipt": one["receipt"][:-8]},
        "more": one | {"more": 1},
        "another version": one | {"version": 2},
    }
    outcomes = {}
    for name, content in forged.items():
        (path := tmp_path / "forged.json").write_text(json.dumps(content))
        result = await served.verify(path)
        assert result.exit_code == ExitCode.REFUSED, name
        assert told(result)["receipt"] is None
        outcomes[name] = failed(result)
    assert outcomes["of another request"] == ["request"]
    assert outcomes["of another answer"] == ["answer"]
    assert outcomes["another's receipt"] == ["request", "answer"]


async def test_a_receipt_of_another_engine_is_refused(served: Served, tmp_path: Path) -> None:
    await served.post(**ASKS)
    parts = EngineParts(backend=Backend(FakeTranscriber()), decoder=FakeDecoder())
    async with (
        running_engine(engine_settings(tmp_path), parts) as engine,
        running_proxy(proxy_settings(f"http://{engine.address}")) as proxy,
    ):
        (bundle := tmp_path / "other.json").write_bytes((await proxy.trust.engine()).bundle.encode())
    assert failed(await served.verify((await served.kept())[0], bundle=bundle)) == ["signature"]


async def test_an_engine_that_the_policy_refuses_makes_no_receipt_good(served: Served) -> None:
    await served.post(**ASKS)
    served.policy.write_text(POLICY + "[statement]\nrequire_api_keys = true\n")
    result = await served.verify((await served.kept())[0])
    assert (result.exit_code, failed(result)) == (ExitCode.REFUSED, ["api keys"])


async def test_nothing_is_kept_of_who_did_not_ask_and_a_receipt_without_a_place_is_refused(
    served: Served, tmp_path: Path
) -> None:
    assert (await served.post())[0] == 200
    assert not served.receipts.exists()
    assert (await served.post(**{"Sottovoce-Receipt": "2"}))[0] == 400
    async with running_proxy(proxy_settings("http://127.0.0.1:1")) as proxy:
        elsewhere = Served(f"http://{proxy.addresses[0]}", tmp_path, served.bundle, served.policy, served.http)
        status, body = await elsewhere.post(**ASKS)
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")


# --- live sessions


@dataclass
class Kept:
    """Where the receipts of live sessions are, and with what they are checked."""

    live: Live
    receipts: Path
    bundle: Path
    policy: Path

    async def file(self) -> Path:
        await until(lambda: bool(list(self.receipts.glob("*.json"))))
        (path,) = self.receipts.glob("*.json")
        return path

    async def verify(self, receipt: Path, *, bundle: Path | None = None) -> Result:
        arguments = ["receipts", "verify", str(receipt), "--bundle", str(bundle or self.bundle), "--json"]
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--policy", str(self.policy)])


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Kept]:
    receipts, policy, bundle = tmp_path / "receipts", tmp_path / "policy.toml", tmp_path / "bundle.json"
    policy.write_text(POLICY)
    async with live_path(tmp_path, receipts_dir=receipts) as live:
        bundle.write_bytes((await live.proxy.trust.engine()).bundle.encode())
        yield Kept(live, receipts, bundle, policy)


async def spoken_to(live: Live, *, ends: str) -> None:
    """A session with 1.3 s of audio and an event each way, which the app or the engine ends."""
    async with live.connect(Sottovoce_Receipt="1", X_Request_Id="mine") as socket:
        await socket.receive_json()
        await socket.send_str(append(b"\x00\x01" * 31_200))
        await socket.send_json({"type": "input_audio_buffer.commit"})
        await socket.receive_json()
        if ends == "engine":
            live.session.said.put_nowait(End(4000, "requests.rate_limit_exceeded"))
            assert (await closing(socket))[1] == 4000


@pytest.mark.parametrize(("ends", "code"), [("engine", 4000), ("app", 1000)])
async def test_a_receipt_of_a_live_session_is_kept_and_verified(sessions: Kept, ends: str, code: int) -> None:
    await spoken_to(sessions.live, ends=ends)
    kept = await sessions.file()
    assert kept.name.startswith("mine.")
    result = await sessions.verify(kept)
    assert result.exit_code == ExitCode.ACCEPTED, result.output
    receipt = told(result)["receipt"]
    assert isinstance(receipt, dict)
    assert (receipt["code"], receipt["audio_seconds"], receipt["model"]) == (code, 2, "openai/whisper-tiny")
    assert receipt["frames_up"] >= 1 + 13  # the head, and 62,400 bytes of audio in frames of 4,800 or so
    if ends == "app":
        assert json.loads(kept.read_bytes())["frames_unheard"] == 0


async def test_every_tampering_with_the_receipt_of_a_live_session_is_refused(sessions: Kept, tmp_path: Path) -> None:
    await spoken_to(sessions.live, ends="app")
    one = json.loads((await sessions.file()).read_bytes())
    claims, _, signature = one["receipt"].partition(".")
    louder = json.loads(base64.b64decode(claims)) | {"audio_seconds": 1}
    forged = {
        "of a frame less": one | {"frames_up": one["frames_up"] - 1},
        "of other audio": one | {"up_sha256": one["down_sha256"]},
        "of other events": one | {"down_sha256": one["up_sha256"]},
        "of fewer events": one | {"frames_down": one["frames_down"] - 1},
        "of more time": one | {"receipt": f"{base64.b64encode(json.dumps(louder).encode()).decode()}.{signature}"},
        "cut": one | {"receipt": one["receipt"][:-8]},
        "no receipt": one | {"receipt": ""},
        "of a request": {name: one[name] for name in ("version", "receipt")}
        | {"request_sha256": one["up_sha256"], "answer_sha256": one["down_sha256"]},
    }
    outcomes = {}
    for name, content in forged.items():
        (path := tmp_path / "forged.json").write_text(json.dumps(content))
        result = await sessions.verify(path)
        assert (result.exit_code, told(result)["receipt"]) == (ExitCode.REFUSED, None), name
        outcomes[name] = failed(result)
    assert outcomes["of a frame less"] == outcomes["of other audio"] == ["heard"]
    assert outcomes["of other events"] == outcomes["of fewer events"] == ["answered"]
    assert outcomes["of more time"] == ["signature"]


async def test_the_receipt_of_a_live_session_by_another_engine_is_refused(sessions: Kept, tmp_path: Path) -> None:
    await spoken_to(sessions.live, ends="engine")
    async with live_path(tmp_path) as other:
        (bundle := tmp_path / "other.json").write_bytes((await other.proxy.trust.engine()).bundle.encode())
    assert failed(await sessions.verify(await sessions.file(), bundle=bundle)) == ["signature"]


async def test_a_live_session_that_was_cut_has_no_receipt(sessions: Kept) -> None:
    live = sessions.live
    async with live.connect(Sottovoce_Receipt="1") as socket:
        await socket.receive_json()
        live.tap.cut()
        events, code, _ = await closing(socket)
    assert (events[-1]["error"]["code"], code) == ("stream_truncated", 1011)
    await until(lambda: live.session.closed)
    assert not sessions.receipts.exists()


async def test_a_live_session_without_a_place_for_its_receipt_is_refused(tmp_path: Path) -> None:
    async with live_path(tmp_path) as live, live.connect(Sottovoce_Receipt="1") as socket:
        events, *_ = await closing(socket)
        assert [event["error"]["code"] for event in events] == ["invalid_request"]
        assert live.hearing.sessions == []


async def test_of_a_live_session_that_asks_for_none_no_receipt_is_kept(sessions: Kept) -> None:
    async with sessions.live.connect() as socket:
        await socket.receive_json()
    await until(lambda: sessions.live.session.closed)
    assert not sessions.receipts.exists()


# --- jobs


@dataclass
class Working:
    """A proxy that takes jobs, before two engines that each hear some of the parts."""

    http: aiohttp.ClientSession
    url: str
    job: str
    bundles: list[Path]
    policy: Path
    directory: Path

    async def receipts(self) -> dict[str, Any]:
        """As `sottovoce jobs receipts` prints them."""
        path = self.directory / "printed.json"
        arguments = ["jobs", "receipts", self.job, "--url", self.url, "--output", str(path)]
        printed = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert printed.exit_code == 0, printed.output
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    async def verify(self, content: dict[str, Any], *, bundles: list[Path] | None = None) -> Result:
        (path := self.directory / "receipts.json").write_text(json.dumps(content))
        given = [word for bundle in bundles or self.bundles for word in ("--bundle", str(bundle))]
        arguments = ["receipts", "verify", str(path), *given, "--json", "--policy", str(self.policy)]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)


@pytest.fixture
async def working(tmp_path: Path) -> AsyncIterator[Working]:
    """What was heard of half a minute in parts of ten seconds at most."""
    (policy := tmp_path / "policy.toml").write_text(POLICY)
    KeyFile.make(tmp_path / "jobs.key")
    async with AsyncExitStack() as stack:
        urls = []
        for _ in range(2):
            parts = EngineParts(backend=Backend(FakeTranscriber()))
            engine = await stack.enter_async_context(running_engine(engine_settings(tmp_path), parts))
            urls.append(f"http://{engine.address}")
        kept: dict[str, Any] = {"jobs_dir": tmp_path / "jobs", "jobs_key": tmp_path / "jobs.key"}
        settings = proxy_settings(",".join(urls), jobs=True, jobs_part_s=10, **kept)
        proxy = await stack.enter_async_context(running_proxy(settings))
        url = f"http://{proxy.addresses[0]}"
        http = await stack.enter_async_context(aiohttp.ClientSession())
        bundles = []
        for number in range(2):
            await until(partial(is_attested, http, url, number, tmp_path))
            bundles.append(tmp_path / f"bundle-{number}.json")
        job = await heard(http, url, wav(NOISE))
        yield Working(http, url, job, bundles, policy, tmp_path)


NOISE = np.random.default_rng(7).integers(-9000, 9000, 31 * 16_000, np.int16).tobytes()


async def is_attested(http: aiohttp.ClientSession, url: str, number: int, directory: Path) -> bool:
    """Whether an engine has proved itself; its bundle is then kept."""
    async with http.get(f"{url}/attestation/bundle", params={"engine": str(number)}) as answer:
        if answer.status != 200:
            return False
        (directory / f"bundle-{number}.json").write_bytes(await answer.read())
    return True


async def heard(http: aiohttp.ClientSession, url: str, recording: bytes) -> str:
    """The id of a job that completed."""
    form = aiohttp.FormData()
    form.add_field("file", recording, filename="a.wav")
    async with http.post(f"{url}/v1/jobs", data=form) as answer:
        assert answer.status == 201, await answer.text()
        job = str((await answer.json())["id"])

    async def is_over() -> bool:
        async with http.get(f"{url}/v1/jobs/{job}") as answer:
            found = await answer.json()
        assert found["status"] != "failed", found
        return bool(found["status"] == "completed")

    await until(is_over)
    return job


async def test_a_job_has_a_receipt_of_each_part_by_the_engine_that_heard_it_whose_bundle_is_needed(
    working: Working,
) -> None:
    found = await working.receipts()
    parts = found["receipts"]
    assert [part["part"] for part in parts] == list(range(len(parts)))
    assert len(parts) >= 4
    assert [part["start_ms"] for part in parts[1:]] == [part["end_ms"] for part in parts[:-1]]
    result = await working.verify(found)
    assert result.exit_code == ExitCode.ACCEPTED, result.output
    receipt = told(result)["receipt"]
    assert isinstance(receipt, dict)
    assert (receipt["job"], receipt["parts"]) == (working.job, len(parts))
    assert receipt["audio_seconds"] >= 31
    mine = parse_statement(parse_bundle(working.bundles[0].read_bytes()).document.statement).instance
    others = [f"part {part['part']} engine" for part in parts if part["instance"] != mine]
    result = await working.verify(found, bundles=[working.bundles[0]])
    assert failed(result) == others
    assert (result.exit_code == ExitCode.ACCEPTED) == (not others)


async def test_receipts_of_a_job_that_were_tampered_with_are_refused(working: Working) -> None:
    found = await working.receipts()
    parts = found["receipts"]
    one, two = parts[0], parts[1]
    forged = {
        "none": [],
        "one left out": [one, *parts[2:]],
        "two swapped": [two, one, *parts[2:]],
        "one twice": [one, one | {"part": 1}, *parts[2:]],
        "receipts swapped": [one | {"receipt": two["receipt"]}, two | {"receipt": one["receipt"]}, *parts[2:]],
        "another request": [one | {"request_sha256": 64 * "0"}, *parts[1:]],
        "another answer": [one | {"answer_sha256": 64 * "0"}, *parts[1:]],
        "another engine": [one | {"instance": "another"}, *parts[1:]],
        "cut": [one | {"receipt": one["receipt"][:-8]}, *parts[1:]],
        "no receipt": [one | {"receipt": ""}, *parts[1:]],
    }
    outcomes = {}
    for name, receipts in forged.items():
        result = await working.verify(found | {"receipts": receipts})
        assert (result.exit_code, told(result)["receipt"]) == (ExitCode.REFUSED, None), name
        outcomes[name] = failed(result)
    assert outcomes["none"] == outcomes["one left out"] == outcomes["two swapped"] == ["parts"]
    assert outcomes["one twice"] == ["once"]
    # Engines sign with keys of their own.
    signed = () if one["instance"] == two["instance"] else ("signature",)
    assert outcomes["receipts swapped"] == [
        f"part {part} {check}" for part in (0, 1) for check in (*signed, "request", "answer")
    ]
    assert outcomes["another request"] == ["part 0 request"]
    assert outcomes["another answer"] == ["part 0 answer"]
    assert outcomes["another engine"] == ["part 0 engine"]
    assert outcomes["cut"] == ["part 0 signature"]
    assert outcomes["no receipt"] == ["part 0 receipt"]
