"""An engine that its own policy refuses serves nobody, starts no backend and lets no GPU work."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import LogCapture

from attestation.collateral.source import Sources
from attestation.collateral.store import Cache, Piece
from attestation.document import AttestationDocument, parse_document
from attestation.errors import AttestationError, EvidenceError, FetchError, RefusedError
from attestation.insecure import InsecureAttester
from attestation.policy import read_policy
from attestation.snp.abi import Product, SigningKey
from attestation.snp.collateral import crl_key
from attestation.statement import parse_statement
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, EvidenceSource, Nonce, ReportData
from attestation.verification import verify
from core.program.run import ExitCode
from engine.app import EngineParts, RunningEngine, running_engine, serve
from engine.backends import choose, surroundings
from engine.backends.choose import Backend
from engine.backends.digest import weights_digest
from engine.identity.self_check import SELF_POLICY
from engine.settings import EngineSettings
from tests.attestation.servers import http_answer, raw_server
from tests.attestation.snp.forge import MEASUREMENT, ForgedAmd
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.gateway.fake_application import Clock
from tests.engine.gateway.sealed_client import connected
from tests.waiting import GIVE_UP_S

NONCE = "5a" * 32


@dataclass
class WatchedAttester(InsecureAttester):
    """Development evidence, with a record of what was asked. failure: raised by `admit_devices`."""

    happened: list[str] = field(default_factory=list)
    failure: AttestationError | None = None
    report_data: Callable[[ReportData], ReportData] = lambda data: data
    devices: bytes = b""

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        self.happened.append("devices")
        return DeviceEvidence(self.devices)

    async def collect(self, report_data: ReportData) -> Evidence:
        self.happened.append("report")
        return await super().collect(self.report_data(report_data))

    async def admit_devices(self) -> None:
        self.happened.append("admitted")
        if self.failure is not None:
            raise self.failure


class WatchedTranscriber(FakeTranscriber):
    """A backend that tells the attester's record when it starts."""

    record: list[str]

    async def start(self) -> None:
        self.record.append("backend")
        await super().start()


@dataclass
class Bench:
    settings: EngineSettings
    attester: WatchedAttester
    parts: EngineParts

    def under(self, policy: str) -> Bench:
        """The same engine, held to another policy."""
        path = Path(str(self.settings.policy))
        path.write_text(policy)
        return self


ACCEPTING = "version = 1\n[insecure]\naccept = true\n"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    model, policy = tmp_path / "model", tmp_path / "policy.toml"
    model.mkdir()
    (model / "model.bin").write_bytes(b"weights")
    policy.write_text(ACCEPTING)
    given: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "status_listen": "127.0.0.1:0",
        "model": (f"whisper={model}",),
        "insecure_evidence": True,
        "policy": policy,
    }
    attester, transcriber = WatchedAttester(), WatchedTranscriber()
    transcriber.record = attester.happened
    return Bench(
        EngineSettings(**given), attester, EngineParts(Backend(transcriber), FakeDecoder(), attester, clock=Clock())
    )


async def attested(bench: Bench) -> AttestationDocument:
    async with running_engine(bench.settings, bench.parts) as engine:
        return await asked(engine)


async def asked(engine: RunningEngine) -> AttestationDocument:
    async with connected(engine.address) as connection:
        await connection.begin(f"/.well-known/sottovoce-attestation?nonce={NONCE}", method="GET")
        return parse_document((await connection.response()).body)


async def refused(bench: Bench, error: type[AttestationError] = RefusedError) -> AttestationError:
    with pytest.raises(error) as raised:
        await attested(bench)
    assert not {"admitted", "backend"} & set(bench.attester.happened)
    return raised.value


async def test_an_engine_within_its_policy_says_which_one_it_was_held_to(bench: Bench, log: LogCapture) -> None:
    document = await attested(bench)
    digest = hashlib.sha256(ACCEPTING.encode()).hexdigest()
    assert parse_statement(document.statement).extensions == {SELF_POLICY: digest}
    (passed,) = [entry for entry in log.entries if entry["event"] == "self_check_passed"]
    assert (passed["policy"], passed["kind"]) == (digest, "insecure")
    assert "machine" in passed["skipped"]


async def test_evidence_is_judged_before_gpus_work_and_gpus_work_before_the_backend_starts(bench: Bench) -> None:
    await attested(bench)
    assert bench.attester.happened[:4] == ["devices", "report", "admitted", "backend"]


async def test_without_a_policy_nothing_is_judged_said_or_admitted(bench: Bench) -> None:
    bench.settings = EngineSettings(**bench.settings.model_dump() | {"policy": None})
    document = await attested(bench)
    assert parse_statement(document.statement).extensions == {}
    assert bench.attester.happened == ["backend", "devices", "report"]


async def test_all_that_the_policy_does_not_allow_is_named(bench: Bench) -> None:
    foreign = '[[models]]\nid = "whisper"\nweights_sha256 = ["' + "0" * 64 + '"]\n'
    policy = ACCEPTING + "[statement]\nmax_lifetime_s = 60\nrequire_api_keys = true\n" + foreign
    reason = await refused(bench.under(policy))
    assert isinstance(reason, RefusedError)
    assert [check.name for check in reason.checks if check.failed] == ["lifetime", "api keys", "models"]


async def test_weights_as_the_policy_names_them_are_accepted(bench: Bench) -> None:
    ((_, path),) = bench.settings.models
    named = f'[[models]]\nid = "whisper"\nweights_sha256 = ["{weights_digest(path)}"]\n'
    await attested(bench.under(ACCEPTING + named))
    assert "backend" in bench.attester.happened


async def test_evidence_that_binds_something_else_is_refused(bench: Bench) -> None:
    bench.attester.report_data = lambda data: ReportData(data[::-1])
    reason = await refused(bench)
    assert "binding" in str(reason)


async def test_devices_that_the_policy_has_no_rules_for_are_refused(bench: Bench) -> None:
    bench.attester.devices = b"a device"
    reason = await refused(bench)
    assert "device" in str(reason)


@pytest.mark.parametrize("error", [FetchError, EvidenceError])
async def test_a_machine_that_gives_no_evidence_does_not_serve(bench: Bench, error: type[AttestationError]) -> None:
    def fail(_: ReportData) -> ReportData:
        raise error("no driver")

    bench.attester.report_data = fail
    await refused(bench, error)


async def test_gpus_that_cannot_be_let_to_work_stop_the_engine(bench: Bench) -> None:
    bench.attester.failure = FetchError("NVML: Insufficient Permissions")
    with pytest.raises(FetchError):
        await attested(bench)
    assert "backend" not in bench.attester.happened


# --- what vouches for the machine


@dataclass
class SnpMachine(WatchedAttester):
    """A machine that delivers its certificates, and nothing of what was revoked."""

    source = EvidenceSource.CONFIGFS
    amd: ForgedAmd = field(default_factory=ForgedAmd)

    async def collect(self, report_data: ReportData) -> Evidence:
        report = self.amd.report(report_data)
        pieces = {key: data for key, data in self.amd.collateral(report).items() if key != CRL}
        return Evidence(EvidenceKind.SNP, report, pieces)


CRL = crl_key(SigningKey.VCEK, Product.MILAN)


@pytest.fixture
def snp(bench: Bench, tmp_path: Path) -> Bench:
    """An engine on that machine, which asks no vendor."""
    clock = Clock()
    bench.attester = SnpMachine(amd=ForgedAmd(now=datetime.fromtimestamp(clock(), UTC)))
    bench.parts = replace(bench.parts, attester=bench.attester, clock=clock)
    options = {"offline_collateral": True, "collateral_dir": tmp_path / "collateral", "insecure_evidence": False}
    bench.settings = EngineSettings(**bench.settings.model_dump() | options)
    (root,) = bench.attester.amd.roots.snp
    return bench.under(
        f'version = 1\n[snp]\nmeasurements = ["{MEASUREMENT.hex()}"]\n[[snp.products]]\nname = "Milan"\n'
        "min_tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 }\n"
        f'[insecure_roots]\nsnp = ["{root}"]\n'
    )


async def test_without_what_its_policy_looks_up_an_engine_does_not_serve(snp: Bench) -> None:
    reason = await refused(snp)
    assert isinstance(reason, RefusedError)
    assert [check.name for check in reason.checks if check.failed] == ["snp revocation"]


async def test_what_the_policy_looks_up_is_delivered_to_every_client(snp: Bench, tmp_path: Path) -> None:
    assert isinstance(snp.attester, SnpMachine)
    amd = snp.attester.amd
    Cache(tmp_path / "collateral").put(CRL, Piece(amd.crl(), amd.now))
    document = await attested(snp)
    policy = read_policy(tmp_path / "policy.toml")
    assert set(document.collateral) == set(amd.collateral(document.evidence.report))
    result = verify(document, policy, document.collateral, expected=Nonce(bytes.fromhex(NONCE)), now=amd.now)
    assert result.claims["product"] == "Milan"


async def test_a_vendor_is_asked_for_what_the_machine_does_not_deliver(snp: Bench) -> None:
    assert isinstance(snp.attester, SnpMachine)
    snp.settings = EngineSettings(**snp.settings.model_dump() | {"offline_collateral": False})
    async with raw_server(http_answer(snp.attester.amd.crl())) as kds:
        snp.parts = replace(snp.parts, sources=Sources(amd_kds=kds.url))
        document = await attested(snp)
    assert CRL in document.collateral
    assert [head.split()[:2] for head in kds.heads] == [[b"GET", b"/vcek/v1/Milan/crl"]]


async def test_what_is_had_while_the_engine_serves_is_delivered_from_then_on(snp: Bench, tmp_path: Path) -> None:
    assert isinstance(snp.attester, SnpMachine)
    policy = tmp_path / "policy.toml"
    policy.write_text(policy.read_text().replace("[[snp", "allow_missing_crl = true\n[[snp"))
    snp.parts = replace(snp.parts, collateral_timer_s=0.01)
    async with running_engine(snp.settings, snp.parts) as engine, asyncio.timeout(GIVE_UP_S):
        assert CRL not in (await asked(engine)).collateral
        Cache(tmp_path / "collateral").put(CRL, Piece(snp.attester.amd.crl(), snp.attester.amd.now))
        while CRL not in (await asked(engine)).collateral:
            pass


# --- the program


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens, no model is started."""
    monkeypatch.setattr(choose, "FasterWhisperTranscriber", lambda *_, **__: FakeTranscriber())


def told(log: LogCapture) -> list[tuple[str, ...]]:
    names = ("event", "check", "error")
    return [tuple(entry[name] for name in names if name in entry) for entry in log.entries]


@pytest.mark.usefixtures("serving")
async def test_a_refused_engine_logs_every_reason_and_ends_with_10(bench: Bench, log: LogCapture) -> None:
    policy = ACCEPTING + "[statement]\nmax_lifetime_s = 60\nrequire_api_keys = true\n"
    assert await serve(bench.under(policy).settings) is ExitCode.REFUSED
    assert told(log)[2:] == [
        ("self_check_failed", "lifetime"),
        ("self_check_failed", "api keys"),
        ("not_serving", "RefusedError"),
    ]


@pytest.mark.usefixtures("serving")
async def test_a_machine_without_a_tee_ends_with_1_and_a_reason(bench: Bench, log: LogCapture, tmp_path: Path) -> None:
    settings = EngineSettings(
        **bench.settings.model_dump() | {"insecure_evidence": False, "tsm_path": tmp_path / "tsm"}
    )
    assert await serve(settings) is ExitCode.INTERNAL
    assert told(log) == [("listening",), ("not_serving", "FetchError")]
    assert "configfs-tsm: No such file or directory" in log.entries[-1]["detail"]


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("missing", ["port", "weights", "vllm"])
async def test_an_engine_that_cannot_start_ends_with_1_and_a_reason(
    bench: Bench, log: LogCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(surroundings, "VLLM_PROGRAMS", ())
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        changes: dict[str, dict[str, Any]] = {
            "port": {"listen": f"127.0.0.1:{taken.getsockname()[1]}"},
            "weights": {"model": (f"nano={tmp_path / 'empty'}",), "alias": ()},
            "vllm": {"backend": "vllm"},
        }
        assert await serve(EngineSettings(**bench.settings.model_dump() | changes[missing])) is ExitCode.INTERNAL
    [entry] = [entry for entry in log.entries if entry["event"] == "not_serving"]
    assert log.entries[-1] == entry
    said = {"port": "address already in use", "weights": "holds no files", "vllm": "no such vllm program"}
    assert said[missing] in entry["detail"]
