"""What vouches for the machine is had before it is needed, is never stale for long, and keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from attestation.collateral.source import Question, Reply, Sources
from attestation.collateral.store import Cache, CollateralStore, Piece
from attestation.document import MAX_COLLATERAL, MAX_DOCUMENT_BYTES, AttestationDocument, parse_document
from attestation.errors import FetchError
from attestation.gpu.nras import NrasPolicy
from attestation.guest.attester import EvidenceDesk
from attestation.insecure import InsecureAttester
from attestation.policy import Policy, StatementPolicy
from attestation.snp.abi import Product, SigningKey
from attestation.snp.collateral import crl_key
from attestation.statement import gpu_nonce
from attestation.types import (
    Collateral,
    CollateralKey,
    CollateralKind,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    ReportData,
    StatementBytes,
)
from attestation.verification import questions
from engine.identity.endorsements import AHEAD, Endorsements, open_endorsements
from tests.attestation.gpu import forge
from tests.attestation.snp.forge import NOW, TCBS, ForgedAmd
from tests.waiting import GIVE_UP_S

AMD = ForgedAmd()
REPORT = AMD.report()
CRL = crl_key(SigningKey.VCEK, Product.MILAN)
TABLE = {key: data for key, data in AMD.collateral(REPORT).items() if key != CRL}
POLICY = Policy({EvidenceKind.SNP: AMD.policy()}, statement=StatementPolicy(), models=(), digest="ef" * 32)
NONCE = Nonce(bytes(32))


def document(report: bytes = REPORT, table: Collateral = TABLE) -> AttestationDocument:
    """As the desk has it, before it is endorsed."""
    evidence = Evidence(EvidenceKind.SNP, report, table)
    return AttestationDocument((NONCE,), StatementBytes(b"{}"), evidence, DeviceEvidence(b""), table)


@dataclass
class Kds:
    """AMD's service, which answers with a list of revoked certificates, or does not. asked: for what, in order."""

    asked: list[str] = field(default_factory=list)
    crl: Callable[[], bytes] = AMD.crl
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False

    def __post_init__(self) -> None:
        self.answering.set()

    async def __call__(self, question: Question) -> Reply:
        self.asked.append(question.url.rpartition("/")[2])
        await self.answering.wait()
        if self.away:
            raise FetchError("answered 503")
        return Reply(self.crl())


@dataclass
class Bench:
    kds: Kds
    now: datetime = NOW

    def __post_init__(self) -> None:
        store = CollateralStore(Cache(None), self.kds, lambda: self.now + AHEAD)
        self.endorsements = Endorsements(POLICY, store, lambda: self.now)


@pytest.fixture
def bench() -> Bench:
    return Bench(Kds())


async def test_what_the_machine_does_not_deliver_is_asked_for_once_and_given_to_every_document(bench: Bench) -> None:
    assert dict(bench.endorsements.at_hand(document())) == TABLE
    collateral = await bench.endorsements.obtain(document())
    assert set(collateral) == {*TABLE, CRL}
    for _ in range(2):
        await bench.endorsements.refresh()
        assert bench.endorsements.at_hand(document()) == collateral
    assert bench.kds.asked == ["crl"]


async def test_a_vendor_that_does_not_answer_keeps_no_document_waiting(bench: Bench) -> None:
    bench.kds.answering.clear()

    class Machine(InsecureAttester):
        async def collect(self, report_data: ReportData) -> Evidence:
            return Evidence(EvidenceKind.SNP, REPORT, TABLE)

    desk = EvidenceDesk(Machine(), lambda: StatementBytes(b"{}"), endorse=bench.endorsements.at_hand)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        assert await desk.document(NONCE, "a") is not None
        refreshing = group.create_task(bench.endorsements.refresh())
        while not bench.kds.asked:  # noqa: ASYNC110 - the store asks when it has looked elsewhere
            await asyncio.sleep(0)
        answers = await asyncio.gather(*(desk.document(Nonce(bytes([n]) * 32), "a") for n in range(40)))
        assert all(answer is not None and dict(answer.collateral) == TABLE for answer in answers)
        assert len({answer.nonces for answer in answers if answer}) <= 2, "the collection that ran, and the next"
        assert not refreshing.done()
        bench.kds.answering.set()
        await refreshing
        endorsed = await desk.document(NONCE, "a")
    assert endorsed is not None
    assert set(endorsed.collateral) == {*TABLE, CRL}


async def test_a_list_is_replaced_an_hour_before_it_is_stale(bench: Bench) -> None:
    stale_at = NOW + timedelta(hours=6)
    bench.kds.crl = lambda: AMD.crl(next_update=stale_at)
    old = await bench.endorsements.obtain(document())
    assert bench.endorsements.at_hand(document()) == old
    bench.kds.crl = AMD.crl
    for now, asked in ((stale_at - AHEAD - timedelta(seconds=1), 1), (stale_at - AHEAD, 2)):
        bench.now = now
        await bench.endorsements.refresh()
        assert len(bench.kds.asked) == asked
    assert bench.endorsements.at_hand(document())[CRL] != old[CRL]


async def test_while_the_vendor_is_away_the_old_list_is_delivered(bench: Bench) -> None:
    collateral = await bench.endorsements.obtain(document())
    bench.endorsements.at_hand(document())
    bench.kds.away = True
    bench.now = NOW + timedelta(days=91)
    await bench.endorsements.refresh()
    assert bench.kds.asked == ["crl", "crl"]
    assert bench.endorsements.at_hand(document()) == collateral


async def test_after_an_update_of_the_firmware_its_certificate_is_delivered(bench: Bench) -> None:
    await bench.endorsements.obtain(document())
    tcb = TCBS[Product.MILAN][:7] + b"\xdc"
    report = AMD.report(reported_tcb=tcb, current_tcb=tcb, committed_tcb=tcb)
    (vek,) = [key for key in AMD.collateral(report) if key.kind is CollateralKind.SNP_VEK]
    updated = document(report, {})
    assert vek not in bench.endorsements.at_hand(updated)
    bench.kds.crl = lambda: AMD.vek(report)
    await bench.endorsements.refresh()
    assert vek in bench.endorsements.at_hand(updated)


async def test_a_verdict_about_one_document_is_asked_for_with_that_document_only() -> None:
    machine = forge.Machine.build()
    with_gpu = replace(POLICY, gpu=replace(machine.policy, nras=NrasPolicy()))
    endorsements = Endorsements(with_gpu, CollateralStore(Cache(None), kds := Kds(), lambda: NOW), lambda: NOW)
    devices = machine.answer(gpu_nonce((NONCE,), StatementBytes(b"{}")))
    attested = replace(document(), device_evidence=devices)
    endorsements.at_hand(attested)
    await endorsements.refresh()
    assert "gpu" not in kds.asked
    await endorsements.obtain(attested, questions(attested, with_gpu))
    assert kds.asked.count("gpu") == 1
    assert questions(attested, replace(with_gpu, gpu=None)) == questions(document(), with_gpu) == {}


@pytest.mark.parametrize("kind", [CollateralKind.GPU_NRAS, CollateralKind.GPU_NRAS_KEYS])
def test_what_is_of_use_to_nobody_else_is_not_delivered(bench: Bench, kind: CollateralKind) -> None:
    assert bench.endorsements.at_hand(document(table={CollateralKey(kind, "jwks"): b"{}"})) == {}


def test_a_document_is_never_longer_than_its_readers_accept(bench: Bench) -> None:
    big = {CollateralKey(CollateralKind.GPU_RIM, f"{number}\\" * 20): bytes(300_000) for number in range(20)}
    small = {CollateralKey(CollateralKind.GPU_OCSP, str(number)): b"" for number in range(2 * MAX_COLLATERAL)}
    whole = document(table=big | small)
    encoded = replace(whole, collateral=bench.endorsements.at_hand(whole)).encode()
    pieces = parse_document(encoded).collateral
    assert MAX_DOCUMENT_BYTES - 400_100 < len(encoded) <= MAX_DOCUMENT_BYTES
    assert len(pieces) == MAX_COLLATERAL


async def test_the_directory_outlives_the_program_and_offline_nobody_is_asked(tmp_path: Path) -> None:
    Cache(tmp_path).put(CRL, Piece(AMD.crl(), NOW))
    unreachable = Sources(amd_kds="http://127.0.0.1:1")
    for directory, found in ((tmp_path, {*TABLE, CRL}), (None, set(TABLE))):
        async with open_endorsements(
            POLICY, directory=directory, offline=True, clock=lambda: NOW, sources=unreachable
        ) as endorsements:
            assert set(await endorsements.obtain(document())) == found
