"""A bare report is shown, or judged by a policy, and never said to be an engine's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from attestation.cli.main import app
from attestation.collateral.store import Cache, Piece
from attestation.types import Collateral, Nonce
from tests.attestation import machines
from tests.attestation.gpu.forge import ROOTS as GPU_ROOTS
from tests.attestation.samples import NOW
from tests.attestation.snp.forge import MEASUREMENT
from tests.vectors import vector

pytestmark = pytest.mark.usefixtures("log", "logging_as_it_was")

PASSED, USAGE, REFUSED = 0, 2, 10
AT = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
NONCE = Nonce(bytes(32))
TCB = machines.AMD.policy().products[0].min_tcb
POLICY = f"""version = 1
[snp]
measurements = ["{MEASUREMENT.hex()}"]
[[snp.products]]
name = "Genoa"
min_tcb = {{ bootloader = {TCB.bootloader}, tee = {TCB.tee}, snp = {TCB.snp}, microcode = {TCB.microcode} }}
[gpu]
count = 1
architectures = ["HOPPER"]
driver_versions = ["590.12"]
vbios_versions = ["96.00.A5.00.01"]
[insecure_roots]
snp = {json.dumps(sorted(machines.AMD.roots.snp))}
gpu_device = {json.dumps(sorted(GPU_ROOTS.gpu_device))}
gpu_rim = {json.dumps(sorted(GPU_ROOTS.gpu_rim))}
"""


def _inspect(*arguments: str | Path, **variables: str) -> Result:
    environment = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb", **variables}
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], env=environment)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(machines.AMD.report())
    return path


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    path = tmp_path / "devices.json"
    path.write_bytes(machines.GPUS.answer(NONCE))
    return path


@pytest.fixture
def judging(tmp_path: Path) -> list[str]:
    """Options by which the forged machine is judged, with collateral from a cache."""
    cache = Cache(tmp_path / "collateral")
    pieces: Collateral = {**machines.AMD.collateral(machines.AMD.report()), **machines.GPUS.collateral()}
    for key, data in pieces.items():
        cache.put(key, Piece(data, NOW))
    (tmp_path / "policy.toml").write_text(POLICY)
    files = ["--policy", str(tmp_path / "policy.toml"), "--collateral-dir", str(tmp_path / "collateral")]
    return [*files, "--offline-collateral", "--at", AT]


def _checks(result: Result) -> Mapping[str, str]:
    return {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}


def test_a_report_is_shown_and_not_judged(report: Path) -> None:
    result = _inspect(report)
    assert result.exit_code == PASSED
    assert result.output.startswith("UNVERIFIED")
    assert MEASUREMENT.hex() in result.output
    assert "pass" not in result.output


def test_a_report_is_judged_by_a_policy_and_is_still_no_engine(report: Path, judging: list[str]) -> None:
    result = _inspect(report, *judging)
    assert result.exit_code == PASSED, result.output
    assert "INSECURE roots" in result.output
    assert "ACCEPTED" not in result.output
    assert "Whose keys it vouches for, and whether it is fresh, is open." in result.output
    found = json.loads(_inspect(report, *judging, "--json").stdout)
    assert (found["kind"], found["judged_at"], found["passed"]) == ("snp", AT, True)
    assert found["described"]["measurement"] == MEASUREMENT.hex()
    assert {check["name"] for check in found["checks"]} >= {"snp signature", "snp chain", "snp measurement"}


def test_a_report_outside_the_policy_is_refused_by_its_checks(tmp_path: Path, report: Path, judging: list[str]) -> None:
    report.write_bytes(machines.AMD.report(measurement=bytes(48)))
    result = _inspect(report, *judging, "--json")
    assert result.exit_code == REFUSED
    assert [name for name, status in _checks(result).items() if status == "fail"] == ["snp measurement"]
    assert "REFUSED" in _inspect(report, *judging).output


def test_devices_are_judged_over_the_nonce_that_they_say_they_answer(devices: Path, judging: list[str]) -> None:
    result = _inspect(devices, *judging, "--json")
    assert result.exit_code == PASSED, result.output
    assert _checks(result)["gpu nonce"] == "pass"
    assert json.loads(result.stdout)["kind"] == "devices"
    assert "GPU 0" in json.loads(result.stdout)["described"]


def test_what_the_policy_has_no_rules_for_is_refused(tmp_path: Path, devices: Path, judging: list[str]) -> None:
    (tmp_path / "quote").write_bytes(machines.INTEL.quote())
    assert _checks(_inspect(tmp_path / "quote", *judging, "--json")) == {"evidence kind": "fail"}
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY[: POLICY.index("[gpu]")])
    assert _checks(_inspect(devices, *judging, "--json")) == {"devices": "fail"}


def test_without_collateral_nothing_passes_in_its_place(report: Path, judging: list[str]) -> None:
    del judging[judging.index("--collateral-dir") : judging.index("--collateral-dir") + 2]
    result = _inspect(report, *judging, "--json")
    assert result.exit_code == REFUSED
    assert _checks(result)["snp vek"] == "fail"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    result = _inspect(tmp_path / "junk")
    assert (result.exit_code, result.stdout) == (REFUSED, "")


def test_a_report_of_azure_is_refused_by_its_name(report: Path) -> None:
    report.write_bytes(vector("snp/coco_azure_hcl_report.bin"))
    result = _inspect(report)
    assert (result.exit_code, result.stdout) == (REFUSED, "")
    assert "Azure is not supported" in result.output


@pytest.mark.parametrize("options", [["--at", "yesterday"], ["--policy", "none.toml"], ["--min-policy-version", "1"]])
def test_a_wrong_call_is_a_matter_of_usage(options: list[str], report: Path) -> None:
    assert _inspect(report, *options).exit_code == USAGE
    assert _inspect("none.bin").exit_code == USAGE
