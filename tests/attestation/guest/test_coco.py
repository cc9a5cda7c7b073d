"""Evidence is taken from the API of Confidential Containers over real sockets, and every lie of it is refused."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pynvml
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from attestation.errors import AttestationError, EvidenceError, FetchError, RefusedError
from attestation.gpu.evidence import DeviceAnswer, parse_devices
from attestation.guest.agent import MAX_ANSWER_BYTES
from attestation.guest.attester import Attester, EvidenceDesk
from attestation.guest.coco import CocoDevices, CocoReports
from attestation.guest.devices import AttachedDevices
from attestation.guest.driver import DriverThread
from attestation.guest.machine import MachineAttester, first_of
from attestation.guest.nvml import MultiGpuMode
from attestation.guest.reports import MachineReport
from attestation.snp import appraise as snp
from attestation.snp.abi import Product, SigningKey
from attestation.snp.collateral import crl_key
from attestation.statement import gpu_nonce, report_data
from attestation.tdx import appraise as tdx
from attestation.types import CollateralKind, EvidenceKind, EvidenceSource, Nonce, ReportData, StatementBytes
from core.program.http.listener import listening
from core.program.validation import decode_base64
from tests.attestation.gpu.forge import Machine
from tests.attestation.guest.fake_coco import FakeCoco, chain, encoded, serving
from tests.attestation.guest.fake_nvml import IN_ORDER, FakeLibrary, FakeNvml
from tests.attestation.servers import LOOPBACK, constant_answer, raw_server
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel
from tests.vectors import vector

DATA = ReportData(bytes(range(64)))
OTHER_DATA = bytes(64)
NONCE = Nonce(bytes(range(32)))
OTHER_NONCE = Nonce(bytes(32))
STATEMENT = StatementBytes(b"statement")
AMD = ForgedAmd(Product.GENOA)
INTEL = ForgedIntel()
GPUS = Machine.build(gpus=2)
FABRIC = Machine.build(gpus=8, switches=4)
PPCIE = replace(IN_ORDER, multi_gpu_mode=MultiGpuMode.PPCIE)


def snp_guest(amd: ForgedAmd = AMD, **changes: Any) -> FakeCoco:
    report = amd.report()
    certificates = chain(**{str(amd.signing): amd.vek(report)}, ask=amd.ask().der(), ark=amd.ark().der())
    honest: dict[str, Any] = {"report": amd.report, "certificates": certificates}
    return FakeCoco(**honest | changes)


def tdx_guest(**changes: Any) -> FakeCoco:
    honest: dict[str, Any] = {"tee": "tdx", "report": INTEL.quote}
    return FakeCoco(**honest | changes)


def answers_of(machine: Machine, nonce: Nonce) -> Sequence[DeviceAnswer]:
    gpus, switches = machine.answers(nonce)
    return (*gpus, *switches)


@pytest.fixture
async def coco() -> AsyncIterator[FakeCoco]:
    async with serving(snp_guest()) as guest:
        yield guest


def machine_of(coco: FakeCoco) -> MachineAttester:
    kind = EvidenceKind(coco.tee or "")
    return MachineAttester(kind, CocoReports(coco.url), None)


# --- evidence that verifies


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("signing", SigningKey)
async def test_an_snp_guest_gives_evidence_that_its_own_certificates_vouch_for(
    product: Product, signing: SigningKey
) -> None:
    amd = ForgedAmd(product, signing)
    async with serving(snp_guest(amd)) as coco:
        evidence = await machine_of(coco).collect(DATA)
    collateral = {**evidence.collateral, crl_key(amd.signing, amd.product): amd.crl()}
    appraisal = snp.appraise(evidence.report, amd.policy(), collateral, roots=amd.roots, now=amd.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert {key.kind for key in evidence.collateral} == {CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN}


async def test_a_tdx_guest_gives_evidence_that_verifies() -> None:
    async with serving(tdx_guest()) as coco:
        evidence = await machine_of(coco).collect(DATA)
    appraisal = tdx.appraise(evidence.report, INTEL.policy(), INTEL.collateral(), roots=INTEL.roots, now=INTEL.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert evidence.collateral == {}


REAL_REPORTS = {
    "snp/ms_milan_report.bin": EvidenceKind.SNP,
    "snp/ms_turin_report.bin": EvidenceKind.SNP,
    "snp/gosev_milan_v2_report.bin": EvidenceKind.SNP,
    "tdx/phala_v4_quote.bin": EvidenceKind.TDX,
    "tdx/gotdx_v5_quote.dat": EvidenceKind.TDX,
}


@pytest.mark.parametrize("name", REAL_REPORTS)
async def test_real_evidence_comes_through_as_it_is(name: str) -> None:
    report = vector(name)
    async with serving(FakeCoco(tee=REAL_REPORTS[name].value, report=lambda _: report)) as coco:
        assert await CocoReports(coco.url).collect(DATA) == MachineReport(REAL_REPORTS[name], report, b"")


async def test_the_64_bytes_are_sent_as_url_safe_base64_without_padding(coco: FakeCoco) -> None:
    for data in (DATA, ReportData(b"\xff" * 64), ReportData(b"\xfb\xef" * 32)):
        assert (await machine_of(coco).collect(data)).report[0x50:0x90] == data
    assert coco.asked == [("/aa/evidence", data) for data in (DATA, b"\xff" * 64, b"\xfb\xef" * 32)]


async def test_certificates_of_other_types_are_left_out(coco: FakeCoco) -> None:
    assert coco.certificates is not None
    whole = (await machine_of(coco).collect(DATA)).collateral
    other = {"cert_type": {"OTHER": "00000000-0000-0000-0000-000000000000"}, "data": [1, 2, 3]}
    coco.certificates = [other, {"cert_type": "CRL", "data": [48, 0]}, *coco.certificates]
    assert (await machine_of(coco).collect(DATA)).collateral == whole != {}


@pytest.mark.parametrize("certificates", [None, []])
async def test_no_certificates_are_no_collateral(coco: FakeCoco, certificates: list[Any] | None) -> None:
    coco.certificates = certificates
    assert (await machine_of(coco).collect(DATA)).collateral == {}


async def test_certificates_that_cannot_be_read_cost_themselves_and_nothing_else(
    coco: FakeCoco, log: LogCapture
) -> None:
    coco.certificates = [*chain(vcek=b"1"), *chain(vcek=b"2")]
    assert (await machine_of(coco).collect(DATA)).collateral == {}
    assert [entry["event"] for entry in log.entries] == ["certificate_table_not_used"]


# --- what is there


async def test_what_the_guest_runs_on_is_found(coco: FakeCoco) -> None:
    assert await CocoReports(coco.url).find_kind() is EvidenceKind.SNP
    coco.tee = "tdx"
    assert await CocoReports(coco.url).find_kind() is EvidenceKind.TDX


async def test_evidence_that_an_agent_makes_up_is_refused_in_a_sentence_of_its_own(coco: FakeCoco) -> None:
    coco.tee = "sample"
    reports = CocoReports(coco.url)
    for ask in (reports.find_kind, lambda: reports.collect(DATA)):
        with pytest.raises(FetchError, match=r"`sample` evidence, which the agent makes up .* is never accepted"):
            await ask()
    assert coco.asked == []


@pytest.mark.parametrize("tee", ["az-snp-vtpm", "az-tdx-vtpm", "sgx", "se", "cca", "csv", "tpm", "SNP", ""])
async def test_other_hardware_is_refused(coco: FakeCoco, tee: str) -> None:
    coco.tee = tee
    with pytest.raises(FetchError, match="only snp and tdx" if tee else "tee: String should have"):
        await CocoReports(coco.url).find_kind()


async def test_an_api_that_serves_only_resources_says_what_to_enable(coco: FakeCoco) -> None:
    coco.tee, coco.feature = None, "resource"
    with pytest.raises(FetchError, match=r"\(feature resource\); it takes agent.guest_components_rest_api=all"):
        await CocoReports(coco.url).find_kind()


async def test_where_nothing_answers_it_is_said_what_to_enable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(FetchError, match=f"nothing answers at {url}; it takes agent.guest_components_rest_api=all"):
            await CocoReports(url).find_kind()


async def test_what_else_listens_there_is_not_taken_for_the_api() -> None:
    async with listening(web.Application(), [LOOPBACK], error_response=constant_answer) as (address,):
        with pytest.raises(FetchError, match=r"not its API \(status 404\)"):
            await CocoReports(f"http://{address}").find_kind()


# --- lies


def members(**changes: Any) -> Callable[[str, Any], Any]:
    """Of an SNP report other members than it has."""

    def change(path: str, answer: Any) -> Any:
        return {**answer, "attestation_report": {**answer["attestation_report"], **changes}} if "aa" in path else answer

    return change


def whole(answer: Any) -> Callable[[str, Any], Any]:
    return lambda path, honest: answer if path == "/aa/evidence" else honest


def without(name: str) -> Callable[[str, Any], Any]:
    return lambda path, answer: {key: value for key, value in answer.items() if key != name or path == "/info"}


SNP_LIES: dict[str, tuple[Callable[[str, Any], Any], type[AttestationError], str]] = {
    "other report_data": (members(report_data=[0] * 64), EvidenceError, "other report_data"),
    "report_data that begins like ours": (members(report_data=[*range(63), 0]), EvidenceError, "other report_data"),
    "short report_data": (members(report_data=[0] * 63), FetchError, "report_data: must have 64 bytes"),
    "a measurement with a fraction": (members(measurement=[0.5] * 48), FetchError, "measurement.0"),
    "a number with a fraction": (members(vmpl=0.0), FetchError, "vmpl"),
    "a huge array": (members(chip_id=[0] * 30_000), FetchError, "too many values"),
    "a longer array": (members(chip_id=[0] * 1000), FetchError, "chip_id: must have 64 bytes"),
    "a version that is none": (members(version=1), EvidenceError, "version 1"),
    "no signature": (members(signature=None), FetchError, "signature"),
    "a member that is not known": (members(extension=1), FetchError, "extension: unknown member"),
    "no report": (without("attestation_report"), FetchError, "attestation_report: Field required"),
    "no certificates, not even none": (without("cert_chain"), FetchError, "cert_chain: Field required"),
    "a certificate with a fraction": (
        lambda path, answer: (
            {**answer, "cert_chain": [{"cert_type": "ASK", "data": [1.5]}]} if "aa" in path else answer
        ),
        FetchError,
        "cert_chain.0.data.0",
    ),
    "a long certificate": (
        lambda path, answer: {**answer, "cert_chain": chain(ask=bytes(16_385))} if "aa" in path else answer,
        FetchError,
        "cert_chain.0.data",
    ),
    "too many certificates": (
        lambda path, answer: {**answer, "cert_chain": chain(ask=b"a") * 17} if "aa" in path else answer,
        FetchError,
        "cert_chain",
    ),
    "evidence of another TEE": (whole({"quote": "AAAA", "cc_eventlog": None}), FetchError, "attestation_report"),
    "evidence that an agent made up": (whole({"svn": "1", "report_data": encoded(DATA)}), FetchError, "Field required"),
    "a list": (whole([]), FetchError, "document"),
    "nothing": (whole(None), FetchError, "document"),
}


@pytest.mark.parametrize(("lie", "error", "told"), SNP_LIES.values(), ids=SNP_LIES.keys())
async def test_a_lie_about_an_snp_report_is_refused(
    coco: FakeCoco, lie: Callable[[str, Any], Any], error: type[AttestationError], told: str
) -> None:
    machine = machine_of(coco)
    await machine.collect(DATA)
    coco.changed = lie
    with pytest.raises(error, match=told):
        await machine.collect(DATA)


TDX_LIES: dict[str, tuple[Callable[[str, Any], Any], type[AttestationError], str]] = {
    "other report_data": (whole({"quote": encoded(INTEL.quote(OTHER_DATA))}), EvidenceError, "other report_data"),
    "no quote": (without("quote"), FetchError, "quote: Field required"),
    "an empty quote": (whole({"quote": ""}), EvidenceError, "cut inside"),
    "a quote in other letters": (whole({"quote": "A-_A"}), FetchError, "quote: not base64"),
    "a quote without padding": (whole({"quote": "AAAAA"}), FetchError, "quote: not base64"),
    "a quote that is a number": (whole({"quote": 1}), FetchError, "quote: must be a base64 string"),
    "a report of another TEE": (whole({"attestation_report": {}, "cert_chain": None}), FetchError, "quote"),
}


@pytest.mark.parametrize(("lie", "error", "told"), TDX_LIES.values(), ids=TDX_LIES.keys())
async def test_a_lie_about_a_quote_is_refused(
    lie: Callable[[str, Any], Any], error: type[AttestationError], told: str
) -> None:
    async with serving(tdx_guest()) as coco:
        machine = machine_of(coco)
        await machine.collect(DATA)
        coco.changed = lie
        with pytest.raises(error, match=told):
            await machine.collect(DATA)


async def test_a_tee_that_changes_between_calls_is_refused(coco: FakeCoco) -> None:
    machine = machine_of(coco)
    await machine.collect(DATA)
    coco.tee, coco.report = "tdx", INTEL.quote
    with pytest.raises(EvidenceError, match="snp evidence before, and tdx now"):
        await machine.collect(DATA)
    coco.tee = "sample"
    with pytest.raises(FetchError, match="never accepted"):
        await machine.collect(DATA)


@pytest.mark.parametrize("status", [204, 302, 400, 403, 405, 500, 503])
@pytest.mark.parametrize("path", ["/info", "/aa/evidence"])
async def test_an_error_of_the_agent_is_told_by_its_status(coco: FakeCoco, path: str, status: int) -> None:
    machine = machine_of(coco)
    coco.statuses[path] = status
    with pytest.raises(FetchError, match=rf"\(status {status}\)") as refusal:
        await machine.collect(DATA)
    assert "get evidence failed" not in str(refusal.value)


async def test_evidence_that_is_not_found_is_not_enabled(coco: FakeCoco) -> None:
    coco.statuses["/aa/evidence"] = 404
    with pytest.raises(FetchError, match=r"agent\.guest_components_rest_api=all"):
        await machine_of(coco).collect(DATA)


NOT_JSON = {
    "no JSON": b"{",
    "a member twice": b'{"tee":"snp","tee":"tdx","feature":"all"}',
    "not UTF-8": b'{"tee":"\xff"}',
    "nested without end": b"[" * 100_000,
    "NaN": b'{"tee":NaN}',
    "too long": b" " * (MAX_ANSWER_BYTES + 1),
}


@pytest.mark.parametrize("path", ["/info", "/aa/evidence"])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_sound_json_is_refused(coco: FakeCoco, path: str, body: bytes) -> None:
    machine = machine_of(coco)
    coco.raw[path] = body
    with pytest.raises(FetchError, match="Confidential Containers"):
        await machine.collect(DATA)


async def test_an_agent_that_hangs_is_given_up() -> None:
    gate = asyncio.Event()

    async def hang(_: asyncio.StreamWriter) -> None:
        await gate.wait()

    async with raw_server(hang) as server:
        try:
            with pytest.raises(FetchError, match="did not answer in time"):
                await CocoReports(server.url, deadline_s=0.05).find_kind()
        finally:
            gate.set()


async def test_an_agent_that_leaves_in_the_middle_is_told() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{") as server:
        with pytest.raises(FetchError, match="no answer"):
            await CocoReports(server.url).find_kind()


@pytest.mark.parametrize("url", ["http://192.0.2.1:8006", "http://[2001:db8::1]:8006"])
async def test_no_other_machine_is_asked(url: str) -> None:
    with pytest.raises(FetchError, match=r"nothing answers|no answer"):
        await CocoReports(url, deadline_s=5.0).find_kind()


# --- devices


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """NVML of a container that has one."""
    library = FakeLibrary(pynvml)
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library


@pytest.fixture
def no_nvml(library: FakeLibrary) -> None:
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND


def devices_of(coco: FakeCoco, nvml: FakeNvml) -> CocoDevices:
    return CocoDevices(CocoReports(coco.url)._devices, nvml, DriverThread("NVML", deadline_s=5.0))


def gpu_guest(machine: Machine = GPUS, **changes: Any) -> FakeCoco:
    honest: dict[str, Any] = {"additional_tees": ("nvidia",), "devices": lambda nonce: answers_of(machine, nonce)}
    return snp_guest(**honest | changes)


async def test_gpus_are_attested_by_the_agent_over_our_nonce() -> None:
    gpus = GPUS.answers(NONCE)[0]
    async with serving(gpu_guest(devices=lambda _: gpus)) as coco:
        devices = parse_devices(await devices_of(coco, FakeNvml(gpus=2)).collect(NONCE))
    assert list(devices.gpus) == gpus
    assert devices.switches == ()
    assert coco.asked == [("/aa/additional-evidence", NONCE)]


async def test_switches_come_in_the_same_list_and_are_told_apart() -> None:
    gpus, switches = FABRIC.answers(NONCE)
    async with serving(gpu_guest(devices=lambda _: (*gpus[:4], *switches, *gpus[4:]))) as coco:
        devices = parse_devices(await devices_of(coco, FakeNvml(gpus=8, settings=PPCIE)).collect(NONCE))
    assert (list(devices.gpus), list(devices.switches)) == (gpus, switches)


async def test_switches_that_the_gpus_do_not_rely_on_are_left_out() -> None:
    async with serving(gpu_guest(FABRIC)) as coco:
        assert parse_devices(await devices_of(coco, FakeNvml(gpus=8)).collect(NONCE)).switches == ()


async def test_real_evidence_of_eight_gpus_and_four_switches_is_carried_as_it_is() -> None:
    listed = json.loads(vector("nvidia/nvtrust_ppcie_8xH100_590_12_evidence.json"))
    listed += json.loads(vector("nvidia/nvtrust_ppcie_4xLS10_evidence.json"))
    whole = {"nvidia": {"device_evidence_list": [{**device, "uuid": "unknown"} for device in listed]}}
    nonce = Nonce(bytes.fromhex(listed[0]["nonce"]))
    async with serving(gpu_guest(raw={"/aa/additional-evidence": json.dumps(whole).encode()})) as coco:
        devices = parse_devices(await devices_of(coco, FakeNvml(gpus=8, settings=PPCIE)).collect(nonce))
        carried = [*devices.gpus, *devices.switches]
        assert [device.evidence for device in carried] == [decode_base64(device["evidence"]) for device in listed]
        with pytest.raises(EvidenceError, match="another nonce"):
            await devices_of(coco, FakeNvml(gpus=8, settings=PPCIE)).collect(NONCE)


def devices_changed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[str, Any], Any]:
    def changed(path: str, answer: Any) -> Any:
        if path == "/aa/additional-evidence":
            change(answer["nvidia"]["device_evidence_list"])
        return answer

    return changed


DEVICE_LIES: dict[str, tuple[Mapping[str, Any], type[AttestationError], str]] = {
    "another nonce": ({"devices": lambda _: answers_of(GPUS, OTHER_NONCE)}, EvidenceError, "another nonce"),
    "another nonce of the second": (
        {"devices": lambda nonce: (GPUS.answers(nonce)[0][0], GPUS.answers(OTHER_NONCE)[0][1])},
        EvidenceError,
        "another nonce",
    ),
    "a GPU that is missing": (
        {"devices": lambda n: GPUS.answers(n)[0][:1]},
        EvidenceError,
        "1 GPUs, and NVML counts 2",
    ),
    "a GPU too many": ({"devices": lambda n: GPUS.answers(n)[0] * 2}, EvidenceError, "4 GPUs, and NVML counts 2"),
    "no devices any more": ({"devices": lambda _: ()}, FetchError, "no evidence of any now"),
    "an empty list": ({"changed": devices_changed(list.clear)}, FetchError, "device_evidence_list: must not be empty"),
    "a hundred devices": ({"devices": lambda n: GPUS.answers(n)[0] * 50}, FetchError, "device_evidence_list"),
    "an architecture without rules": (
        {"changed": devices_changed(lambda listed: listed[0].update(arch="AMPERE"))},
        FetchError,
        "device_evidence_list.0.arch",
    ),
    "a GPU that is said to be a switch": (
        {"changed": devices_changed(lambda listed: listed[0].update(arch="LS10"))},
        EvidenceError,
        "1 GPUs, and NVML counts 2",
    ),
    "evidence that is no report": (
        {"changed": devices_changed(lambda listed: listed[0].update(evidence="AAAA"))},
        EvidenceError,
        "cut short",
    ),
    "evidence that is no base64": (
        {"changed": devices_changed(lambda listed: listed[0].update(evidence="%"))},
        FetchError,
        "evidence: not base64",
    ),
    "no evidence": (
        {"changed": devices_changed(lambda listed: listed[0].pop("evidence"))},
        FetchError,
        "evidence: Field required",
    ),
    "a long certificate": (
        {"changed": devices_changed(lambda listed: listed[0].update(certificate=encoded(bytes(8193))))},
        EvidenceError,
        "8192",
    ),
    "devices of others only": ({"raw": {"/aa/additional-evidence": b'{"sample_device":{}}'}}, FetchError, "nvidia"),
    "an error": ({"statuses": {"/aa/additional-evidence": 500}}, FetchError, "status 500"),
}


@pytest.mark.parametrize(("lies", "error", "told"), DEVICE_LIES.values(), ids=DEVICE_LIES.keys())
async def test_a_lie_about_devices_is_refused(
    lies: Mapping[str, Any], error: type[AttestationError], told: str
) -> None:
    async with serving(gpu_guest(**lies)) as coco:
        with pytest.raises(error, match=told):
            await devices_of(coco, FakeNvml(gpus=2)).collect(NONCE)


async def test_a_switch_over_another_nonce_is_refused() -> None:
    def devices(nonce: Nonce) -> Sequence[DeviceAnswer]:
        return (*FABRIC.answers(nonce)[0], *FABRIC.answers(OTHER_NONCE)[1])

    async with serving(gpu_guest(devices=devices)) as coco:
        with pytest.raises(EvidenceError, match="another nonce"):
            await devices_of(coco, FakeNvml(gpus=8, settings=PPCIE)).collect(NONCE)


async def test_gpus_that_rely_on_switches_are_not_attested_without_them() -> None:
    async with serving(gpu_guest()) as coco:
        with pytest.raises(FetchError, match="the switches must be attested"):
            await devices_of(coco, FakeNvml(gpus=2, settings=PPCIE)).collect(NONCE)


async def test_nothing_is_asked_of_gpus_that_developers_tools_may_look_into() -> None:
    async with serving(gpu_guest()) as coco:
        with pytest.raises(RefusedError, match="gpu developer tools"):
            await devices_of(coco, FakeNvml(gpus=2, settings=replace(IN_ORDER, dev_tools_mode=1))).collect(NONCE)
    assert coco.asked == []


async def test_gpus_are_let_to_work_when_told() -> None:
    nvml = FakeNvml()
    await CocoDevices(CocoReports()._devices, nvml, DriverThread("NVML", deadline_s=5.0)).admit()
    assert nvml.accepting


async def test_a_guest_without_gpus_has_no_devices(coco: FakeCoco, no_nvml: None) -> None:
    assert await CocoReports(coco.url).find_devices() is None


async def test_gpus_that_the_agent_does_not_attest_are_attested_by_their_driver(
    coco: FakeCoco, library: FakeLibrary
) -> None:
    assert isinstance(await CocoReports(coco.url).find_devices(), AttachedDevices)


async def test_gpus_that_the_agent_attests_are_asked_of_it(library: FakeLibrary) -> None:
    async with serving(gpu_guest()) as coco:
        assert isinstance(await CocoReports(coco.url).find_devices(), CocoDevices)


async def test_gpus_are_not_attested_where_nothing_tells_of_developers_tools(no_nvml: None) -> None:
    async with serving(gpu_guest()) as coco:
        with pytest.raises(FetchError, match="only NVML tells"):
            await CocoReports(coco.url).find_devices()


async def test_the_desk_binds_devices_and_statement_through_the_api(no_nvml: None) -> None:
    async with serving(gpu_guest()) as coco:
        reports = CocoReports(coco.url)
        machine: Attester = MachineAttester(EvidenceKind.SNP, reports, devices_of(coco, FakeNvml(gpus=2)))
        document = await EvidenceDesk(machine, lambda: STATEMENT).document(NONCE, "a")
    assert document is not None
    assert {gpu.nonce for gpu in parse_devices(document.device_evidence).gpus} == {gpu_nonce((NONCE,), STATEMENT)}
    appraisal = snp.appraise(document.evidence.report, AMD.policy(), {}, roots=AMD.roots, now=AMD.now)
    assert appraisal.reported == report_data((NONCE,), STATEMENT, document.device_evidence)
    assert machine.source is EvidenceSource.COCO


async def test_the_machine_is_found_through_the_api(coco: FakeCoco, no_nvml: None, log: LogCapture) -> None:
    machine = await first_of([CocoReports(coco.url)])
    assert (machine.kind, machine.source) == (EvidenceKind.SNP, EvidenceSource.COCO)
    assert await machine.collect_devices(NONCE) == b""
    assert [(entry["source"], entry["kind"]) for entry in log.entries] == [("coco", "snp")]
