from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from structlog.testing import LogCapture

from attestation.errors import EvidenceError, FetchError
from attestation.gpu.evidence import parse_devices
from attestation.guest import machine as machine_module
from attestation.guest.attester import Attester, EvidenceDesk
from attestation.guest.devices import AttachedDevices
from attestation.guest.machine import MachineAttester, first_of, open_machine
from attestation.guest.options import GuestOptions
from attestation.guest.tsm import Tree, TsmReports
from attestation.snp import appraise as snp
from attestation.snp.abi import Product, SigningKey
from attestation.snp.collateral import crl_key
from attestation.statement import gpu_nonce, report_data
from attestation.tdx import appraise as tdx
from attestation.types import CollateralKind, EvidenceKind, EvidenceSource, Nonce, ReportData, StatementBytes
from tests.attestation.guest import fake_coco, fake_dstack
from tests.attestation.guest.fake_coco import FakeCoco
from tests.attestation.guest.fake_dstack import FakeDstack
from tests.attestation.guest.fake_nvml import FakeLibrary, FakeNvml
from tests.attestation.guest.fake_tsm import FakeKernel
from tests.attestation.snp.forge import ForgedAmd, certificate_table
from tests.attestation.tdx.forge import ForgedIntel
from tests.vectors import vector

DATA = ReportData(bytes(range(64)))
NONCE = Nonce(bytes(range(32)))
STATEMENT = StatementBytes(b"statement")
AMD = ForgedAmd(Product.GENOA)
INTEL = ForgedIntel()


def amd_kernel(root: Path, amd: ForgedAmd = AMD) -> FakeKernel:
    return FakeKernel(root, lambda inblob, vmpl: amd.report(inblob, vmpl=vmpl), table=amd.table(amd.report()))


def intel_kernel(root: Path) -> FakeKernel:
    return FakeKernel(root, lambda inblob, _: INTEL.quote(inblob), provider="tdx_guest")


def machine_of(kind: EvidenceKind, tree: Tree) -> MachineAttester:
    return MachineAttester(kind, TsmReports(tree), None)


Kernel = Callable[[Path], FakeKernel]
KERNELS = pytest.mark.parametrize(
    ("kind", "kernel"), [(EvidenceKind.SNP, amd_kernel), (EvidenceKind.TDX, intel_kernel)], ids=["snp", "tdx"]
)


# --- evidence that verifies


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("signing", [SigningKey.VCEK, SigningKey.VLEK])
async def test_an_snp_machine_gives_evidence_that_its_own_certificates_vouch_for(
    tmp_path: Path, product: Product, signing: SigningKey
) -> None:
    amd = ForgedAmd(product, signing)
    evidence = await machine_of(EvidenceKind.SNP, amd_kernel(tmp_path, amd)).collect(DATA)
    collateral = {**evidence.collateral, crl_key(amd.signing, amd.product): amd.crl()}
    appraisal = snp.appraise(evidence.report, amd.policy(), collateral, roots=amd.roots, now=amd.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert {key.kind for key in evidence.collateral} == {CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN}


async def test_a_tdx_machine_gives_evidence_that_verifies(tmp_path: Path, log: LogCapture) -> None:
    evidence = await machine_of(EvidenceKind.TDX, intel_kernel(tmp_path)).collect(DATA)
    appraisal = tdx.appraise(evidence.report, INTEL.policy(), INTEL.collateral(), roots=INTEL.roots, now=INTEL.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert evidence.collateral == {}
    assert log.entries == []  # there is no table of certificates to miss


async def test_the_desk_binds_devices_and_statement_through_the_machine(tmp_path: Path) -> None:
    machine: Attester = MachineAttester(EvidenceKind.SNP, TsmReports(amd_kernel(tmp_path)), AttachedDevices(FakeNvml()))
    document = await EvidenceDesk(machine, lambda: STATEMENT).document(NONCE, "a")
    assert document is not None
    assert {gpu.nonce for gpu in parse_devices(document.device_evidence).gpus} == {gpu_nonce((NONCE,), STATEMENT)}
    expected = report_data((NONCE,), STATEMENT, document.device_evidence)
    appraisal = snp.appraise(document.evidence.report, AMD.policy(), {}, roots=AMD.roots, now=AMD.now)
    assert appraisal.reported == expected
    assert document.collateral == document.evidence.collateral != {}


# --- a driver that answers something else


@KERNELS
async def test_a_report_over_other_data_never_leaves_the_machine(
    tmp_path: Path, kind: EvidenceKind, kernel: Kernel
) -> None:
    tree = kernel(tmp_path)
    honest = tree._sign
    for byte in (0, 31, 63):
        changed = bytes(value ^ (index == byte) for index, value in enumerate(DATA))
        tree._sign = lambda _, vmpl, changed=changed: honest(changed, vmpl)  # type: ignore[misc]
        with pytest.raises(EvidenceError, match="other report_data"):
            await machine_of(kind, tree).collect(DATA)


@KERNELS
@pytest.mark.parametrize("report", [b"", b"\x00", bytes(1184), bytes(5000)])
async def test_what_is_no_report_is_refused(tmp_path: Path, kind: EvidenceKind, kernel: Kernel, report: bytes) -> None:
    tree = kernel(tmp_path)
    tree._sign = lambda _inblob, _vmpl: report
    with pytest.raises(EvidenceError):
        await machine_of(kind, tree).collect(DATA)


async def test_a_machine_does_not_change_its_kind(tmp_path: Path) -> None:
    tree = amd_kernel(tmp_path)
    machine = machine_of(EvidenceKind.SNP, tree)
    await machine.collect(DATA)
    tree.provider = "tdx_guest"
    with pytest.raises(EvidenceError, match="snp evidence before, and tdx now"):
        await machine.collect(DATA)


async def test_a_driver_that_hangs_is_given_up(tmp_path: Path) -> None:
    tree, gate = amd_kernel(tmp_path), threading.Event()
    tree.before_read = lambda _request, _attribute: gate.wait()  # type: ignore[assignment]
    try:
        with pytest.raises(FetchError, match="configfs-tsm did not answer in time"):
            await MachineAttester(EvidenceKind.SNP, TsmReports(tree, deadline_s=0.05), None).collect(DATA)
    finally:
        gate.set()


# --- what the host delivers


async def test_no_table_is_no_collateral(tmp_path: Path) -> None:
    tree = amd_kernel(tmp_path)
    tree.table = b""
    assert (await machine_of(EvidenceKind.SNP, tree).collect(DATA)).collateral == {}


@pytest.mark.parametrize(
    "table", [b"\x01", bytes(23), certificate_table({"vcek": bytes(100_000)}), certificate_table({"vcek": b""})]
)
async def test_a_table_that_cannot_be_read_costs_its_certificates_and_nothing_else(
    tmp_path: Path, log: LogCapture, table: bytes
) -> None:
    tree = amd_kernel(tmp_path)
    tree.table = table
    evidence = await machine_of(EvidenceKind.SNP, tree).collect(DATA)
    assert evidence.collateral == {}
    assert [entry["event"] for entry in log.entries] == ["certificate_table_not_used"]


async def test_a_real_report_is_recognised_by_its_data(tmp_path: Path) -> None:
    report = vector("snp/ms_milan_report.bin")
    tree = FakeKernel(tmp_path, lambda _inblob, _vmpl: report)
    machine = machine_of(EvidenceKind.SNP, tree)
    assert (await machine.collect(ReportData(report[0x50:0x90]))).report == report
    with pytest.raises(EvidenceError, match="other report_data"):
        await machine.collect(DATA)


async def test_a_real_quote_is_recognised_by_its_data(tmp_path: Path) -> None:
    quote = vector("tdx/phala_v4_quote.bin")
    tree = FakeKernel(tmp_path, lambda _inblob, _vmpl: quote, provider="tdx_guest")
    machine = machine_of(EvidenceKind.TDX, tree)
    assert (await machine.collect(ReportData(quote[48 + 520 : 48 + 584]))).report == quote
    with pytest.raises(EvidenceError, match="other report_data"):
        await machine.collect(DATA)


# --- finding out where we are


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary(pynvml)
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library


@KERNELS
async def test_a_machine_without_gpus_attests_its_processor_alone(
    tmp_path: Path, library: FakeLibrary, kind: EvidenceKind, kernel: Kernel
) -> None:
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    machine = await first_of([TsmReports(kernel(tmp_path))])
    assert machine.kind is kind
    assert await machine.collect_devices(NONCE) == b""
    await machine.admit_devices()


async def test_the_gpus_of_a_machine_are_found_and_admitted(tmp_path: Path, library: FakeLibrary) -> None:
    machine = await first_of([TsmReports(amd_kernel(tmp_path))])
    devices = parse_devices(await machine.collect_devices(NONCE))
    assert [gpu.evidence for gpu in devices.gpus] == [b"0report", b"1report"]
    assert library.accepting == 0
    await machine.admit_devices()
    assert library.accepting == 1


async def test_a_driver_of_gpus_that_does_not_answer_stops_the_search(tmp_path: Path, library: FakeLibrary) -> None:
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_NO_PERMISSION
    with pytest.raises(FetchError, match="Insufficient Permissions"):
        await first_of([TsmReports(amd_kernel(tmp_path))])


async def test_a_machine_without_a_tee_is_none(tmp_path: Path, library: FakeLibrary) -> None:
    tree = amd_kernel(tmp_path)
    tree.provider = "nobody"
    with pytest.raises(FetchError, match="provider"):
        await first_of([TsmReports(tree)])


# --- who hands the evidence out


def options(tmp_path: Path, **changes: object) -> GuestOptions:
    """Of a machine on which nobody does."""
    absent: dict[str, object] = {
        "tsm_path": tmp_path / "tsm",
        "coco_url": unused_url(),
        "dstack_socket": tmp_path / "dstack.sock",
    }
    return GuestOptions(**absent | changes)  # type: ignore[arg-type]


def unused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def no_gpus(library: FakeLibrary) -> None:
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND


async def test_where_nobody_hands_out_evidence_one_sentence_says_what_each_lacks(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as refusal:
        await open_machine(options(tmp_path))
    told = str(refusal.value)
    assert told.startswith("nobody hands out evidence of this machine: configfs-tsm: No such file or directory; ")
    assert "/sys/kernel/config" in told
    assert "; or Confidential Containers: nothing answers at http://127.0.0.1:" in told
    assert "agent.guest_components_rest_api=all" in told
    assert f"; or dstack: nobody answers at {tmp_path}/dstack.sock; it takes the guest's own, mounted" in told
    assert "\n" not in told


async def test_made_up_evidence_is_told_of_where_nobody_else_is(tmp_path: Path) -> None:
    async with fake_coco.serving(FakeCoco(tee="sample")) as coco:
        with pytest.raises(FetchError, match="`sample` evidence"):
            await open_machine(options(tmp_path, coco_url=coco.url))


async def test_the_kernel_is_asked_first_then_confidential_containers_then_dstack(
    tmp_path: Path, no_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tsm").mkdir()
    coco, agent = FakeCoco(report=AMD.report), FakeDstack(quote=INTEL.quote)
    async with fake_coco.serving(coco), fake_dstack.serving(agent, tmp_path / "dstack.sock"):
        found = options(tmp_path, coco_url=coco.url)
        assert (await open_machine(found)).source is EvidenceSource.COCO  # what is mounted there is no configfs
        monkeypatch.setattr(machine_module, "ConfigfsTree", amd_kernel)
        assert (await open_machine(found)).source is EvidenceSource.CONFIGFS
        monkeypatch.undo()
        coco.tee = None
        assert (await open_machine(found)).source is EvidenceSource.DSTACK


@pytest.mark.parametrize("source", EvidenceSource)
async def test_only_who_is_named_is_asked(tmp_path: Path, no_gpus: None, source: EvidenceSource) -> None:
    others = [other for other in EvidenceSource if other is not source]
    coco, agent = FakeCoco(report=AMD.report), FakeDstack(quote=INTEL.quote)
    async with fake_coco.serving(coco), fake_dstack.serving(agent, tmp_path / "agent.sock") as agents_socket:
        places = {"coco_url": coco.url, "dstack_socket": agents_socket}
        if source is not EvidenceSource.CONFIGFS:
            machine = await open_machine(options(tmp_path, evidence_from=source, **places))
            assert machine.source is source
        absent = {EvidenceSource.COCO: "coco_url", EvidenceSource.DSTACK: "dstack_socket"}.get(source)
        with pytest.raises(FetchError) as refusal:
            await open_machine(
                options(tmp_path, evidence_from=source, **{k: v for k, v in places.items() if k != absent})
            )
    names = {
        EvidenceSource.CONFIGFS: "configfs-tsm",
        EvidenceSource.COCO: "Confidential Containers",
        EvidenceSource.DSTACK: "dstack:",
    }
    assert names[source] in str(refusal.value)
    assert not any(names[other] in str(refusal.value) for other in others)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8006",
        "http://192.0.2.1:8006",
        "http://example.com",
        "https://127.0.0.1:8006",
        "http://127.0.0.1:8006/",
        "http://127.0.0.1:8006/api",
        "http://127.0.0.1:8006?a=b",
        "http://user@127.0.0.1:8006",
        "127.0.0.1:8006",
        "http://0.0.0.0:8006",
        "http://[::]:8006",
        "",
    ],
)
def test_the_api_of_confidential_containers_is_at_an_address_of_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="loopback address"):
        GuestOptions(coco_url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8006", "http://[::1]:8006", "http://127.0.0.2"])
def test_any_loopback_address_will_do(url: str) -> None:
    assert GuestOptions(coco_url=url).coco_url == url
