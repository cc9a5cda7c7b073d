"""A receipt goes from the engine that signs it to a file beside the proxy; anybody checks it with a saved bundle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from core.program.run import ExitCode
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from proxy.app import running_proxy
from proxy.cli import app
from tests.e2e.conftest import engine_settings, proxy_settings
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
