"""What is not sent is had of its vendor, kept until its next update, and never asked for more often than is polite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from attestation.collateral.source import MAX_PIECE_BYTES, Question, Reply
from attestation.collateral.store import (
    ASKING_AT_ONCE,
    BACKOFF,
    MAX_BACKOFF,
    MAX_NEEDS,
    MAX_REMEMBERED,
    Cache,
    CollateralStore,
    Needs,
    Obtained,
    Piece,
    ask_over,
)
from attestation.document import AttestationDocument
from attestation.errors import FetchError
from attestation.gpu import nras
from attestation.gpu.nras import NrasPolicy
from attestation.policy import Policy
from attestation.snp.abi import Product, SigningKey, parse_report
from attestation.snp.collateral import crl_key, vek_key
from attestation.types import Collateral, CollateralKey, CollateralKind
from attestation.verification import AttestationResult, needs, questions, verify
from core.program.http.client import open_session
from tests.attestation.collateral.fake_vendors import Vendors, constantly
from tests.attestation.gpu.forge import Machine, manifest_key
from tests.attestation.gpu.forge_rim import YESTERDAY, jwks
from tests.attestation.machines import alone, snp_document, snp_policy, tdx_document, tdx_policy
from tests.attestation.samples import NONCE, NOW
from tests.attestation.servers import http_answer, raw_server
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel
from tests.waiting import GIVE_UP_S

AMD, INTEL, MACHINE = ForgedAmd(), ForgedIntel(), Machine.build(gpus=2)
CRL = crl_key(SigningKey.VCEK, Product.MILAN)
VEK = vek_key(parse_report(AMD.report()))
RIM = manifest_key("NV_GPU_DRIVER_GH100_1")
YOUNG, FRESH, STALE = (AMD.crl(next_update=NOW + timedelta(hours=hours)) for hours in (24 * 90, 20, -24))
STALER = AMD.crl(this_update=NOW - timedelta(days=9), next_update=NOW - timedelta(days=2))
DAY = timedelta(days=1)


class World:
    """Stores that ask the same vendors, at a time that the test sets."""

    def __init__(self, vendors: Vendors, session: aiohttp.ClientSession, template: CollateralStore) -> None:
        self.now = NOW
        self.vendors = vendors
        self.session = session
        self._template = template

    def store(self, directory: Path | None = None, *, offline: bool = False) -> CollateralStore:
        ask = None if offline else self._template.ask
        return CollateralStore(Cache(directory), ask, lambda: self.now, self._template.sources)

    def later(self, delta: timedelta) -> None:
        self.now += delta


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        vendors = Vendors()
        sources = await stack.enter_async_context(vendors.running())
        session = await stack.enter_async_context(_session())
        yield World(vendors, session, CollateralStore(Cache(None), ask_over(session), lambda: NOW, sources))


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(
        tls=None, loopback_only=True, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S
    ) as session:
        yield session


def _wanting(*keys: CollateralKey) -> Needs:
    return lambda _: keys


async def _obtain(store: CollateralStore, key: CollateralKey, sent: bytes | None = None) -> bytes | None:
    obtained = await store.obtain(_wanting(key), {} if sent is None else {key: sent})
    return obtained.collateral.get(key)


async def _verified(
    store: CollateralStore, document: AttestationDocument, policy: Policy, now: datetime = NOW
) -> tuple[AttestationResult, Obtained]:
    wanted = partial(needs, document, policy, now=now)
    obtained = await store.obtain(wanted, document.collateral, questions(document, policy))
    return verify(document, policy, obtained.collateral, expected=NONCE, now=now), obtained


# --- a whole machine, of which nothing was sent


@pytest.mark.parametrize("product", Product)
async def test_an_snp_machine_with_gpus_that_sent_nothing_is_accepted(world: World, product: Product) -> None:
    amd = ForgedAmd(product)
    document = alone(snp_document(amd=amd, gpus=MACHINE))
    world.vendors.published |= {**amd.collateral(document.evidence.report), **MACHINE.collateral()}
    result, obtained = await _verified(world.store(), document, snp_policy(amd, MACHINE))
    assert result.claims["product"] == product
    assert obtained.oldest_at == NOW
    assert len(world.vendors.asked) == len(obtained.collateral)


async def test_nvidia_is_asked_for_its_own_verdict_over_the_evidence(world: World, tmp_path: Path) -> None:
    machine = Machine.build(gpus=1, switches=1)
    document = alone(snp_document(amd=AMD, gpus=machine))
    world.vendors.published |= {**AMD.collateral(document.evidence.report), **machine.collateral()}
    policy = snp_policy(AMD, machine)
    assert policy.gpu
    policy = replace(policy, gpu=replace(policy.gpu, nras=NrasPolicy()))
    store = world.store(tmp_path)
    result, _ = await _verified(store, document, policy)
    passed = {check.name for check in result.checks if check.status == "pass"}
    assert {"nras gpu result", "nras gpu signature", "nras switch result"} <= passed
    asked = [line for line in world.vendors.asked if "/nras/" in line]
    assert sorted(asked) == [
        "GET /nras/.well-known/jwks.json",
        "POST /nras/v4/attest/gpu",
        "POST /nras/v4/attest/switch",
    ]
    assert not list(tmp_path.glob("gpu-nras*"))
    world.vendors.asked.clear()
    await _verified(store, document, policy)
    assert sorted(world.vendors.asked) == ["POST /nras/v4/attest/gpu", "POST /nras/v4/attest/switch"]


@pytest.mark.parametrize("ca", ["platform", "processor"])
async def test_a_tdx_machine_that_sent_nothing_is_accepted(world: World, ca: str) -> None:
    world.vendors.intel = intel = ForgedIntel(ca)
    result, _ = await _verified(world.store(), alone(tdx_document(intel=intel)), tdx_policy(intel))
    assert result.kind == "tdx"
    assert result.collateral_expires_at == intel.issued + 7 * DAY


async def test_what_tells_of_others_is_had_first(world: World) -> None:
    document = alone(snp_document(amd=AMD, gpus=None))
    report = AMD.report(version=2)  # only the VEK tells its product
    document = replace(document, evidence=replace(document.evidence, report=report))
    world.vendors.published |= (published := AMD.collateral(report))
    unknown = vek_key(parse_report(report))
    sent = {unknown: published[unknown]}
    obtained = await world.store().obtain(partial(needs, document, snp_policy(AMD, None), now=NOW), sent)
    assert obtained.collateral == published


# --- first what was sent, then the cache, then the vendor


async def test_what_was_sent_is_used_while_it_is_fresh_and_nobody_is_asked(world: World) -> None:
    world.vendors.published[CRL] = YOUNG
    assert await _obtain(world.store(), CRL, FRESH) == FRESH
    assert world.vendors.asked == []


async def test_what_a_vendor_gave_goes_before_what_was_sent(world: World) -> None:
    store = world.store()
    world.vendors.published[CRL] = FRESH
    assert await _obtain(store, CRL) == FRESH
    assert await _obtain(store, CRL, YOUNG) == FRESH  # it may be older, and from before a revocation


async def test_a_verdict_of_nvidia_is_taken_from_the_engine_only_where_nobody_can_be_asked(world: World) -> None:
    key = nras.key("gpu", NONCE)
    sent, asked = b'["sent"]', {key: b"question"}
    offline = await world.store(offline=True).obtain(_wanting(key), {key: sent}, asked)
    assert offline.collateral == {key: sent}
    online = await world.store().obtain(_wanting(key), {key: sent}, asked)
    assert online.collateral.get(key) != sent


async def test_in_place_of_a_stale_one_that_was_sent_the_cache_then_the_vendor_is_asked(world: World) -> None:
    store = world.store()
    world.vendors.published[CRL] = FRESH
    assert await _obtain(store, CRL, STALE) == FRESH
    assert await _obtain(store, CRL, STALE) == FRESH
    assert len(world.vendors.asked) == 1
    world.later(31 * DAY)
    world.vendors.published[CRL] = YOUNG
    assert await _obtain(store, CRL, STALE) == YOUNG
    assert len(world.vendors.asked) == 2


@pytest.mark.parametrize("sent", [b"", b"canary", YOUNG[:-1]])
async def test_what_was_sent_and_cannot_be_read_is_had_elsewhere(world: World, sent: bytes) -> None:
    world.vendors.published[CRL] = FRESH
    assert await _obtain(world.store(), CRL, sent) == FRESH


async def test_a_stale_piece_is_handed_on_when_nothing_fresher_can_be_had(world: World) -> None:
    assert await _obtain(world.store(), CRL, STALE) == STALE
    assert len(world.vendors.asked) == 1


async def test_of_stale_pieces_the_latest_is_handed_on(world: World) -> None:
    for published, sent in ((STALER, STALE), (STALE, STALER)):
        world.vendors.published[CRL] = published
        store = world.store()
        assert await _obtain(store, CRL, sent) == STALE
        assert await _obtain(store, CRL, sent) == STALE
    assert len(world.vendors.asked) == 2  # a vendor that has nothing newer either is left alone for a while


async def test_the_age_of_the_oldest_piece_is_told(world: World) -> None:
    store = world.store()
    world.vendors.published[CRL] = FRESH
    await _obtain(store, CRL)
    world.later(timedelta(hours=1))
    assert await store.obtain(_wanting(CRL, VEK), {}) == Obtained({CRL: FRESH}, NOW)
    assert await store.obtain(_wanting(VEK), {}) == Obtained({}, None)


async def test_what_was_sent_and_is_not_needed_is_dropped(world: World) -> None:
    assert await world.store().obtain(_wanting(), {CRL: FRESH}) == Obtained({}, None)


async def test_keys_of_verdicts_are_never_taken_from_what_was_sent(world: World, tmp_path: Path) -> None:
    assert await _obtain(world.store(offline=True), nras.KEYS, jwks(YESTERDAY)) is None
    store = world.store(tmp_path)
    keys = await _obtain(store, nras.KEYS, jwks(YESTERDAY))
    assert keys == jwks()
    world.later(timedelta(minutes=59))
    assert await _obtain(store, nras.KEYS) == keys
    assert len(world.vendors.asked) == 1
    world.later(timedelta(minutes=1))
    await _obtain(store, nras.KEYS)
    assert len(world.vendors.asked) == 2


async def test_keys_of_verdicts_are_never_taken_from_a_file(world: World, tmp_path: Path) -> None:
    forged = CollateralKey(CollateralKind.GPU_RIM, "jwks")
    Cache(tmp_path).put(forged, Piece(jwks(YESTERDAY), NOW))
    (path,) = tmp_path.iterdir()
    text = path.read_text().replace("gpu-rim", "gpu-nras-keys")
    path.with_name(path.name.replace("gpu-rim", "gpu-nras-keys")).write_text(text)
    assert await _obtain(world.store(tmp_path, offline=True), nras.KEYS) is None


# --- files


async def test_a_piece_outlives_the_program_until_its_next_update(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "cache"
    world.vendors.published[CRL] = FRESH
    assert await _obtain(world.store(directory), CRL) == FRESH
    assert directory.stat().st_mode & 0o777 == 0o700
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    world.later(timedelta(hours=20) - timedelta(seconds=1))
    assert await _obtain(world.store(directory), CRL) == FRESH
    assert len(world.vendors.asked) == 1
    world.later(timedelta(seconds=1))
    world.vendors.published[CRL] = YOUNG
    assert await _obtain(world.store(directory), CRL) == YOUNG
    assert await _obtain(world.store(directory, offline=True), CRL) == YOUNG
    assert list(directory.iterdir()) == [path]


@pytest.mark.parametrize(("key", "data"), [(RIM, b"<xml/>"), (CRL, YOUNG)], ids=["without a date", "with a late one"])
async def test_a_piece_is_kept_for_a_day_at_most(world: World, tmp_path: Path, key: CollateralKey, data: bytes) -> None:
    world.vendors.published[key] = data
    for later, asked in ((DAY - timedelta(seconds=1), 1), (timedelta(seconds=1), 2)):
        assert await _obtain(world.store(tmp_path), key) == data
        world.later(later)
        assert await _obtain(world.store(tmp_path), key) == data
        assert len(world.vendors.asked) == asked


async def test_certificates_are_kept_for_as_long_as_they_are_valid(world: World, tmp_path: Path) -> None:
    world.vendors.published[VEK] = vek = AMD.vek(AMD.report())
    for _ in range(2):
        assert await _obtain(world.store(tmp_path), VEK) == vek
        world.later(2499 * DAY)
    assert len(world.vendors.asked) == 1
    world.later(DAY)
    await _obtain(world.store(tmp_path), VEK)
    assert len(world.vendors.asked) == 2


def _changed(**members: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps(json.loads(text) | members).encode()


_SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda text: text[:-1],
    "foreign": lambda _: b"<html>",
    "too long": lambda text: text + b" " * (2 * MAX_PIECE_BYTES),
    "nested without end": lambda _: b"[" * 100_000,
    "of another version": _changed(version=2),
    "with another member": _changed(more=1),
    "of another kind": _changed(kind="snp-chain"),
    "of another name": _changed(name="vcek/Genoa"),
    "with other data": _changed(data="Y2FuYXJ5"),
    "with another digest": _changed(sha256="ab" * 32),
    "had before time began": _changed(fetched_at=-1),
}


@pytest.mark.parametrize("spoil", _SPOILT.values(), ids=_SPOILT.keys())
async def test_a_file_that_was_changed_is_ignored_and_written_anew(
    world: World, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    world.vendors.published[CRL] = FRESH
    await _obtain(world.store(tmp_path), CRL)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    assert await _obtain(world.store(tmp_path, offline=True), CRL) is None
    assert await _obtain(world.store(tmp_path), CRL) == FRESH
    assert path.read_bytes() == good


async def test_a_piece_of_the_future_is_asked_for_again_and_kept_for_want_of_another(
    world: World, tmp_path: Path
) -> None:
    world.vendors.published[RIM] = b"<old/>"
    world.later(400 * DAY)
    await _obtain(world.store(tmp_path), RIM)
    world.now = NOW
    assert await _obtain(world.store(tmp_path, offline=True), RIM) == b"<old/>"
    world.vendors.published[RIM] = b"<new/>"
    assert len(world.vendors.asked) == 1
    await _obtain(world.store(tmp_path), RIM)
    assert len(world.vendors.asked) == 2


async def test_a_directory_that_cannot_be_written_costs_only_a_warning(
    world: World, tmp_path: Path, log: LogCapture
) -> None:
    (tmp_path / "file").write_text("no directory")
    world.vendors.published[CRL] = FRESH
    store = world.store(tmp_path / "file")
    for _ in range(2):
        assert await _obtain(store, CRL) == FRESH
    assert len(world.vendors.asked) == 1
    assert [entry["event"] for entry in log.entries] == ["collateral_not_cached"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 100_000, "."])
async def test_no_name_leads_out_of_the_directory(world: World, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "cache"
    key = CollateralKey(CollateralKind.GPU_RIM, name)
    cache = Cache(directory)
    assert cache.get(key) is None
    if name != "\ud800":  # for which no vendor can be asked
        cache.put(key, Piece(b"data", NOW))
        (path,) = directory.iterdir()
        assert len(path.name) < 100
    assert await _obtain(world.store(directory), key) in (None, b"data")
    assert not set(tmp_path.iterdir()) - {directory}


# --- answers that are none


def _fault(name: str) -> tuple[int, bytes, dict[str, str]]:
    return {
        "too long": (200, bytes(MAX_PIECE_BYTES + 1), {}),
        "a redirect": (302, b"", {"Location": "/kds/vcek/v1/Milan/crl?again"}),
        "not found": (404, b"canary", {}),
        "too many requests": (429, b"canary", {"Retry-After": "1"}),
        "out of order": (503, b"canary", {}),
        "a page": (200, b"<html>canary</html>", {}),
        "nothing": (200, b"", {}),
    }[name]


_FAULTS = ["too long", "a redirect", "not found", "too many requests", "out of order", "a page", "nothing"]
_READ = [CRL, VEK, INTEL.key, nras.KEYS]


@pytest.mark.parametrize("key", _READ, ids=lambda key: key.kind)
@pytest.mark.parametrize("fault", _FAULTS)
async def test_an_answer_that_is_none_is_told_and_not_kept(
    world: World, tmp_path: Path, log: LogCapture, fault: str, key: CollateralKey
) -> None:
    world.vendors.instead = constantly(*_fault(fault))
    store = world.store(tmp_path)
    assert await _obtain(store, key) is None
    assert len(world.vendors.asked) == len(set(world.vendors.asked)) > 0  # and not a second time
    assert list(tmp_path.iterdir()) == []
    (entry,) = log.entries
    assert (entry["event"], entry["kind"]) == ("collateral_not_fetched", key.kind)
    assert entry["error"]
    assert "canary" not in repr(log.entries)
    world.vendors.instead = None
    world.vendors.published |= {CRL: FRESH, VEK: AMD.vek(AMD.report())}
    world.later(BACKOFF)
    assert await _obtain(store, key) is not None


async def test_an_answer_of_the_greatest_length_is_taken(world: World) -> None:
    world.vendors.published[RIM] = longest = bytes(MAX_PIECE_BYTES * 3 // 4 - 150)
    assert await _obtain(world.store(), RIM) == longest


@pytest.mark.parametrize("answer", [b"", b"canary\r\n\r\n", http_answer(FRESH)[:-1]])
async def test_an_answer_that_breaks_off_is_none(log: LogCapture, answer: bytes) -> None:
    async with raw_server(answer) as server, _session() as session:
        store = CollateralStore(Cache(None), ask_over(session), lambda: NOW)
        store.sources = replace(store.sources, amd_kds=server.url)
        assert await _obtain(store, CRL) is None
    assert "canary" not in repr(log.entries)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", http_answer(FRESH)[:-1]])
async def test_a_vendor_that_hangs_is_given_up(log: LogCapture, sent: bytes) -> None:
    left = asyncio.Event()

    async def hang(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await left.wait()

    async with raw_server(hang) as server, _session() as session:
        store = CollateralStore(Cache(None), ask_over(session), lambda: NOW, piece_timeout_s=0.05)
        store.sources = replace(store.sources, amd_kds=server.url)
        assert await _obtain(store, CRL, STALE) == STALE
        left.set()
    (entry,) = log.entries
    assert entry["error"] in ("no answer in time", "TimeoutError")


async def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(http_answer(FRESH)) as server, _session() as session:
        monkeypatch.setenv("http_proxy", server.url)
        assert await ask_over(session)(Question("http://vendor.invalid/crl")) == Reply(
            FRESH, {"content-length": str(len(FRESH))}
        )
    assert server.heads[0].startswith(b"GET http://vendor.invalid/crl HTTP/1.1\r\n")


async def test_a_proxy_that_is_none_is_a_failure_that_does_not_quote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://canary")
    async with _session() as session:
        with pytest.raises(FetchError, match="HTTP_PROXY is not") as failure:
            await ask_over(session)(Question("http://vendor.invalid/crl"))
    assert "canary" not in str(failure.value)


# --- how often is asked


async def test_each_failure_doubles_the_pause_up_to_an_hour_and_a_success_ends_it(world: World) -> None:
    store = world.store()
    pauses = [BACKOFF * 2**n for n in range(7)] + [MAX_BACKOFF] * 6
    assert pauses[6] < MAX_BACKOFF
    for asked, pause in enumerate(pauses, start=1):
        assert await _obtain(store, CRL) is None
        world.later(pause - timedelta(seconds=1))
        assert await _obtain(store, CRL) is None
        assert len(world.vendors.asked) == asked
        world.later(timedelta(seconds=1))
    world.vendors.published[CRL] = FRESH
    assert await _obtain(store, CRL) == FRESH
    world.later(31 * DAY)
    del world.vendors.published[CRL]
    assert await _obtain(store, CRL) == FRESH
    world.later(BACKOFF)
    world.vendors.published[CRL] = YOUNG
    assert await _obtain(store, CRL) == YOUNG


async def test_a_piece_that_cannot_be_had_does_not_keep_others_from_being_asked_for(world: World) -> None:
    world.vendors.published[CRL] = FRESH
    obtained = await world.store().obtain(_wanting(VEK, CRL), {})
    assert obtained.collateral == {CRL: FRESH}


async def test_a_service_that_judges_evidence_is_left_alone_whatever_the_nonce(world: World) -> None:
    store = world.store()
    world.vendors.instead = constantly(503)
    for byte in range(3):
        key = CollateralKey(CollateralKind.GPU_NRAS, f"gpu/{bytes([byte] * 32).hex()}")
        assert (await store.obtain(_wanting(key), {}, {key: b"evidence"})).collateral == {}
    assert len(world.vendors.asked) == 1


async def test_many_who_want_a_piece_at_once_ask_once(world: World) -> None:
    world.vendors.published[CRL] = FRESH
    store = world.store()
    assert set(await asyncio.gather(*(_obtain(store, CRL) for _ in range(50)))) == {FRESH}
    assert len(world.vendors.asked) == 1
    assert await asyncio.gather(*(_obtain(store, VEK) for _ in range(50))) == [None] * 50
    assert len(world.vendors.asked) == 2


async def test_one_who_leaves_does_not_disturb_the_others(world: World) -> None:
    world.vendors.published[CRL] = FRESH
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        arrived.set()
        await gate.wait()
        return web.Response(body=FRESH)

    world.vendors.instead = wait
    store = world.store()
    async with asyncio.TaskGroup() as group:
        leaver = group.create_task(_obtain(store, CRL))
        await arrived.wait()
        stayer = group.create_task(_obtain(store, CRL))
        leaver.cancel()
        gate.set()
    assert stayer.result() == FRESH


async def test_a_few_are_asked_at_once_and_evidence_cannot_ask_for_ever_more(world: World) -> None:
    names = [CollateralKey(CollateralKind.GPU_RIM, f"name-{n}") for n in range(MAX_NEEDS + 10)]
    world.vendors.published |= dict.fromkeys(names, b"<xml/>")
    calls = 0

    def greedy(_: Collateral) -> tuple[CollateralKey, ...]:
        nonlocal calls
        calls += 1
        return tuple(names)

    obtained = await world.store().obtain(greedy, {})
    assert len(obtained.collateral) == len(world.vendors.asked) == MAX_NEEDS
    assert world.vendors.busiest <= ASKING_AT_ONCE
    assert calls == 2


async def test_a_chain_of_needs_ends() -> None:
    def endless(at_hand: Collateral) -> tuple[CollateralKey, ...]:
        return tuple(CollateralKey(CollateralKind.GPU_RIM, str(n)) for n in range(len(at_hand) + 1))

    sent = {CollateralKey(CollateralKind.GPU_RIM, str(n)): b"<xml/>" for n in range(100)}
    obtained = await CollateralStore(Cache(None), None, lambda: NOW).obtain(endless, sent)
    assert len(obtained.collateral) == 4


async def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten() -> None:
    cache = Cache(None)
    keys = [CollateralKey(CollateralKind.GPU_RIM, str(n)) for n in range(MAX_REMEMBERED + 1)]
    for key in keys[:-1]:
        cache.put(key, Piece(b"", NOW))
    cache.put(keys[0], Piece(b"again", NOW))
    cache.put(keys[-1], Piece(b"", NOW))
    assert cache.get(keys[1]) is None
    assert cache.get(keys[0]) == Piece(b"again", NOW)

    async def nobody(_: Question) -> Reply:
        raise AssertionError("an unknown kind of name asks nobody")

    store = CollateralStore(Cache(None), nobody, lambda: NOW)
    for n in range(MAX_REMEMBERED + 10):
        await _obtain(store, CollateralKey(CollateralKind.SNP_CRL, str(n)))
    assert len(store._failures) == MAX_REMEMBERED
    assert len(store._fetching) == 0


# --- without a network


async def test_offline_a_fresh_cache_is_enough(world: World, tmp_path: Path) -> None:
    document = alone(snp_document(amd=AMD, gpus=MACHINE))
    world.vendors.published |= {**AMD.collateral(document.evidence.report), **MACHINE.collateral()}
    policy = snp_policy(AMD, MACHINE)
    await _verified(world.store(tmp_path), document, policy)
    world.vendors.asked.clear()
    world.later(timedelta(minutes=59))
    await _verified(world.store(tmp_path, offline=True), document, policy, world.now)
    assert world.vendors.asked == []


async def test_offline_what_is_missing_is_left_out(world: World) -> None:
    store = world.store(offline=True)
    assert await store.obtain(_wanting(CRL, VEK), {CRL: FRESH}) == Obtained({CRL: FRESH}, NOW)
    assert store._failures == {}
    assert world.vendors.asked == []
