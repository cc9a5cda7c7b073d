from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from structlog.testing import LogCapture

from attestation.attester import Attester, EvidenceDesk
from attestation.devices import AttachedDevices
from attestation.errors import EvidenceError, FetchError
from attestation.gpu.evidence import parse_devices
from attestation.machine import MachineAttester
from attestation.snp import appraise as snp
from attestation.snp.abi import Product, SigningKey
from attestation.snp.collateral import crl_key
from attestation.statement import gpu_nonce, report_data
from attestation.tdx import appraise as tdx
from attestation.types import CollateralKind, EvidenceKind, Nonce, ReportData, StatementBytes
from tests.attestation.fake_nvml import FakeLibrary, FakeNvml
from tests.attestation.fake_tsm import FakeKernel
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
    evidence = await MachineAttester(EvidenceKind.SNP, amd_kernel(tmp_path, amd), None).collect(DATA)
    collateral = {**evidence.collateral, crl_key(amd.signing, amd.product): amd.crl()}
    appraisal = snp.appraise(evidence.report, amd.policy(), collateral, roots=amd.roots, now=amd.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert {key.kind for key in evidence.collateral} == {CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN}


async def test_a_tdx_machine_gives_evidence_that_verifies(tmp_path: Path) -> None:
    evidence = await MachineAttester(EvidenceKind.TDX, intel_kernel(tmp_path), None).collect(DATA)
    appraisal = tdx.appraise(evidence.report, INTEL.policy(), INTEL.collateral(), roots=INTEL.roots, now=INTEL.now)
    assert [check for check in appraisal.checks if check.failed] == []
    assert appraisal.reported == DATA
    assert evidence.collateral == {}


async def test_the_desk_binds_devices_and_statement_through_the_machine(tmp_path: Path) -> None:
    machine: Attester = MachineAttester(EvidenceKind.SNP, amd_kernel(tmp_path), AttachedDevices(FakeNvml()))
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
            await MachineAttester(kind, tree, None).collect(DATA)


@KERNELS
@pytest.mark.parametrize("report", [b"", b"\x00", bytes(1184), bytes(5000)])
async def test_what_is_no_report_is_refused(tmp_path: Path, kind: EvidenceKind, kernel: Kernel, report: bytes) -> None:
    tree = kernel(tmp_path)
    tree._sign = lambda _inblob, _vmpl: report
    with pytest.raises(EvidenceError):
        await MachineAttester(kind, tree, None).collect(DATA)


async def test_a_machine_does_not_change_its_kind(tmp_path: Path) -> None:
    tree = amd_kernel(tmp_path)
    machine = MachineAttester(EvidenceKind.SNP, tree, None)
    await machine.collect(DATA)
    tree.provider = "tdx_guest"
    with pytest.raises(EvidenceError, match="snp evidence before, and tdx now"):
        await machine.collect(DATA)


async def test_a_driver_that_hangs_is_given_up(tmp_path: Path) -> None:
    tree, gate = amd_kernel(tmp_path), threading.Event()
    tree.before_read = lambda _request, _attribute: gate.wait()  # type: ignore[assignment]
    try:
        with pytest.raises(FetchError, match="configfs-tsm did not answer in time"):
            await MachineAttester(EvidenceKind.SNP, tree, None, deadline_s=0.05).collect(DATA)
    finally:
        gate.set()


# --- what the host delivers


async def test_no_table_is_no_collateral(tmp_path: Path) -> None:
    tree = amd_kernel(tmp_path)
    tree.table = b""
    assert (await MachineAttester(EvidenceKind.SNP, tree, None).collect(DATA)).collateral == {}


@pytest.mark.parametrize(
    "table", [b"\x01", bytes(23), certificate_table({"vcek": bytes(100_000)}), certificate_table({"vcek": b""})]
)
async def test_a_table_that_cannot_be_read_costs_its_certificates_and_nothing_else(
    tmp_path: Path, log: LogCapture, table: bytes
) -> None:
    tree = amd_kernel(tmp_path)
    tree.table = table
    evidence = await MachineAttester(EvidenceKind.SNP, tree, None).collect(DATA)
    assert evidence.collateral == {}
    assert [entry["event"] for entry in log.entries] == ["certificate_table_not_used"]


async def test_a_real_report_is_recognised_by_its_data(tmp_path: Path) -> None:
    report = vector("snp/ms_milan_report.bin")
    tree = FakeKernel(tmp_path, lambda _inblob, _vmpl: report)
    machine = MachineAttester(EvidenceKind.SNP, tree, None)
    assert (await machine.collect(ReportData(report[0x50:0x90]))).report == report
    with pytest.raises(EvidenceError, match="other report_data"):
        await machine.collect(DATA)


async def test_a_real_quote_is_recognised_by_its_data(tmp_path: Path) -> None:
    quote = vector("tdx/phala_v4_quote.bin")
    tree = FakeKernel(tmp_path, lambda _inblob, _vmpl: quote, provider="tdx_guest")
    machine = MachineAttester(EvidenceKind.TDX, tree, None)
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
    machine = await MachineAttester.open(kernel(tmp_path))
    assert machine.kind is kind
    assert await machine.collect_devices(NONCE) == b""
    await machine.admit_devices()


async def test_the_gpus_of_a_machine_are_found_and_admitted(tmp_path: Path, library: FakeLibrary) -> None:
    machine = await MachineAttester.open(amd_kernel(tmp_path))
    devices = parse_devices(await machine.collect_devices(NONCE))
    assert [gpu.evidence for gpu in devices.gpus] == [b"0report", b"1report"]
    assert library.accepting == 0
    await machine.admit_devices()
    assert library.accepting == 1


async def test_a_driver_of_gpus_that_does_not_answer_stops_the_search(tmp_path: Path, library: FakeLibrary) -> None:
    library.codes["nvmlInitWithFlags"] = pynvml.NVML_ERROR_NO_PERMISSION
    with pytest.raises(FetchError, match="Insufficient Permissions"):
        await MachineAttester.open(amd_kernel(tmp_path))


async def test_a_machine_without_a_tee_is_none(tmp_path: Path, library: FakeLibrary) -> None:
    tree = amd_kernel(tmp_path)
    tree.provider = "nobody"
    with pytest.raises(FetchError, match="provider"):
        await MachineAttester.open(tree)
