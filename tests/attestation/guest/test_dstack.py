"""Evidence is taken from dstack's guest agent over a real Unix socket, and every lie of it is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from attestation.errors import AttestationError, EvidenceError, FetchError
from attestation.guest.agent import MAX_ANSWER_BYTES
from attestation.guest.dstack import DstackReports
from attestation.guest.machine import MachineAttester, first_of
from attestation.guest.reports import MachineReport
from attestation.snp import appraise as snp
from attestation.snp.abi import Product
from attestation.tdx import appraise as tdx
from attestation.types import EvidenceKind, EvidenceSource, Nonce, ReportData
from tests.attestation.guest.fake_dstack import FakeDstack, scale, serving
from tests.attestation.guest.fake_nvml import FakeLibrary
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel
from tests.vectors import vector

DATA = ReportData(bytes(range(64)))
AMD = ForgedAmd(Product.MILAN)
INTEL = ForgedIntel()


def amd_attestation(report_data: bytes) -> bytes:
    return scale(AMD.report(report_data))


# --- evidence that verifies


async def test_a_tdx_guest_gives_evidence_that_verifies(tmp_path: Path) -> None:
    agent = FakeDstack(quote=INTEL.quote)
    async with serving(agent, tmp_path / "dstack.sock") as path:
        evidence = await MachineAttester(EvidenceKind.TDX, DstackReports(path), None).collect(DATA)
    appraisal = tdx.appraise(evidence.report, INTEL.policy(), INTEL.collateral(), roots=INTEL.roots, now=INTEL.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert agent.asked == [("/GetQuote", DATA)]


@pytest.mark.parametrize("has_empty_quotes", [True, False], ids=["an empty quote", "no quote"])
async def test_an_snp_guest_gives_evidence_that_verifies(tmp_path: Path, has_empty_quotes: bool) -> None:
    agent = FakeDstack(attest=amd_attestation, has_empty_quotes=has_empty_quotes)
    async with serving(agent, tmp_path / "dstack.sock") as path:
        evidence = await MachineAttester(EvidenceKind.SNP, DstackReports(path), None).collect(DATA)
    collateral = AMD.collateral(evidence.report)
    appraisal = snp.appraise(evidence.report, AMD.policy(), collateral, roots=AMD.roots, now=AMD.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert agent.asked == [("/GetQuote", DATA), ("/Attest", DATA)]


@pytest.mark.parametrize("name", ["tdx/phala_v4_quote.bin", "tdx/gotdx_v5_quote.dat"])
async def test_a_real_quote_comes_through_as_it_is(tmp_path: Path, name: str) -> None:
    quote = vector(name)
    async with serving(FakeDstack(quote=lambda _: quote), tmp_path / "dstack.sock") as path:
        assert await DstackReports(path).collect(DATA) == MachineReport(EvidenceKind.TDX, quote)


def _real_attestations() -> dict[str, Callable[[], bytes]]:
    return {
        "without certificates": lambda: vector("snp/dstack_milan_v3_attestation.scale"),
        "with certificates": lambda: bytes.fromhex(
            json.loads(vector("snp/dstack_snp_attestation.json"))["attestation"]
        ),
    }


@pytest.mark.parametrize("attestation", _real_attestations().values(), ids=_real_attestations().keys())
async def test_the_report_in_a_real_attestation_comes_through(tmp_path: Path, attestation: Callable[[], bytes]) -> None:
    data = attestation()
    async with serving(FakeDstack(attest=lambda _: data), tmp_path / "dstack.sock") as path:
        found = await DstackReports(path).collect(DATA)
        assert found == MachineReport(EvidenceKind.SNP, data[4 : 4 + 0x4A0])
        reported = ReportData(b"attest-test-fixture-2026".ljust(64, b"\x00"))
        machine = MachineAttester(EvidenceKind.SNP, DstackReports(path), None)
        assert (await machine.collect(reported)).report == found.report
        with pytest.raises(EvidenceError, match="other report_data"):
            await machine.collect(DATA)


# --- what is there


async def test_the_machine_is_found_through_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary(pynvml)
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    for agent, kind in (
        (FakeDstack(quote=INTEL.quote), EvidenceKind.TDX),
        (FakeDstack(attest=amd_attestation), EvidenceKind.SNP),
    ):
        async with serving(agent, tmp_path / "dstack.sock") as path:
            machine = await first_of([DstackReports(path)])
            assert (machine.kind, machine.source) == (kind, EvidenceSource.DSTACK)
            assert await machine.collect_devices(Nonce(bytes(32))) == b""


async def test_without_a_socket_it_is_said_what_to_mount(tmp_path: Path) -> None:
    with pytest.raises(
        FetchError, match=r"dstack: nobody answers at .*dstack\.sock; it takes the guest's own, mounted"
    ):
        await DstackReports(tmp_path / "dstack.sock").find_kind()


async def test_a_file_that_is_no_socket_is_none(tmp_path: Path) -> None:
    (tmp_path / "dstack.sock").touch()
    with pytest.raises(FetchError, match="nobody answers"):
        await DstackReports(tmp_path / "dstack.sock").find_kind()


# --- lies


def quote(value: object) -> Callable[[str, Any], Any]:
    return lambda _, answer: {**answer, "quote": value}


TDX_LIES: dict[str, tuple[Callable[[str, Any], Any], type[AttestationError], str]] = {
    "other report_data": (quote(INTEL.quote(bytes(64)).hex()), EvidenceError, "other report_data"),
    "no hexadecimal digits": (quote("xy"), FetchError, "quote: String should match"),
    "half a byte": (quote("abc"), FetchError, "quote: String should match"),
    "digits in upper case": (quote("AB"), FetchError, "quote: String should match"),
    "a line break after the digits": (quote("ab\n"), FetchError, "quote: String should match"),
    "a number": (quote(7), FetchError, "quote: Input should be a valid string"),
    "no member": (lambda _, answer: {"event_log": "[]"}, FetchError, "quote: Field required"),
    "a list": (lambda _, answer: [], FetchError, "document"),
    "bytes that are no quote": (quote("00" * 600), EvidenceError, "SGX|cut"),
}


@pytest.mark.parametrize(("lie", "error", "told"), TDX_LIES.values(), ids=TDX_LIES.keys())
async def test_a_lie_about_a_quote_is_refused(
    tmp_path: Path, lie: Callable[[str, Any], Any], error: type[AttestationError], told: str
) -> None:
    agent = FakeDstack(quote=INTEL.quote)
    async with serving(agent, tmp_path / "dstack.sock") as path:
        machine = MachineAttester(EvidenceKind.TDX, DstackReports(path), None)
        await machine.collect(DATA)
        agent.changed = lie
        with pytest.raises(error, match=told):
            await machine.collect(DATA)


OTHER_FORMS = {
    "MessagePack, version 1": b"\x83\xa7version\x01",
    "of TDX": b"\x00\x00" + amd_attestation(DATA)[2:],
    "of a Nitro enclave": b"\x00\x02" + amd_attestation(DATA)[2:],
    "of a version to come": b"\x01" + amd_attestation(DATA)[1:],
    "a report of another length": scale(AMD.report(DATA)[:-1]),
    "cut short": amd_attestation(DATA)[: 4 + 0x4A0 - 1],
    "one byte": b"\x00",
}


@pytest.mark.parametrize("attestation", OTHER_FORMS.values(), ids=OTHER_FORMS.keys())
async def test_an_attestation_of_another_form_is_refused_by_its_name(tmp_path: Path, attestation: bytes) -> None:
    async with serving(FakeDstack(attest=lambda _: attestation), tmp_path / "dstack.sock") as path:
        with pytest.raises(FetchError, match=r"not of SEV-SNP in the form known here \(SCALE, version 0\)"):
            await DstackReports(path).collect(DATA)


async def test_neither_a_quote_nor_an_attestation_is_told_without_the_agents_words(tmp_path: Path) -> None:
    async with serving(FakeDstack(), tmp_path / "dstack.sock") as path:
        with pytest.raises(FetchError, match=r"neither a quote nor an attestation \(status 400\)") as refusal:
            await DstackReports(path).collect(DATA)
    assert "canary" not in str(refusal.value)


async def test_an_empty_attestation_is_refused(tmp_path: Path) -> None:
    async with serving(FakeDstack(attest=lambda _: b""), tmp_path / "dstack.sock") as path:
        with pytest.raises(FetchError, match="attestation: String should have at least"):
            await DstackReports(path).collect(DATA)


async def test_a_tee_that_changes_between_calls_is_refused(tmp_path: Path) -> None:
    agent = FakeDstack(attest=amd_attestation)
    async with serving(agent, tmp_path / "dstack.sock") as path:
        machine = MachineAttester(EvidenceKind.SNP, DstackReports(path), None)
        await machine.collect(DATA)
        agent.quote = INTEL.quote
        with pytest.raises(EvidenceError, match="snp evidence before, and tdx now"):
            await machine.collect(DATA)


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b" " * (MAX_ANSWER_BYTES + 1), b'{"quote":"","quote":"ab"}'])
async def test_what_is_not_sound_json_is_refused(tmp_path: Path, body: bytes) -> None:
    async with serving(FakeDstack(raw={"/GetQuote": body}), tmp_path / "dstack.sock") as path:
        with pytest.raises(FetchError, match="dstack: "):
            await DstackReports(path).collect(DATA)


async def test_an_agent_that_hangs_is_given_up(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.close()

    async with await asyncio.start_unix_server(hang, tmp_path / "dstack.sock"):
        try:
            with pytest.raises(FetchError, match="dstack did not answer in time"):
                await DstackReports(tmp_path / "dstack.sock", deadline_s=0.05).find_kind()
        finally:
            gate.set()
